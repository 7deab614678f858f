"""Storage targets: does each work, and are they far enough apart for a disaster."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from twist_dr.doctor.findings import Check, command, from_error, ok, problem, warning
from twist_dr.errors import StorageError
from twist_dr.repository.repository import Repository
from twist_dr.retention.ground import strangers
from twist_dr.storage.base import StorageTarget, told_of
from twist_dr.storage.limits import Rate, bytes_per_day
from twist_dr.storage.options import TargetOptions, providers
from twist_dr.storage.trial import TargetTest, run_target_test
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.space import nearest_folder
from twist_dr.system.words import few, one_of

_SKEW_WARNING_SECONDS = 60.0
_SKEW_PROBLEM_SECONDS = 600.0


@dataclass(frozen=True)
class TargetPlace:
    """What the settings say of a target. ``folder`` is ``None`` for one that is no folder; ``kind`` as in ``type:``."""

    kind: str
    encrypted: bool
    folder: Path | None


def check_own_files(name: str, settings: TargetOptions) -> Check[bool]:
    """The files of this machine that a target reads: there, readable, and nobody else's to read or change. Returns whether it can be tried."""
    check, usable = f"target {name}", True
    for path in (*settings.secret_files, *settings.trusted_files):
        if not path.is_file() or not os.access(path, os.R_OK):
            usable = False
            yield problem(
                check,
                f"there is no file {path} that this user may read",
                f"put it there, or correct storage_targets.{name}",
            )
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if path in settings.secret_files and mode & 0o077:
            yield problem(
                check,
                f"{path} holds a secret, and others may read it (mode {mode:04o})",
                command(["chmod", "600", path]),
            )
        elif mode & 0o022:
            yield problem(
                check,
                f"others may change {path} (mode {mode:04o}), and the target goes by it",
                command(["chmod", "go-w", path]),
            )
    return usable


def check_bandwidth(targets: Mapping[str, Sequence[Rate]], one_form_bytes: int) -> Check[None]:
    """Whether a full backup, of about so many bytes on a target, gets there within a day at ``max_mib_per_second``."""
    for name, rates in targets.items():
        per_day = bytes_per_day(rates)
        if per_day is not None and one_form_bytes > per_day:
            yield warning(
                f"bandwidth {name}",
                f"its max_mib_per_second lets {human_bytes(per_day)} through in a day, and a full backup has about {human_bytes(one_form_bytes)}: a copy "
                f"takes {human_seconds(one_form_bytes / per_day * 86400)}",
                f"raise storage_targets.{name}.max_mib_per_second, at night perhaps, or make full backups for it less often (schedules.full, targets)",
            )


def check_targets(targets: Mapping[str, StorageTarget], one_form_bytes: int) -> Check[list[StorageTarget]]:
    """Try all targets at once, each told as it is done. Returns those that work, in the order of the settings.

    ``one_form_bytes``: about what a backup takes on a target, in bytes.
    """
    working = set()
    if targets:
        with ThreadPoolExecutor(len(targets)) as pool:
            running = {pool.submit(run_target_test, target): target for target in targets.values()}
            for future in as_completed(running):
                target = running[future]
                check = f"target {target.name}"
                try:
                    test = future.result()
                    yield from _tested(check, test)
                    if test.ok:
                        working.add(target.name)
                        yield from _space(check, target, one_form_bytes)
                except Exception as error:
                    yield from_error(check, error)
    return [target for name, target in targets.items() if name in working]


def _tested(check: str, test: TargetTest) -> Check[None]:
    if test.error is not None:
        yield from_error(check, test.error)
        return
    can = test.capabilities
    notes = "".join(f"; {note.rstrip('.')}" for note in can.notes) if can else ""
    yield ok(check, f"{test.location}: written, read back, deleted in {human_seconds(test.seconds)}{notes}")
    skew = can.clock_skew_seconds if can else None
    if skew is not None and abs(skew) > _SKEW_WARNING_SECONDS:
        found = f"its clock is {human_seconds(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours"
        remedy = "timedatectl set-ntp true  # on the machine whose clock is wrong"
        yield (problem if abs(skew) > _SKEW_PROBLEM_SECONDS else warning)(check, found, remedy)


def _space(check: str, target: StorageTarget, wanted: int) -> Check[None]:
    try:
        free = target.space().free
    except StorageError as error:
        yield from_error(check, error, "warning")
        return
    if free is not None and free < wanted:
        yield problem(
            check,
            f"{human_bytes(free)} free, and one backup may take {human_bytes(wanted)}",
            f"free space there, or set storage_targets.{target.name}.enabled: false",
        )


def check_strangers(repositories: Iterable[Repository]) -> Check[None]:
    """What somebody put among the objects and is none: nobody of ours follows, opens or removes it."""
    for repository in repositories:
        check = f"target {repository.target.name}"
        try:
            found = strangers(repository)
        except StorageError as error:
            yield from_error(check, error, "warning")
            continue
        if found:
            yield problem(
                check,
                f"{told_of(found)}; this is no part of a backup, and nothing there is read, written or deleted through it",
                f"find out who put it there, and remove it; a folder that is to lie elsewhere is storage_targets.{repository.target.name}.path itself",
            )


def check_places(places: Mapping[str, TargetPlace], work_folder: Path, media: Mapping[str, Path]) -> Check[None]:
    """Whether one fire, one thief or one mistake takes all copies. ``places``: the enabled targets."""
    other = (
        f"enable a second storage target in another place: {one_of([each for each in providers() if each != 'local'])}"
    )
    if not places:
        yield problem("targets", "no storage target is enabled, so no backup can be made", other)
        return
    if all(place.kind == "local" and _on_disk_of(place.folder, work_folder) for place in places.values()):
        yield warning("targets", f"one disk: {few(places)} on the disk of this machine, and nothing elsewhere", other)
    elif len(places) < 2:
        yield warning("targets", f"{few(places)} is the only storage target", other)
    else:
        yield ok("targets", f"{len(places)} enabled: {few(places, 8)}")
    for name, place in places.items():
        if not place.encrypted and place.kind != "local":
            yield warning(
                "targets",
                f"backups leave this machine unencrypted for {name} (configuration and roles excepted)",
                f"storage_targets: {{{name}: {{encrypt: true}}}}  # in twist-dr.yaml",
            )
        for media_name, folder in media.items():
            if place.folder is not None and _lies_in(place, folder):
                yield problem(
                    "targets",
                    f"{name} lies inside media.{media_name} ({folder}): each backup would hold all backups before it",
                    f"set storage_targets.{name}.path to a folder outside {folder}",
                )


def _lies_in(place: TargetPlace, folder: Path) -> bool:
    """By its path, and on this machine, where no share can hang, by what links lead to as well."""
    assert place.folder is not None
    if place.folder.is_relative_to(folder):
        return True
    return place.kind == "local" and place.folder.resolve().is_relative_to(folder.resolve())


def _on_disk_of(folder: Path | None, other: Path) -> bool:
    if folder is None:
        return False
    disks = {nearest_folder(path).stat().st_dev for path in (folder, other)}
    return len(disks) == 1
