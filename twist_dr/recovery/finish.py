"""A data folder made ready on a recovery host, for the day the server is gone: recovered, proved, and left for ``pg_ctl start``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import RecoveryFailed
from twist_dr.postgres.confinement import Confinement, Isolation
from twist_dr.postgres.server_user import some_server_user
from twist_dr.postgres.unprivileged import (
    give_tree,
    may_enter,
    reachable_base,
    socket_folder,
    unprivileged,
)
from twist_dr.recovery.files import sync_folder
from twist_dr.recovery.recover import Recovered, recovered_in
from twist_dr.recovery.server_settings import BASES_OWN_SETTINGS, new_file
from twist_dr.recovery.untar import Owner
from twist_dr.repository.sources import Sources
from twist_dr.system.documents import DocumentInvalid, read_file

if TYPE_CHECKING:
    from twist_dr.recovery.planning import PlannedRecovery

#: Settings of ALTER SYSTEM that aim at the server that is gone, or at what it was told about its standbys.
_AIMED = re.compile(
    r"(archive_|recovery_|restore_command|primary_|synchronous_standby_names|standby_|promote_trigger|hot_standby)"
)
_ELSEWHERE = re.compile(r"^\s*(data_directory|hba_file|ident_file|external_pid_file|include\w*)\b", re.MULTILINE)
#: A restored cluster must not archive where the old one did, nor wait for standbys that are gone.
_DELIBERATE = {"archive_mode": "off", "synchronous_standby_names": "", "primary_conninfo": "", "restore_command": ""}
_HBA = "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"


#: Bytes. A postgresql.conf with all its comments has 30 KB.
_MOST_SETTINGS = 1 << 20


def finish_cluster(
    planned: PlannedRecovery,
    sources: Sequence[Sources],
    folder: Path,
    scratch: Path,
    *,
    isolation: Isolation = "required",
) -> Recovered:
    """Make ``<folder>/data`` (and ``<folder>/tablespaces``): recovered, proved, promoted, shut down cleanly, durable.

    ``folder`` is new or empty, and empty again when this fails; whoever is killed leaves what has to be removed. As root, all
    belongs to the user postgres. ``scratch``: for a copy of PostgreSQL's programs, where that user cannot run them as they
    are. Raises as :func:`~twist_dr.recovery.recover.recover` does.
    """
    owner, confined = Owner(*unprivileged()), some_server_user()
    folder = folder.absolute()
    folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if confined is not None and not may_enter(folder.parent, confined):
        raise RecoveryFailed(
            f"The user that PostgreSQL runs as cannot get to {folder}",
            remedy="choose a folder whose parents every user may go through",
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    if any(folder.iterdir()):
        raise RecoveryFailed(f"{folder} is not empty", remedy="choose a new folder, or move away what is in it")
    planned = planned.reachable_for(confined, reachable_base(scratch, confined))
    try:
        # Nothing is made durable on the way: all of it is at the end, before anybody is told that it is there.
        with (
            Confinement(folder.parent, isolation) as confinement,
            recovered_in(folder, planned, sources, confinement, durable=False) as recovered,
        ):
            least = recovered.server.least_settings
            recovered.stop()
        recovered.notes = leave_for_pg_ctl(recovered.data, least, owner)
        for name in ("ready", "settings"):
            shutil.rmtree(folder / name, ignore_errors=True)
        if owner.user is not None:
            give_tree(folder, owner.user, -1 if owner.group is None else owner.group)
            folder.chmod(0o700)
        sync_folder(folder)
    except BaseException:
        for left in folder.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(socket_folder(folder), ignore_errors=True)
        raise
    return recovered


def leave_for_pg_ctl(data: Path, least: Mapping[str, int], owner: Owner) -> list[str]:
    """Put the base's own settings back, without those that aim at other servers; returns what to know before a start."""
    notes = [
        "Archiving is off (archive_mode in postgresql.auto.conf): give the cluster an archive of its own, then take a base backup."
    ]
    kept = data / BASES_OWN_SETTINGS
    lines = _server_wrote(kept).splitlines() if kept.exists() else []
    settings = [line for line in lines if not _AIMED.match(line.strip())]
    settings += [f"{name} = '{value}'" for name, value in _DELIBERATE.items()]
    new_file(data / "postgresql.auto.conf", "".join(f"{line}\n" for line in settings), owner)
    kept.unlink(missing_ok=True)
    notes += _main_settings(data, least, owner)
    if not (data / "pg_hba.conf").exists():
        new_file(data / "pg_hba.conf", _HBA, owner)
        notes.append(
            "The base holds no pg_hba.conf: one was made that lets local users in as themselves, and passwords from this host."
        )
    if not (data / "pg_ident.conf").exists():
        new_file(data / "pg_ident.conf", "", owner)
    for name in ("recovery.signal", "standby.signal", "backup_manifest"):
        (data / name).unlink(missing_ok=True)
    return notes


def _main_settings(data: Path, least: Mapping[str, int], owner: Owner) -> list[str]:
    """See that there is a postgresql.conf with which this folder, and no other, is started."""
    path = data / "postgresql.conf"
    if path.exists():
        if not (match := _ELSEWHERE.search(_server_wrote(path))):
            return [
                f"Settings are those of the base ({path}): look at port and listen_addresses where another server runs."
            ]
        path.rename(data / "postgresql.conf.base")
        why = f"The base's own names other places ({match[1]}) and was kept as postgresql.conf.base"
    else:
        why = "The base holds no postgresql.conf"
    new_file(path, "".join(f"{name} = {value}\n" for name, value in least.items()), owner)
    return [f"{why}: one was made with the settings that replay needed. Put the application's own settings there."]


def _server_wrote(path: Path) -> str:
    """A file of settings in the data folder. While the server ran, code of the database could put a link there, to a file that only we may read."""
    try:
        return read_file(path, _MOST_SETTINGS, links=False).decode(errors="surrogateescape")
    except (DocumentInvalid, OSError) as error:
        raise RecoveryFailed(
            f"{path} cannot be read ({error}): it may be a link or no file", remedy="recover again"
        ) from error
