"""What the settings say of a target on S3 or a look-alike; the target itself is in ``s3_target.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field, SecretStr, model_validator

from twist_dr.errors import SettingsError
from twist_dr.storage.options import PREFIX_WORDS, TargetOptions, WebAddress, spelled
from twist_dr.storage.target_url import split_url

if TYPE_CHECKING:
    from twist_dr.storage.machine import Machine
    from twist_dr.storage.s3_target import S3Target

_IN_URLS = ("endpoint_url", "region")
_CREDENTIALS = "put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into ~/.aws: arguments can be read by everybody on this machine"


class S3Options(TargetOptions):
    """A bucket on S3 or a look-alike (R2, B2, MinIO), or the part of one below ``prefix``. ``endpoint_url`` is left out for AWS.

    Without keys the machine's own credentials are used (environment, profile, instance role). ``checksum``: ``server`` trusts the store's SHA-256
    once it was seen to refuse a wrong one, ``read-back`` reads every object again, ``auto`` is ``server`` on AWS and ``read-back`` elsewhere. Objects
    larger than ``part_size_mib`` go in parts over ``connections``. ``object_lock_days``: no object can be deleted for so long.
    """

    asset_kind: ClassVar[str] = "s3"
    has_storage_classes: ClassVar[bool] = True
    scheme: ClassVar[str | None] = "s3"
    url_form: ClassVar[str] = "s3://BUCKET/PREFIX"
    credentials_remedy: ClassVar[str] = (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, allow them s3:ListBucket and s3:GetObject there"
    )

    type: Literal["s3"]
    bucket: str = Field(min_length=3)
    prefix: Annotated[str, spelled(r"([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?", PREFIX_WORDS)] = ""
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
    def _pairs(self) -> S3Options:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(
                "access_key_id and secret_access_key together, or neither (then boto3's usual sources are used)"
            )
        if self.kms_key_id is not None and self.server_side_encryption != "aws:kms":
            raise ValueError("server_side_encryption: aws:kms beside kms_key_id")
        return self

    @property
    def place(self) -> tuple[str, str, str]:
        return (self.endpoint_url or "").rstrip("/").lower(), self.bucket, self.prefix

    @property
    def called(self) -> str:
        return f"s3://{self.bucket}"

    @classmethod
    def of_url(cls, url: str) -> dict[str, Any]:
        parts, parameters = split_url(
            url, "s3://BUCKET/PREFIX?endpoint_url=...&region=...", _IN_URLS, _CREDENTIALS, user=False
        )
        if "@" in parameters.get("endpoint_url", ""):
            raise SettingsError("--from-target has a user or password in its URL", remedy=_CREDENTIALS)
        return {"bucket": parts.netloc, "prefix": unquote(parts.path).strip("/"), **parameters}

    def build(self, name: str, machine: Machine) -> S3Target:
        # Not above: all providers are loaded with the settings, and few of them are used.
        from twist_dr.storage.s3_target import S3Target

        return S3Target(name, self, notes=machine.folder / "uploads")
