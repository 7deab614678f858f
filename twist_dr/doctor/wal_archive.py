"""WAL on its way and at its end: the server's archiver, the spool's disk, and how far each storage target reaches."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.doctor.findings import Check, command, ok, problem, said, warning
from twist_dr.doctor.wal import WalSeen
from twist_dr.errors import WalError
from twist_dr.postgres.cluster import Cluster, Connection, query
from twist_dr.postgres.unprivileged import may_enter
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.space import nearest_folder
from twist_dr.system.words import counted
from twist_dr.wal.spool import Spool

if TYPE_CHECKING:
    from twist_dr.catalog import SealedBackup, WalPositionRow

#: basic_archive came with archive_library in this version.
_BASIC_ARCHIVE_MAJOR = 15
#: Older ones make a recovery long: it replays everything that was written since.
_OLDEST_BASE = timedelta(days=8)
_BACKUP_BASE = "twist-dr backup-base"


def check_archiver(cluster: Cluster, seen: WalSeen, source: str, spool: Path, warn_after: timedelta) -> Check[None]:
    """The server's own archiver: what fills the spool where ``source`` is ``archive``, and what a base backup waits for wherever it is on."""
    settings, archived = seen.settings, spool / "archived"
    if source == "archive":
        if settings["archive_mode"] == "off" or (seen.sample.in_recovery and settings["archive_mode"] != "always"):
            wanted = "always" if seen.sample.in_recovery else "on"
            yield problem(
                "archiver",
                f"archive_mode is {settings['archive_mode']}, so the server puts no WAL into {archived}",
                f"ALTER SYSTEM SET archive_mode = {wanted};  -- then restart PostgreSQL; or set wal.source to receive",
            )
            return
        yield from _way(seen, archived)
        if int(settings["archive_timeout"]) == 0:
            yield warning(
                "archiver",
                "archive_timeout is 0: what is committed reaches the storage targets only when a segment is full, at night perhaps after hours",
                "ALTER SYSTEM SET archive_timeout = '60s'; SELECT pg_reload_conf();",
            )
        yield from _archived_folder(seen, archived)
    if settings["archive_mode"] != "off":
        with closing(cluster.connect()) as connection:
            yield from _failing(connection, seen, warn_after)


def _way(seen: WalSeen, archived: Path) -> Check[None]:
    library, told = seen.settings.get("archive_library", ""), seen.settings["archive_command"]
    if seen.major >= _BASIC_ARCHIVE_MAJOR:
        remedy = (
            "ALTER SYSTEM SET archive_library = 'basic_archive'; ALTER SYSTEM SET archive_command = ''; "
            f"ALTER SYSTEM SET basic_archive.archive_directory = '{archived}'; SELECT pg_reload_conf();"
        )
    else:
        remedy = f"archive_command = 'archive-to-spool.sh %p %f {archived}'  # in postgresql.conf; the script is in twist-dr's templates"
    if library == "basic_archive":
        if not seen.archive_directory:
            yield problem("archiver", "basic_archive.archive_directory is not set, so nothing is archived", remedy)
        elif Path(seen.archive_directory) != archived:
            yield warning(
                "archiver",
                f"the server archives into {seen.archive_directory}, and twist-dr ships from {archived}",
                f"{remedy}  -- unless the one is mounted as the other",
            )
        else:
            yield ok("archiver", f"basic_archive puts WAL into {archived}")
    elif library:
        yield warning("archiver", f"archive_library is {library}, of which twist-dr knows nothing", remedy)
    elif told in ("", "(disabled)"):
        yield problem("archiver", "archive_mode is on, and neither archive_library nor archive_command is set", remedy)
    elif str(archived) not in told:
        yield warning("archiver", f"archive_command does not name {archived}, from which twist-dr ships", remedy)
    else:
        yield ok("archiver", f"archive_command puts WAL into {archived}")


