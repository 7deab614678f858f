"""Files: media folders and configuration, and Django's manage.py."""

from __future__ import annotations

import getpass
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.django_app.manage import DjangoApplication
from twist_dr.doctor.findings import Check, command, ok, problem, said, warning
from twist_dr.errors import ProcessFailed
from twist_dr.repository.archive import match_configuration
from twist_dr.repository.attributes import NotKept, read_attributes
from twist_dr.system.commands import run_command
from twist_dr.system.progress import human_bytes
from twist_dr.system.words import counted, few

#: A look must stay a look: whoever has more files gets a sample, and is told so.
MOST_ENTRIES = 50_000
MOST_SECONDS = 10.0
_MANAGE_SECONDS = 60.0


@dataclass
class FilesSeen:
    """What a walk found. ``bytes`` of readable and unreadable files; ``whole``: it came to its end."""

    files: int = 0
    bytes: int = 0
    whole: bool = True
    unreadable: list[str] = field(default_factory=list)
    not_kept: NotKept = field(default_factory=NotKept)


def look_at(paths: Sequence[Path], most_entries: int = MOST_ENTRIES, most_seconds: float = MOST_SECONDS) -> FilesSeen:
    """Open every file at and below ``paths``, and read none. Links are not followed below, as in a backup."""
    seen = FilesSeen()
    deadline = time.monotonic() + most_seconds
    #: Names of files that have several, and are not met yet, by device and inode.
    unmet: dict[tuple[int, int], int] = {}
    for number, (path, status) in enumerate(_walk(paths, seen.unreadable)):
        if number >= most_entries or time.monotonic() > deadline:
            seen.whole = False
            break
        if stat.S_ISREG(status.st_mode):
            seen.files += 1
            seen.bytes += status.st_size
            if status.st_nlink > 1:
                file = status.st_dev, status.st_ino
                unmet[file] = unmet.get(file, status.st_nlink) - 1
            _look_into(path, os.O_NONBLOCK, seen)
        elif stat.S_ISDIR(status.st_mode):
            _look_into(path, os.O_DIRECTORY, seen)
    if seen.whole:
        seen.not_kept.named_outside = sum(left > 0 for left in unmet.values())
    return seen


def _look_into(path: Path, how: int, seen: FilesSeen) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | how)
    except FileNotFoundError:
        return  # It vanished meanwhile, as uploads and thumbnails do.
    except OSError:
        seen.unreadable.append(str(path))
        return
    try:
        read_attributes(descriptor, seen.not_kept)
    finally:
        os.close(descriptor)


def _walk(paths: Sequence[Path], unreadable: list[str]) -> Iterator[tuple[Path, os.stat_result]]:
    pending = list(reversed(paths))
    while pending:
        path = pending.pop()
        try:
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(path) as entries:
                    pending += [Path(entry.path) for entry in entries]
        except FileNotFoundError:
            continue
        except OSError:
            unreadable.append(str(path))
            continue
        yield path, status


def check_media(folders: Mapping[str, Path]) -> Check[FilesSeen]:
    """Returns what all folders hold together."""
    together = FilesSeen()
    if not folders:
        yield ok("media", "no media folders in the settings, so backups hold none")
    for name, folder in folders.items():
        check = f"media {name}"
        if not folder.is_dir():
            yield problem(check, f"there is no folder {folder}", f"mount it, or correct media.{name}")
            continue
        # The folder itself may be a link; what it leads to is backed up.
        seen = look_at([folder.resolve()])
        together.files += seen.files
        together.bytes += seen.bytes
        together.whole &= seen.whole
        if seen.unreadable:
            yield problem(check, f"cannot read {few(seen.unreadable)}", _grant_reading(folder))
        elif seen.files == 0 and seen.whole:
            yield warning(
                check, f"{folder} holds no file", f"mount it, or correct media.{name}, if files should be there"
            )
        else:
            yield ok(check, f"{folder}: {_extent(seen)}")
        yield from _left_out(check, seen)
    return together


def _left_out(check: str, seen: FilesSeen) -> Check[None]:
    for sentence in seen.not_kept.sentences():
        yield warning(check, sentence, "give it to them again after a restore, if it is wanted")


def check_configuration(patterns: Sequence[str]) -> Check[None]:
    """Each pattern must find something, and all of it must be readable."""
    check = "configuration"
    if not patterns:
        yield warning(
            check,
            "no configuration files in the settings: after a disaster nobody knows how the application was set up",
            "configuration: [twist-dr.yaml, /etc/nginx/sites-enabled/*, ...]  # in twist-dr.yaml",
        )
        return
    paths, empty = match_configuration(patterns)
    for pattern in empty:
        yield warning(check, f"the pattern {pattern} finds no file", "correct it under configuration, or remove it")
    seen = look_at(paths)
    if seen.unreadable:
        yield problem(check, f"cannot read {few(seen.unreadable)}", _grant_reading(Path(seen.unreadable[0])))
    elif paths:
        yield ok(check, _extent(seen))
    yield from _left_out(check, seen)


def _extent(seen: FilesSeen) -> str:
    if seen.whole:
        return f"{counted(seen.files, 'file')}, {human_bytes(seen.bytes)}, all readable"
    return (
        f"the first {counted(seen.files, 'file')}, {human_bytes(seen.bytes)}, are readable; the rest was not looked at"
    )


def _grant_reading(path: Path) -> str:
    return command(["sudo", "setfacl", "-R", "-m", f"u:{_user()}:rX", path])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return str(os.geteuid())


def check_django(application: DjangoApplication, applied: frozenset[str] | None) -> Check[None]:
    """Runs ``showmigrations --plan``. ``applied``: what database.url has applied, as ``app.name``, if known."""
    manage, folder = application.manage, application.folder
    if not folder.is_dir():
        yield problem("django", f"there is no folder {folder}", "correct django.folder")
        return
    arguments = [*manage, "showmigrations", "--plan"]
    by_hand = f"cd {command([folder])} && {command(arguments)}"
    output: list[str] = []
    try:
        run_command(
            arguments,
            seconds=_MANAGE_SECONDS,
            environment=application.variables,
            folder=folder,
            called="showmigrations",
            on_line=output.append,
        )
    except ProcessFailed as error:
        if isinstance(cause := error.__cause__, OSError):
            yield problem("django", f"{manage[0]} cannot be run: {cause.strerror}", "correct django.manage")
            return
        yield problem(
            "django",
            said(error),
            f"fix what it says (manage.py gets no other variables of ours than django.environment names), then try by hand: {by_hand}",
        )
        return
    lines = [line.split() for line in output]
    done = {line[1] for line in lines if line[0:1] == ["[X]"] and len(line) > 1}
    waiting = [line[2] for line in lines if line[0:2] == ["[", "]"] and len(line) > 2]
    yield ok("django", f"manage.py runs and knows {counted(len(done) + len(waiting), 'migration')}")
    if waiting:
        migrate = f"cd {command([folder])} && {command([*manage, 'migrate'])}"
        yield warning("django", f"{counted(len(waiting), 'migration')} not applied: {few(waiting)}", migrate)
    if applied is not None and (elsewhere := sorted(done - applied)):
        yield warning(
            "django",
            f"manage.py sees migrations applied that database.url does not have ({few(elsewhere)}): it uses another database",
            "give both the same database: pass its URL on under django.environment",
        )
