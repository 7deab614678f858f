"""The errors that a person meets.

Each message says in one sentence what happened and to what, and then what to do next. None carries a secret.
Everything that twist-dr raises on purpose is a :class:`TwistDRError`; anything else is a defect.
"""

from __future__ import annotations

from typing import ClassVar

from twist_dr.redaction import leaving


class TwistDRError(Exception):
    """Base of all errors that twist-dr raises on purpose. What they say may leave us: no secret that is known stays in it."""

    #: Whether the same attempt may succeed a little later without anybody doing anything.
    retryable: ClassVar[bool] = False

    def __init__(self, *words: object) -> None:
        super().__init__(*(leaving(word) if isinstance(word, str) else word for word in words))

    def __str__(self) -> str:
        # Once more: some are made before those who bring a secret have said so.
        return leaving(super().__str__())


class SettingsError(TwistDRError):
    """twist-dr.yaml or an option is wrong. The message lists every mistake at once."""


class Busy(TwistDRError):
    """Another operation on the same application is going on."""


class LaunchRefused(TwistDRError):
    """A launch asks for what there is not: a part, a storage target, a number. Nothing was begun."""


class Cancelled(TwistDRError):
    """The operation was asked to stop; what it had begun was removed."""


# -- keys and encrypted streams ---------------------------------------------------------------------------------------


class EncryptionError(TwistDRError):
    """Base of all errors about keys and encrypted streams."""


class KeyringInvalid(EncryptionError):
    """The keyring is missing, unreadable or not a keyring."""


class KeyMissing(EncryptionError):
    """The keyring lacks the key that a backup names."""


class WrongKey(EncryptionError):
    """The keyring has a key of the right name but with other bytes."""


class AuthenticationFailed(EncryptionError):
    """Encrypted bytes were truncated, altered, swapped with another file's, or written with another key."""


# -- backups ----------------------------------------------------------------------------------------------------------


class BackupError(TwistDRError):
    """Base of all errors about making or reading a backup."""


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
    """The disk for staging has not enough room."""


class CopyFailed(BackupError):
    """At least one storage target lacks the backup; the others have it."""


class CopyFailedForNow(CopyFailed):
    """All storage targets that lack the backup may be there again in a moment."""

    retryable = True


class VerificationFailed(BackupError):
    """A restored backup differs from what was recorded when it was taken, or could not be restored."""


# -- restores ---------------------------------------------------------------------------------------------------------


class RestoreError(TwistDRError):
    """Base of all errors about restores and their undoing."""


class RestoreRefused(RestoreError):
    """The gate is shut: the message names every reason. Nothing was changed, and nothing fetched."""


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
    """Base of all errors about archived write-ahead log."""


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


class WalVanished(RecoveryPointInvalid):
    """The latest state is an older one than is known to have been archived: write-ahead log is gone. A person may accept that."""


class RecoveryFailed(WalError):
    """A recovered server is not what was planned, or could not be made. It was not promoted; nothing live was changed."""


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


class DatabaseError(TwistDRError):
    """Base of all errors about the application's PostgreSQL server."""


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


# -- storage targets --------------------------------------------------------------------------------------------------


class StorageError(TwistDRError):
    """Base of all errors about a storage target."""


class TargetUnavailable(StorageError):
    """The target is not there now: unmounted, unreachable, no such bucket or folder."""

    retryable = True


class TargetRefused(StorageError):
    """The target refuses us: wrong credentials, missing permission, read-only."""


class TargetFull(StorageError):
    """The target has no room left."""


class ObjectMissing(StorageError):
    """No object under this key."""


class ObjectExists(StorageError):
    """There is an object under this key with other bytes; objects are written once and never changed."""


class ObjectCorrupt(StorageError):
    """An object's bytes are not those that were stored, or the target cannot tell."""