def _failing(connection: Connection, seen: WalSeen, warn_after: timedelta) -> Check[None]:
    failing, count, name, since = query(
        connection,
        "SELECT failed_count > 0 AND last_failed_time > coalesce(last_archived_time, '-infinity'), failed_count, last_failed_wal, "
        "extract(epoch FROM clock_timestamp() - last_failed_time)::float8 FROM pg_stat_archiver",
    )[0]
    if failing:
        yield problem(
            "archiver",
            f"the server cannot archive {name}: {counted(count, 'attempt')} failed, the last {human_seconds(since)} ago; pg_wal grows, and base backups wait for it",
            "see the server's log for what archive_command or archive_library says, and that it may write into its folder",
        )
    if not query(connection, "SELECT has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE')")[0][0]:
        yield warning(
            "archiver",
            f"role {seen.role} may not see what waits for the archiver: one that dies of a signal is not counted as failing",
            f"GRANT pg_monitor TO {seen.role};  -- as a superuser",
        )
        return
    waiting, oldest = query(
        connection,
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(modification)), 0)::float8 "
        "FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'",
    )[0]
    if oldest > warn_after.total_seconds():
        yield problem(
            "archiver",
            f"{counted(waiting, 'segment', 'waits', 'wait')} for the server's archiver, the oldest since {human_seconds(oldest)}",
            "see the server's log, and that its archiver process runs",
        )
    elif not failing:
        yield ok("archiver", f"{counted(waiting, 'segment', 'waits', 'wait')} for it, and none failed last")


def _archived_folder(seen: WalSeen, archived: Path) -> Check[None]:
    check = "spool"
    if not archived.is_dir():
        yield problem(
            check,
            f"there is no folder {archived} for the server's archiver",
            command(["sudo", "install", "-d", "-m", "0770", "-o", "postgres", "-g", str(os.getegid()), archived]),
        )
        return
    if not os.access(archived, os.R_OK | os.W_OK | os.X_OK):
        yield problem(
            check,
            f"twist-dr may not read and remove what is in {archived}",
            "run twist-dr as the user of the server's archiver, or use wal.source: receive",
        )
    user = _server_user(seen)
    if user is not None and not _may_write(archived, user):
        name = pwd.getpwuid(user).pw_name
        yield problem(
            check,
            f"the server's user {name} may not write into {archived}",
            command(["sudo", "chown", name, archived]) + "  # and let it through the folders above: chmod o+x",
        )


def _server_user(seen: WalSeen) -> int | None:
    """Who the server runs as, where it runs on this machine: the owner of its data."""
    try:
        return seen.data_directory.stat().st_uid if seen.data_directory is not None else None
    except OSError:
        return None


def _may_write(folder: Path, user: int) -> bool:
    if user == 0:
        return True
    entry, status = pwd.getpwuid(user), folder.stat()
    if status.st_uid == user:
        writable = status.st_mode & 0o300 == 0o300
    elif status.st_gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        writable = status.st_mode & 0o030 == 0o030
    else:
        writable = status.st_mode & 0o003 == 0o003
    return writable and may_enter(folder.parent, user)


# -- the spool ---------------------------------------------------------------------------------------------------------


def check_spool(
    spool: Path, staging: Path, seen: WalSeen | None, warn_bytes: int, warn_after: timedelta
) -> Check[None]:
    """Space for WAL that cannot be shipped, and whether some waits already. Sizes in bytes."""
    check, disk = "spool", nearest_folder(spool)
    if not os.access(disk, os.W_OK | os.X_OK):
        yield problem(
            check, f"nothing can be written in {disk}", "fix its permissions, or set wal.spool to another folder"
        )
        return
    try:
        held, waiting = Spool(spool).size(), Spool(spool).waiting()
    except WalError as error:
        yield problem(check, said(error), "run twist-dr as the user of the server's archiver")
        return
    free = shutil.disk_usage(disk).free
    oldest = max((file.age_seconds for file in waiting), default=0.0)
    if oldest > warn_after.total_seconds():
        yield problem(
            check,
            f"{counted(len(waiting), 'WAL file', 'waits', 'wait')} in {spool}, the oldest since {human_seconds(oldest)}",
            "twist-dr wal ship  # says which storage target does not take it",
        )
    found = f"{human_bytes(free)} free in {disk}, {human_bytes(held)} in the spool"
    left = warn_bytes - held
    if left < 0:
        yield problem(
            check, f"{found}: more than wal.warn_bytes", "twist-dr wal status  # says which target does not take it"
        )
    elif free < left:
        yield warning(
            check,
            f"{found}: the disk is full before wal.warn_bytes ({human_bytes(warn_bytes)}) is reached, and warns",
            "set wal.spool to a larger disk, or wal.warn_bytes to less",
        )
    elif seen is not None and free < (most := max(seen.held, seen.most_held or 0)):
        yield warning(
            check,
            f"{found}: less than the {human_bytes(most)} that the server may keep for us, which all come at once when the receiver is back",
            "set wal.spool to a larger disk, or max_slot_wal_keep_size to less",
        )
    else:
        yield ok(check, found + _shared(disk, staging))


