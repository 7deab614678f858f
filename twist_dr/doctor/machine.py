"""The machine: its clock, the work folder, space on its disks, what killed runs left, and where Dagster keeps its history."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.backup.take import first_backup_space
from twist_dr.doctor.findings import Check, command, ok, problem, warning
from twist_dr.errors import TwistDRError
from twist_dr.postgres.verification_place import verification_base, verification_space
from twist_dr.repository.repository import Repository
from twist_dr.repository.staging import StagingArea
from twist_dr.system.progress import human_bytes
from twist_dr.system.space import nearest_folder
from twist_dr.system.words import counted, few

#: twist-dr is younger than this: a clock before it was never set.
_EARLIEST = datetime(2024, 1, 1, tzinfo=timezone.utc)


def check_system_clock(now: float | None = None) -> Check[None]:
    """``now`` in Unix seconds, the system's unless given. Backup ids, retention and S3 signatures hang on it."""
    when = datetime.fromtimestamp(time.time() if now is None else now, timezone.utc)
    if when < _EARLIEST:
        yield problem(
            "system clock",
            f"this machine says it is {when:%Y-%m-%d %H:%M} UTC: its clock was never set",
            "timedatectl set-ntp true",
        )
    else:
        yield ok("system clock", f"{when:%Y-%m-%d %H:%M:%S} UTC")


def check_work_folder(folder: Path) -> Check[None]:
    """Makes the folder if it is missing, as a backup would, and writes into it."""
    check = "work folder"
    try:
        # Others may pass through but not look in: the scratch server's user has to reach its own folder below.
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"written by twist-dr doctor")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        yield problem(check, f"{folder} is no folder", "set work_dir to a folder, or move that file away")
        return
    except OSError as error:
        yield problem(
            check,
            f"cannot write to {folder}: {error.strerror}",
            f"set work_dir to a folder of your own, or run: {command(['sudo', 'install', '-d', '-m', '0711', '-o', str(os.geteuid()), folder])}",
        )
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        yield warning(
            check, f"{folder} may be written to by others (mode {mode:04o})", command(["chmod", "go-w", folder])
        )
    else:
        yield ok(check, f"{folder} can be written to")


def check_staging_space(folder: Path, database_bytes: int, media_bytes: int, forms: int, *, whole: bool) -> Check[None]:
    """``whole``: whether all media were counted. Sizes in bytes; ``forms``: different stored forms among the targets."""
    wanted = first_backup_space(database_bytes, media_bytes, forms)
    free = shutil.disk_usage(nearest_folder(folder)).free
    found = (
        f"{human_bytes(free)} free in {folder}, {'about' if whole else 'at least'} {human_bytes(wanted)} needed "
        f"(database {human_bytes(database_bytes)}, media {human_bytes(media_bytes)}, {counted(forms, 'stored form')})"
    )
    if free >= wanted:
        yield ok("staging space", found)
        return
    yield problem(
        "staging space",
        found,
        "free space there, set work_dir to a larger disk"
        + (", or give all targets the same encrypt and compression" if forms > 1 else ""),
    )


def check_scratch_space(scratch: Path, database_bytes: int, *, server_here: bool) -> Check[None]:
    """Space for a verification. ``server_here``: with a scratch server on this machine."""
    base = verification_base(scratch, server_here=server_here)
    # A dump is about as large as the tables in it, so the database's size serves for both.
    wanted = verification_space(database_bytes, database_bytes if server_here else 0)
    free = shutil.disk_usage(base).free
    found = f"{human_bytes(free)} free in {base}, about {human_bytes(wanted)} needed to verify a backup"
    if free < wanted:
        yield problem("scratch space", found, "free space there, or set verification.scratch to a larger disk")
    else:
        yield ok("scratch space", found)


def check_incomplete(staging: StagingArea, reachable: Sequence[Repository], *, all_reachable: bool) -> Check[None]:
    """What lies in staging: half-made backups, and whole ones that no target holds."""
    unfinished = staging.incomplete()
    sealed = staging.sealed()
    if unfinished:
        yield ok("incomplete backups", f"killed runs left {few(unfinished)} half made; the next backup removes them")
    lonely = [backup_id for backup_id in sealed if not any(_holds(target, backup_id) for target in reachable)]
    if lonely:
        where = "no storage target" if all_reachable else "no storage target that can be reached"
        yield warning(
            "incomplete backups",
            f"{few(lonely)} in {staging.root} on this machine, whole, but on {where}",
            "re-execute the failed run from failure on its page, or make a new backup: twist-dr backup",
        )
    waiting = [backup_id for backup_id in sealed if backup_id not in lonely]
    if waiting:
        yield warning(
            "incomplete backups",
            f"{few(waiting)} waits in {staging.root} for a storage target that lacks it",
            "see which with twist-dr list, fix it, and materialize that copy in the page",
        )
    if not (unfinished or sealed):
        yield ok("incomplete backups", "nothing left over in staging")


def check_dagster_home(environment: Mapping[str, str]) -> Check[None]:
    """Without an instance folder Dagster works in a temporary one, and forgets every run."""
    home = environment.get("DAGSTER_HOME")
    remedy = "export DAGSTER_HOME=/path/of/the/folder/with/dagster.yaml  # twist-dr init writes that file"
    if not home:
        yield warning("dagster", "DAGSTER_HOME is not set, so the history of runs would not be kept", remedy)
    elif not Path(home).is_absolute():
        yield warning("dagster", f"DAGSTER_HOME is {home}, which is no absolute path; Dagster refuses it", remedy)
    elif not (Path(home) / "dagster.yaml").is_file():
        yield warning("dagster", f"there is no dagster.yaml in DAGSTER_HOME ({home}), so defaults would apply", remedy)
    else:
        yield ok("dagster", f"history is kept in {home}")


def _holds(repository: Repository, backup_id: str) -> bool:
    try:
        return repository.has_manifest(backup_id)
    except TwistDRError:
        return False
