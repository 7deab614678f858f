"""The errors that a person meets, as data.

Everything that twist-dr raises on purpose is a :class:`TwistDRError`; anything else is a defect. Each kind has a code that stays as it is
(``docs/errors.md`` lists them), and says what happened, what to do, and which storage target it is about; the sentence is made of
these here alone. Whoever needs one of them takes the field: no sentence is ever taken apart again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from twist_dr.redaction import leaving

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
#: A command or an address to copy stands last after a colon and a blank: a full stop would be copied with it.
_COPIED = re.compile(r": [^;:]*[^.;: ]$")


def _joined(what: str, remedy: str | None) -> str:
    return f"{what.removesuffix('.')}; {remedy}" if remedy else what


def sentence(what: str, remedy: str | None = None, target: str | None = None) -> str:
    """``nas: the folder is gone; mount it again.``"""
    told = _joined(what, remedy)
    if remedy and not told.endswith((".", "?", "!")) and not _COPIED.search(remedy):
        told += "."
    return f"{target}: {told}" if target else told


def code_named(name: str) -> str:
    """The code of a class of errors of that name, ours or another's."""
    return _WORD.sub("_", name).lower()


class TwistDRError(Exception):
    """Any other error that twist-dr raises on purpose.

    What errors say may leave us: no secret that is known stays in it. ``what`` happened and to what, in a clause; ``remedy`` is what a person does next, ``None`` where nothing can be said; ``target`` is the storage target that it is about,
    which ``what`` then does not name again. The first paragraph at a class is what ``docs/errors.md`` says of its code.
    """

    #: What programs, the catalog and the documents know this kind by: its name in small letters. It never changes its meaning.
    code: ClassVar[str] = "twist_dr_error"
    #: Whether the same attempt may succeed a little later without anybody doing anything.
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = code_named(cls.__name__)

    def __init__(self, what: str = "", *, remedy: str | None = None, target: str | None = None) -> None:
        super().__init__(leaving(what))
        self._what, self._remedy, self.target = leaving(what), remedy and leaving(remedy), target

    # Hidden once more when asked: some are made before those who bring a secret have said so.
    @property
    def what(self) -> str:
        return leaving(self._what)

    @property
    def remedy(self) -> str | None:
        return self._remedy and leaving(self._remedy)

    @property
    def clause(self) -> str:
        """What happened and what to do, without the storage target: for those who name that themselves."""
        return sentence(self.what, self.remedy)

    def __str__(self) -> str:
        return leaving(sentence(self._what, self._remedy, self.target))


def code_of(error: BaseException) -> str:
    """The code of any error: that of one that is not ours is made of its name in the same way."""
    return error.code if isinstance(error, TwistDRError) else code_named(type(error).__name__)


def clause_of(error: BaseException) -> str:
    """What to say of any error behind a storage target's name."""
    return error.clause if isinstance(error, TwistDRError) else str(error) or type(error).__name__


class Obstacle(str):
    """Why something cannot be done, found before it is tried: half a sentence for people, and its halves for those who show each in its place."""

    what: str
    remedy: str | None

    def __new__(cls, what: str, remedy: str | None = None) -> Obstacle:
        made = super().__new__(cls, _joined(what, remedy))
        made.what, made.remedy = what, remedy
        return made


@contextmanager
def about(target: str) -> Iterator[None]:
    """What is read inside lies on a storage target: errors about it name the target, unless they name one, or are about a disk of this machine."""
    try:
        yield
    except (StagingFull, SourceUnreadable):
        raise
    except (BackupError, AuthenticationFailed, StorageError, WalInvalid) as error:
        error.target = error.target or target
        raise


class SettingsError(TwistDRError):
    """twist-dr.yaml or an option is wrong. The message lists every mistake at once."""


class Busy(TwistDRError):
    """Another operation on the same application is going on."""


class LaunchRefused(TwistDRError):
    """A launch asks for what there is not: a part, a storage target, a number. Nothing was begun."""


