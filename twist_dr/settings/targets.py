"""Settings of storage targets."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, create_model, model_validator

from twist_dr.repository.compression import HIGHEST, SUFFIXES, Compression
from twist_dr.repository.streams import Form
from twist_dr.settings.policy import ArchivePolicy, Policy
from twist_dr.storage.limits import Rates
from twist_dr.storage.options import TargetOptions, providers
from twist_dr.system.durations import Duration

#: One, or a list of them.
Policies = Annotated[
    Annotated[Policy, Tag("one")] | Annotated[list[Policy], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
]


_PACKINGS = (
    f"zstd, gzip or none, with a level if you like: zstd:1 to zstd:{HIGHEST['zstd']}, gzip:1 to gzip:{HIGHEST['gzip']}"
)


def _packing(value: Any) -> tuple[Compression, int]:
    """Compression and level of a setting such as ``zstd:9``; level 0 where it names none."""
    name, colon, level = str(value).partition(":")
    compression = next((each for each in SUFFIXES if each == name), None)
    if compression is None or (colon and not (level.isascii() and level.isdigit())):
        raise ValueError(_PACKINGS)
    if colon and not 1 <= int(level[:4]) <= HIGHEST.get(compression, 0):
        raise ValueError(_PACKINGS)
    return compression, int(level or 0)


def _canonical(value: Any) -> str:
    compression, level = _packing(value)
    return f"{compression}:{level}" if level else compression


class TargetSettings(TargetOptions):
    """What all targets have, beside the options of their provider."""

    enabled: bool = True
    encrypt: bool = True
    #: Confirms ``encrypt: false`` on a consumer drive.
    accept_unencrypted: bool = False
    #: ``zstd``, ``gzip:6``, ``none``; without a level that of ``backup.compression_level``.
    compression: Annotated[str, BeforeValidator(_canonical)] = "zstd"
    #: How old the newest checked copy may be.
    objective: Duration | None = None
    #: What is kept, all unless given.
    retention: Policies | None = None
    #: When what is kept moves to another target, never unless given.
    archive: ArchivePolicy | None = None
    #: How fast bytes go there, in MiB per second: one number, or several for hours of the day in the schedules' time zone.
    max_mib_per_second: Rates = ()
    #: Whether what is read from there (restores, verifications, the check after storing) keeps within it, too.
    limit_reading: bool = False
    #: In the place of ``wal.bundle_seconds``, for a target of any kind.
    wal_bundle_seconds: int | None = Field(None, ge=0)
    #: Whether write-ahead log goes there. Without, base backups there have what of it they need to be restored to their own end, and no more.
    wal: bool = True
    #: The fraction of space below which there is an alert.
    warn_free: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _encrypted_on_a_drive(self) -> TargetSettings:
        if self.consumer and not self.encrypt and not self.accept_unencrypted:
            raise ValueError(
                f"encrypt: true, since whoever gets at that {self.type} account, or at a link to a folder of it, reads the whole database; or "
                "accept_unencrypted: true beside encrypt: false"
            )
        return self

    @model_validator(mode="after")
    def _no_window_without_wal(self) -> TargetSettings:
        if not self.wal and any(policy.wal is not None for policy in self.policies):
            raise ValueError("no wal in its retention beside wal: false, which keeps write-ahead log off it")
        return self

    @property
    def policies(self) -> list[Policy]:
        """The retention policies of this target; none: nothing is ever deleted."""
        if self.retention is None:
            return []
        return self.retention if isinstance(self.retention, list) else [self.retention]

    def form_beside(self, usual: int) -> Form:
        """How this target keeps bytes, where ``usual`` is the level of targets that name none: those that come to one level share the bytes."""
        compression, level = _packing(self.compression)
        is_usual = level == min(usual, HIGHEST.get(compression, 0))
        return Form(compression, self.encrypt, 0 if is_usual else level)


def _with_common(provider: type[TargetOptions]) -> type[TargetSettings]:
    name = provider.__name__.replace("Options", "TargetSettings")
    return create_model(
        name,
        __base__=(cast(type[TargetSettings], provider), TargetSettings),
        __doc__=provider.__doc__,
        __module__=__name__,
    )


if TYPE_CHECKING:
    AnyTarget = TargetSettings
else:
    #: The settings of a target of any provider.
    AnyTarget = Annotated[reduce(or_, map(_with_common, providers().values())), Field(discriminator="type")]