def _shared(disk: Path, staging: Path) -> str:
    if disk.stat().st_dev != nearest_folder(staging).stat().st_dev:
        return ""
    return "; backups are staged on the same disk, so WAL that cannot be shipped takes their space"


# -- how far it reaches ------------------------------------------------------------------------------------------------


def check_newest_base(
    newest: SealedBackup | None, seen: WalSeen | None, now: datetime | None = None, *, full: SealedBackup | None = None
) -> Check[None]:
    """The base backup that a recovery of now would begin with. ``full``: what the next differential one builds upon, where such are scheduled."""
    check, now = "newest base", now or datetime.now(timezone.utc)
    if newest is None or newest.manifest.base is None:
        yield warning(check, "there is no base backup, without which WAL leads nowhere", _BACKUP_BASE)
        return
    facts, base = newest.manifest.postgres, newest.manifest.base
    if seen is not None and facts is not None and facts.system_identifier != seen.sample.system_identifier:
        yield problem(
            check,
            f"{newest.backup_id} is of the cluster {facts.system_identifier}, and the server is another one now ({seen.sample.system_identifier})",
            f"{_BACKUP_BASE}  # nothing of the present cluster can be recovered to a point before that",
        )
        return
    age, upon = now - base.stopped_at, (full and full.manifest.base) or base
    found = f"{newest.backup_id}, {human_seconds(age.total_seconds())} old"
    if len(base.chain) > 1:
        found += f", the last of a chain of {len(base.chain)}"
    if age > _OLDEST_BASE:
        yield warning(check, f"{found}: a recovery replays everything that was written since", _BACKUP_BASE)
    elif (keep := _summaries_kept(seen)) is not None and now - upon.stopped_at > keep:
        kind = f"a differential one upon {full.backup_id}" if full else "an incremental one"
        yield warning(
            check,
            f"{found}: the server no longer has the summaries that {kind} needs (wal_summary_keep_time), so the next is full",
            "ALTER SYSTEM SET wal_summary_keep_time = '30d'; SELECT pg_reload_conf();  -- or take base backups more often",
        )
    else:
        yield ok(check, found)


def _summaries_kept(seen: WalSeen | None) -> timedelta | None:
    if seen is None or seen.settings.get("summarize_wal") != "on":
        return None
    minutes = int(seen.settings["wal_summary_keep_time"])
    return timedelta(minutes=minutes) if minutes else None


def check_positions(
    rows: Iterable[WalPositionRow], targets: Mapping[str, timedelta], warn_after: timedelta, now: datetime | None = None
) -> Check[None]:
    """How far the archive of each target that gets write-ahead log reaches, as shipping wrote it down last. ``targets``: how often each gets it."""
    known, now = {row.target: row for row in rows}, now or datetime.now(timezone.utc)
    for name, every in targets.items():
        check, row = f"archived position {name}", known.get(name)
        if row is None or row.lsn is None:
            yield warning(
                check,
                "no WAL was shipped to it yet",
                "twist-dr wal ship --follow  # as a service, or switch on the sensor ship_wal_sensor",
            )
            continue
        age = (now - row.at).total_seconds() if row.at is not None else None
        found = f"at {row.lsn} on timeline {row.timeline}" + (f", {human_seconds(age)} old" if age is not None else "")
        if every:
            found += f"; it goes there every {human_seconds(every.total_seconds())}, in bundles, which is lost if that target alone is left"
        if row.error is not None:
            yield problem(
                check,
                f"{found}; the last attempt failed: {row.error}",
                f"fix what stands above of target {name}, then: twist-dr wal ship",
            )
        elif age is None or age > warn_after.total_seconds():
            yield problem(
                check,
                f"{found}: {'up to when it holds everything is not known' if age is None else 'what was committed since is not there'}",
                "twist-dr wal status  # says what stands still: the receiver, the archiver or shipping",
            )
        else:
            yield ok(check, found)