class PermissionMissing(LaunchRefused):
    """Who asks may not launch this. Nothing was begun."""


class Cancelled(TwistDRError):
    """The operation was asked to stop; what it had begun was removed."""


# -- keys and encrypted streams ---------------------------------------------------------------------------------------


class EncryptionError(TwistDRError):
    """Any other error about keys and encrypted streams."""


class KeyringInvalid(EncryptionError):
    """The keyring is missing, unreadable or not a keyring."""


class KeyMissing(EncryptionError):
    """The keyring lacks the key that a backup names."""


class WrongKey(EncryptionError):
    """The keyring has a key of the right name but with other bytes."""


class SecretsInvalid(EncryptionError):
    """The secrets file is damaged, altered, of another application, cannot be read or written, or others may read it."""


class SecretMissing(EncryptionError):
    """The secrets file has no secret of this name, or is not there."""


class AuthenticationFailed(EncryptionError):
    """Encrypted bytes were truncated, altered, swapped with another file's, or written with another key."""


#: The remedy where one copy is bad.
FROM_ANOTHER = "take the backup from another storage target"

# -- backups ----------------------------------------------------------------------------------------------------------


class BackupError(TwistDRError):
    """Any other error about making or reading a backup."""


class BackupNotFound(BackupError):
    """No such backup where it was looked for."""


class ManifestInvalid(BackupError):
    """A manifest is truncated, altered, or not a manifest."""


class ManifestForeign(BackupError):
    """A manifest belongs to another application or another backup than the place where it lies says."""


class ManifestTooNew(BackupError):
    """A manifest was written in a newer major format than this version reads."""


class ArtifactInvalid(BackupError):
    """An artifact's bytes are not what the manifest recorded."""


class ArchiveInvalid(BackupError):
    """A tar archive is damaged, or has an entry that leads outside."""


class SourceUnreadable(BackupError):
    """A media or configuration file could not be read."""


class StagingFull(BackupError):
    """The disk for staging has not enough space."""


class CopyFailed(BackupError):
    """At least one storage target lacks the backup; the others have it."""


class CopyFailedForNow(CopyFailed):
    """All storage targets that lack the backup may be there again in a moment."""

    retryable = True


class VerificationFailed(BackupError):
    """A restored backup differs from what was recorded when it was taken, or could not be restored."""


# -- restores ---------------------------------------------------------------------------------------------------------


class RestoreError(TwistDRError):
    """Any other error about restores and their undoing."""


class RestoreRefused(RestoreError):
    """The gate is shut: the message names every reason. Nothing was changed, and nothing fetched."""

    #: Each of several reasons.
    obstacles: Sequence[Obstacle] = ()

    @classmethod
    def by(cls, obstacles: Sequence[Obstacle], what: str) -> RestoreRefused:
        refused = cls(f"{what}: {'; '.join(obstacles)}.")
        refused.obstacles = tuple(obstacles)
        return refused


class RestoreUnconfirmed(RestoreRefused):
    """Nothing but the confirmation is missing: the message says what would be done. Nothing was changed."""


class RestoreFailed(RestoreError):
    """The restored database or files are not what the backup recorded, or could not be made. They are removed again; the live system is as it was."""


class CutoverFailed(RestoreError):
    """The restored database could not be switched in. What was live is live again."""


class RestoreUndone(RestoreError):
    """The application was not healthy after the cutover, so what was live before is live again."""


class RestoreInterrupted(RestoreError):
    """A restore was cut short and cannot be finished or reverted now; the message says what is in the way."""


# -- write-ahead log --------------------------------------------------------------------------------------------------


class WalError(TwistDRError):
    """Any other error about archived write-ahead log."""


class WalInvalid(WalError):
    """A file is not the segment that its name says: zeros, truncated, another segment's or another cluster's bytes."""


class WalConflict(WalError):
    """A storage target holds other bytes under a segment's name: two servers wrote the same timeline."""


class WalMissing(WalError):
    """No storage target has a segment or history file that is needed."""


class WalNotShipped(WalError):
    """At least one storage target lacks WAL that it should have by now."""

    retryable = True


