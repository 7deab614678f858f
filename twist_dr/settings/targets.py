"""Settings of storage targets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, SecretStr, Tag, model_validator

from twist_dr.engine.compression import Compression
from twist_dr.engine.durations import Duration
from twist_dr.engine.retention.model import Policy
from twist_dr.engine.streams import Form
from twist_dr.settings.values import (
    Section,
    SettingsPath,
    WebAddress,
)

#: One, or a list of them.
Policies = Annotated[
    Annotated[Policy, Tag("one")] | Annotated[list[Policy], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]


class _TargetSettings(Section):
    """What all targets have. ``objective``: how old the newest checked copy may be; ``retention``: what is kept, all unless given.

    ``warn_free``: the fraction of room below which there is an alert.
    """

    enabled: bool = True
    encrypt: bool = True
    compression: Compression = "zstd"
    objective: Duration | None = None
    retention: Policies | None = None
    warn_free: float = Field(0.1, ge=0, lt=1)

    @property
    def policies(self) -> list[Policy]:
        """The retention policies of this target; none: nothing is ever deleted."""
        if self.retention is None:
            return []
        return self.retention if isinstance(self.retention, list) else [self.retention]

    @property
    def form(self) -> Form:
        """How this target keeps bytes."""
        return Form(self.compression, self.encrypt)


class LocalTargetSettings(_TargetSettings):
    """A folder on this machine."""

    type: Literal["local"]
    path: SettingsPath


class NasTargetSettings(_TargetSettings):
    """A folder on a mounted file system (NFS, SMB). Refused while the mount is not there."""

    type: Literal["nas"]
    path: SettingsPath
    mount_point: SettingsPath | None = None
    timeout_seconds: float = Field(30, gt=0)


class S3TargetSettings(_TargetSettings):
    """A bucket on S3 or a look-alike (R2, B2, MinIO). ``endpoint_url`` is left out for AWS."""

    type: Literal["s3"]
    bucket: str = Field(min_length=3)
    prefix: str = Field("", pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$")
    endpoint_url: WebAddress | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    path_style: bool | None = None
    checksum: Literal["auto", "server", "read-back"] = "auto"
    part_size_mib: int = Field(64, ge=5, le=5120)
    connections: int = Field(4, ge=1, le=64)
    storage_class: str | None = None
    server_side_encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None
    object_lock_days: int | None = Field(None, ge=1)
    object_lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE"

    @model_validator(mode="after")
    def _pairs(self) -> S3TargetSettings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(
                "access_key_id and secret_access_key together, or neither (then boto3's usual sources are used)"
            )
        if self.kms_key_id is not None and self.server_side_encryption != "aws:kms":
            raise ValueError("server_side_encryption: aws:kms beside kms_key_id")
        return self


TargetSettings = Annotated[LocalTargetSettings | NasTargetSettings | S3TargetSettings, Field(discriminator="type")]
