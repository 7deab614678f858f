"""The backups that a target holds, told by themselves: no catalog is asked."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from twist_dr.errors import BackupError, BackupNotFound, EncryptionError, ObjectCorrupt, ObjectMissing, TwistDRError
from twist_dr.redaction import one_line
from twist_dr.repository.keys import Keyring
from twist_dr.repository.labels import SET_ASIDE, is_meant, split_label
from twist_dr.repository.manifest import Kind, Label, Manifest, kind_of
from twist_dr.repository.repository import Repository
from twist_dr.retention.incomplete import id_time
from twist_dr.system.progress import Report, human_bytes
from twist_dr.system.tables import table
from twist_dr.system.words import counted

#: So much may a clock have been ahead of this one's.
_CLOCKS = timedelta(days=1)
#: Manifests read side by side: over a network each takes its time.
_AT_ONCE = 8


@dataclass(frozen=True)
class Found:
    """One backup on the target. Without ``problem`` it is whole: everything is there, in the recorded sizes.

    ``manifest`` is None where it is missing or cannot be authenticated; ``sealed`` is False where there is none at all.
    """

    backup_id: str
    manifest: Manifest | None
    problem: str | None = None
    sealed: bool = True

    @property
    def state(self) -> str:
        if self.problem is None:
            return "whole"
        return "NOT WHOLE" if self.manifest else "NOT READABLE" if self.sealed else "never finished"


def find_backups(repository: Repository, keyring: Keyring) -> list[Found]:
    """All backups of the application, newest first. Raises storage errors when the target cannot be asked.

    Their manifests are for a list: without tables and migrations, or those of a thousand backups would fill the memory.
    """

    def find(backup_id: str) -> Found:
        found = find_backup(repository, keyring, backup_id)
        listed = found.manifest and found.manifest.model_copy(update={"tables": {}, "migrations": {}})
        return replace(found, manifest=listed)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(find, reversed(repository.backup_ids())))


def find_backup(repository: Repository, keyring: Keyring, backup_id: str) -> Found:
    """One backup. What is wrong with it is told in the result; what is wrong with the target raises."""
    try:
        manifest = repository.manifest(backup_id, keyring)
    except BackupNotFound:
        return Found(backup_id, None, "it has no manifest: it was never finished, or somebody removed it", sealed=False)
    except (BackupError, EncryptionError) as error:
        return Found(backup_id, None, str(error))
    try:
        repository.held(manifest)
    except (ObjectCorrupt, ObjectMissing) as error:
        return Found(backup_id, manifest, str(error))
    return Found(backup_id, manifest)


def choose_backup(repository: Repository, keyring: Keyring, wanted: str, report: Report) -> Manifest:
    """The manifest of ``latest`` (a full backup), of ``latest-configuration``, of an id or of the only id that begins so. ``latest:LABEL`` is the newest of
    that label; without one, what a restore was about to replace is passed over, and said.

    Raises ``BackupNotFound``, and what :meth:`Repository.manifest` raises. An older backup is never taken by itself: how
    much may be lost is for a person to say. Only what cannot have been a backup is passed over, and said.
    """
    ids = repository.backup_ids()
    where = f"{repository.target.name} holds"
    word, label = split_label(wanted)
    if word == "latest":
        newest = _newest(repository, keyring, "full", report, label)
        if newest is None:
            bases = (
                ", but base backups: name one of them, or recover with --to"
                if repository.latest("base")
                else "; name another target"
            )
            which = (
                f" labelled {label}"
                if label
                else f" that is not labelled {SET_ASIDE} (latest:{SET_ASIDE} is the newest of these)"
            )
            raise BackupNotFound(f"{where} no full backup of {repository.application} that was finished{which}{bases}.")
        return newest
    if word == "latest-configuration":
        newest = _newest(repository, keyring, "configuration", report, label)
        if newest is None:
            raise BackupNotFound(
                f"{where} no configuration backup of {repository.application} that was finished: a full backup has the configured files, too."
            )
        return newest
    fitting = [wanted] if wanted in ids else [each for each in ids if wanted and each.startswith(wanted)]
    if len(fitting) > 1:
        raise BackupNotFound(
            f"{where} {counted(len(fitting), 'backup')} that begin with {wanted}", remedy="name one of them whole"
        )
    if not fitting or not repository.has_manifest(fitting[0]):
        raise BackupNotFound(
            f"{where} no backup {wanted} of {repository.application}",
            remedy="see what there is with the same command without --backup and --check",
        )
    return repository.manifest(fitting[0], keyring)


def _newest(
    repository: Repository, keyring: Keyring, kind: Kind, report: Report, label: Label | None
) -> Manifest | None:
    """The newest finished backup of a kind; ``label`` as in ``is_meant``. Raises what its manifest raises, with the newest that is authentic in its words.

    No catalog tells whether one that is not authentic was put there or damaged. But what is dated in the future was never taken.
    """
    first: TwistDRError | None = None
    soon = datetime.now(timezone.utc) + _CLOCKS
    for backup_id in reversed(repository.backup_ids()):
        if kind_of(backup_id) != kind:
            continue
        try:
            manifest = repository.manifest(backup_id, keyring)
        except BackupNotFound:  # never finished
            continue
        except (BackupError, EncryptionError) as error:
            if id_time(backup_id) > soon:
                report.warning(f"passed over {backup_id}, which is dated in the future: {error}")
            else:
                first = first or error
            continue
        if not is_meant(manifest.label, label):
            if label is None:
                report.warning(
                    f"passed over {backup_id}, labelled {manifest.label}: it holds what a restore was about to replace; its id names it"
                )
            continue
        if first is not None:
            raise type(first)(
                f"{first.clause} An older backup is not taken by itself",
                remedy=f"the newest one here that is authentic is {backup_id}: name it in the place of latest",
                target=first.target,
            )
        return manifest
    if first is not None:
        raise first
    return None


def found_table(found: Sequence[Found]) -> str:
    """One line per backup, and below them a sentence for each that is not whole."""
    head = ("BACKUP", "LABEL", "TAKEN (UTC)", "APPLICATION", "POSTGRESQL", "SIZE", "STATE")
    return with_problems(table(head, [_line(each) for each in found]), found)


def with_problems(text: str, found: Sequence[Found]) -> str:
    """A table, and below it a sentence for each backup that is not whole."""
    problems = [f"{each.backup_id}: {one_line(each.problem)}" for each in found if each.problem]
    return "\n".join([text, *([""] if problems else []), *problems])


def _line(found: Found) -> tuple[str, ...]:
    manifest = found.manifest
    if manifest is None:
        return (found.backup_id, "-", "-", "-", "-", "-", found.state)
    return (
        found.backup_id,
        manifest.label,
        f"{taken_at(manifest):%Y-%m-%d %H:%M}",
        manifest.app_version or "-",
        manifest.postgres.version if manifest.postgres else "-",
        human_bytes(manifest.plain_bytes),
        found.state,
    )


def found_document(found: Found) -> dict[str, Any]:
    """One backup for ``--json``: times in ISO 8601, sizes in bytes."""
    manifest = found.manifest
    document: dict[str, Any] = {"backup_id": found.backup_id, "whole": not found.problem, "problem": found.problem}
    if manifest is not None:
        document |= {
            "kind": manifest.kind,
            "label": manifest.label,
            "reason": manifest.reason,
            "taken_at": taken_at(manifest).isoformat(),
            "app_version": manifest.app_version,
            "db_schema_version": manifest.db_schema_version,
            "postgres_version": manifest.postgres.version if manifest.postgres else None,
            "plain_bytes": manifest.plain_bytes,
            "parts": manifest.parts,
            "key": manifest.key.id,
        }
        if manifest.base is not None:
            document["base"] = manifest.base.model_dump(
                mode="json", include={"type", "parent", "chain", "timeline", "start_lsn", "stop_lsn", "stopped_at"}
            )
    return document


def taken_at(manifest: Manifest) -> datetime:
    """The moment whose data the backup holds."""
    return manifest.snapshot_at or manifest.started_at
