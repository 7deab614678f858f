"""The first of several storage targets that has what is wanted, and has it good: what one lacks, or holds damaged, another may give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from twist_dr.errors import (
    ArchiveInvalid,
    ArtifactInvalid,
    AuthenticationFailed,
    BackupError,
    BackupNotFound,
    EncryptionError,
    ManifestForeign,
    ManifestInvalid,
    ObjectCorrupt,
    ObjectMissing,
    StorageError,
    TwistDRError,
    WalInvalid,
    about,
)
from twist_dr.storage.base import StorageTarget

#: The copy itself is bad.
CORRUPT = (
    ArchiveInvalid,
    ArtifactInvalid,
    AuthenticationFailed,
    ManifestForeign,
    ManifestInvalid,
    ObjectCorrupt,
    ObjectMissing,
)
#: Another target may do better.
PASSED_OVER = (*CORRUPT, BackupNotFound, StorageError, WalInvalid)
#: The same where all that is read is a manifest: nothing of this machine can be the reason.
NO_MANIFEST = (BackupError, EncryptionError, StorageError)


class Place(Protocol):
    """Something of ours on a storage target: a repository, an archive, an object."""

    @property
    def target(self) -> StorageTarget: ...


P = TypeVar("P", bound=Place)
T = TypeVar("T")


def first_good(
    places: Iterable[P],
    work: Callable[[P], T],
    pass_over: Callable[[P, TwistDRError], None],
    *,
    errors: tuple[type[TwistDRError], ...] = PASSED_OVER,
) -> tuple[P, T] | None:
    """The first place with which the work succeeds, and its result; None without one. Work that failed must have left nothing.

    ``pass_over`` hears why of each other, before the next is tried: one of ``errors``, which names its target. What else is raised comes through.
    """
    for place in places:
        try:
            with about(place.target.name):
                return place, work(place)
        except errors as error:
            pass_over(place, error)
    return None


def told_by_all(errors: Iterable[TwistDRError]) -> str:
    """Why none could, as sentences."""
    return " ".join(f"{str(error).removesuffix('.')}." for error in errors)