class WalReceiverStopped(WalError):
    """WAL cannot be received: the slot is lost, the server keeps too little, or it is another cluster."""


class RecoveryPointInvalid(WalError):
    """What a recovery should aim at cannot be read, or does not exist in the archive; the message says what can be recovered."""


class BaseBackupMissing(RecoveryPointInvalid):
    """No storage target that answers holds the base backup that a recovery would begin with."""


class WalVanished(RecoveryPointInvalid):
    """The latest state is an older one than is known to have been archived: write-ahead log is gone. A person may accept that."""


class RecoveryFailed(WalError):
    """A recovered server is not what was planned, or could not be made. It was not promoted; nothing live was changed."""


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


class DatabaseError(TwistDRError):
    """Any other error about a PostgreSQL server, the application's as a rule."""


class DatabaseUnreachable(DatabaseError):
    """No answer from the server: it is down, starting, full, or not where we look."""

    retryable = True


class DatabaseRefused(DatabaseError):
    """The server answers and does not let us in: wrong password, role or database name, or pg_hba.conf."""


class DatabaseGone(DatabaseRefused):
    """The server lets us in, and has no such database: it was dropped, or the server is a new one."""


class DatabaseRightsMissing(DatabaseError):
    """The role may not read all that a full backup needs, above all past row-level security."""


class ClientToolsMissing(DatabaseError):
    """No PostgreSQL client tools, or none as new as the server."""


class IsolationMissing(DatabaseError):
    """A server with the database's own code cannot be kept away from what is not its own here, and the settings ask for that."""


class LockTimeout(DatabaseError):
    """Another session, or a prepared transaction, holds a lock that we need and has not given it up in time."""

    retryable = True


class ProcessFailed(DatabaseError):
    """A PostgreSQL program ended with an error, or wrote less than it must."""

    #: What the program said last, as it said it; empty where it did not come to speak.
    said: str = ""


class DiskFilled(ProcessFailed):
    """A disk that a PostgreSQL program or its server writes to filled up."""


class LocksExhausted(ProcessFailed):
    """The server has no space for another lock."""


# -- storage targets --------------------------------------------------------------------------------------------------


class StorageError(TwistDRError):
    """Any other error about a storage target."""


class TargetUnavailable(StorageError):
    """The target is not there now: unmounted, unreachable, no such bucket or folder."""

    retryable = True


class TargetBusy(TargetUnavailable):
    """The target asks for fewer requests, or has a fault of its own. It was asked several times, with growing pauses."""


class TargetDailyLimit(TargetUnavailable):
    """The target takes no more bytes today. Tomorrow's backup goes on with what lacks."""

    retryable = False


class RcloneMissing(StorageError):
    """The program rclone, which the target needs, is not installed, does not start, or is too old."""


class TargetRefused(StorageError):
    """The target refuses what is asked of it: read-only, locked, missing permission, something else where an object should be."""


class ObjectArchived(StorageError):
    """An object is in an archive storage class, and must be restored in the store before it can be read."""


class ObjectTooLarge(TargetRefused):
    """An object is larger than the target takes. Nothing was sent."""


class KeyTooLong(TargetRefused):
    """An object's name with the folders before it is longer than the target takes. Nothing was sent."""


class KeyClash(TargetRefused):
    """The target has an object whose name differs in the case of letters only, and takes both for one. Nothing was sent."""


class CredentialsRefused(TargetRefused):
    """The target does not accept the credentials, or they lack a right there."""


class TargetReauthorize(CredentialsRefused):
    """The owner's grant for a drive has ended, was revoked or was never given. twist-dr targets authorize renews it."""


class TargetFull(StorageError):
    """The target has no space left."""


class ObjectMissing(StorageError):
    """No object under this key."""


class ObjectExists(StorageError):
    """There is an object under this key with other bytes; objects are written once and never changed."""


class ObjectCorrupt(StorageError):
    """An object's bytes are not those that were stored, or the target cannot tell."""
