"""Media and configuration: every file comes back, what could not be had is named, and a spiteful archive does no harm."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import twist_dr.repository.archive as archive_module
from twist_dr.errors import ArchiveInvalid, RestoreError, SourceUnreadable
from twist_dr.repository.archive import archive_configuration, archive_media
from twist_dr.repository.archive_index import ArchiveEntry, read_index
from twist_dr.repository.archive_reading import compare_archive, read_archive
from twist_dr.repository.archive_report import ArchiveReport
from twist_dr.repository.manifest import Manifest
from twist_dr.system.folders import remove_tree
from twist_dr_tests.helpers import AS_USER, NOBODY, digest_of, noise, said_by_python
from twist_dr_tests.repository.test_manifest import document

NOT_UTF8 = os.fsdecode(b"caf\xe9-\xff.txt")
NAMES = (
    "plain.txt",
    "with spaces and 'quotes' and \"more\".txt",
    "Größe übergroß ßüß.pdf",
    "日本語のファイル.txt",
    "line\nbreak.txt",
    "back\\slash.txt",
    "-rf",
    "trailing space ",
    ".hidden",
    "n" * 120,
    "ü" * 127,
    NOT_UTF8,
    NOT_UTF8 + "y" * 110,
)


class Archived:
    """An archive and its index in memory."""

    def __init__(self, archive: bytes, index: bytes, report: ArchiveReport) -> None:
        self.archive, self.index, self.report = archive, index, report

    def names(self) -> list[str]:
        return [member.name for member, _ in read_archive(io.BytesIO(self.archive), "media.tar")]

    def contents(self) -> dict[str, bytes]:
        return {
            member.name: content.read()
            for member, content in read_archive(io.BytesIO(self.archive), "media.tar")
            if content is not None
        }

    def entries(self) -> list[ArchiveEntry]:
        return list(read_index(io.BytesIO(self.index)))

    def compared(self) -> tuple[int, list[str]]:
        return compare_archive(io.BytesIO(self.archive), iter(self.entries()), "media.tar")


def archive(folder: Path, meanwhile: Callable[[bytes], None] = lambda chunk: None) -> Archived:
    """Archive a folder as ``media``. ``meanwhile`` is called with each chunk of the archive, before the next is made."""
    parts: list[bytes] = []
    lines: list[bytes] = []

    def write(chunk: bytes) -> None:
        parts.append(chunk)
        meanwhile(chunk)

    report = archive_media({"media": folder}, write, lines.append)
    return Archived(b"".join(parts), b"".join(lines), report)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A media folder with a bit of everything."""
    root = tmp_path / "media files"
    deep = root / ("d" * 90) / ("e" * 90) / ("f" * 90)
    deep.mkdir(parents=True)
    (root / "empty folder").mkdir()
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(noise(number * 700, seed=number))
        (deep / name).write_bytes(noise(number, seed=number))
    (root / "empty").touch()
    (root / "large.bin").write_bytes(noise(3_000_001))
    (root / "executable").write_text("#!/bin/sh\n")
    (root / "executable").chmod(0o750)
    os.utime(root / "plain.txt", (1_234_567_890.25, 1_234_567_890.25))
    os.utime(root / "empty", (-86_400, -86_400))
    (root / "inside").symlink_to("plain.txt")
    (root / "inside folder").symlink_to("empty folder")
    return root


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """What a restore must bring back of each path below a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else digest_of(path.read_bytes()) if path.is_file() else None
        # GNU tar keeps neither the times of links in all versions nor more than whole nanoseconds.
        when = None if path.is_symlink() else round(status.st_mtime, 3)
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), when, content)
    return found


def test_the_usual_tar_lists_and_extracts_everything_as_it_was(tree: Path, tmp_path: Path) -> None:
    made = archive(tree)
    assert made.report.warnings("media") == []
    (tmp_path / "media.tar").write_bytes(made.archive)
    listed = subprocess.run(["tar", "-tvf", tmp_path / "media.tar"], capture_output=True, check=True)
    assert len(listed.stdout.splitlines()) == len(facts(tree))
    (tmp_path / "restored").mkdir()
    subprocess.run(
        ["tar", "-xpf", tmp_path / "media.tar", "-C", tmp_path / "restored"], capture_output=True, check=True
    )
    assert facts(tmp_path / "restored" / "media") == facts(tree)


def test_the_index_names_every_file_with_its_hash_and_fits_the_archive(tree: Path) -> None:
    made = archive(tree)
    files, differences = made.compared()
    assert differences == []
    assert files == made.report.files == sum(path.is_file() and not path.is_symlink() for path in tree.rglob("*"))
    by_path = {entry.path: entry for entry in made.entries()}
    assert by_path["media/large.bin"].sha256 == digest_of(noise(3_000_001)).sha256
    assert {entry.kind for entry in by_path.values()} == {"file", "folder", "link"}
    assert f"media/{NOT_UTF8}" in by_path
    assert made.report.bytes == sum(entry.size for entry in by_path.values())


def test_several_media_folders_lie_side_by_side(tmp_path: Path) -> None:
    for name in ("uploads", "thumbs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    parts: list[bytes] = []
    archive_media({"uploads": tmp_path / "uploads", "thumbs": tmp_path / "thumbs"}, parts.append, lambda line: None)
    made = Archived(b"".join(parts), b"", ArchiveReport())
    assert made.contents() == {"thumbs/a.txt": b"thumbs", "uploads/a.txt": b"uploads"}


def test_a_media_folder_that_is_a_link_to_another_disk_is_archived_whole(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "logo.png").write_bytes(b"logo")
    (tmp_path / "disk" / "also").symlink_to("logo.png")
    (tmp_path / "media").symlink_to(tmp_path / "disk")
    made = archive(tmp_path / "media")
    assert made.contents() == {"media/logo.png": b"logo"}
    assert made.report.warnings("media") == []


def test_a_media_folder_that_is_not_there_fails_the_backup(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for missing in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(SourceUnreadable, match=r"media\.media"):
            archive(missing)


def test_links_that_lead_outside_are_kept_and_named(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (tmp_path / "media2").mkdir()
    (root / "outside").symlink_to("/etc/hostname")
    (root / "sibling").symlink_to("../media2")
    (root / "dangling").symlink_to("nowhere")
    (root / "dangling outside").symlink_to("/nowhere/at/all")
    (root / "loop").symlink_to("loop")
    (root / "root").symlink_to(".")
    made = archive(root)
    assert set(made.names()) == {"media", *(f"media/{path.name}" for path in root.iterdir())}
    assert made.report.leading_outside == ["media/dangling outside", "media/outside", "media/sibling"]
    assert "media: media/outside is a link that leads outside; its target is not in the backup" in made.report.warnings(
        "media"
    )


def test_pipes_and_sockets_are_left_out_and_named_and_nothing_waits_for_them(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        made = archive(root)
    assert made.names() == ["media"]
    assert made.report.skipped == ["media/pipe", "media/socket"]
    assert [warning for warning in made.report.warnings("media") if "was left out" in warning] == [
        "media: media/pipe is neither file, folder nor link and was left out",
        "media: media/socket is neither file, folder nor link and was left out",
    ]


def test_findings_about_files_with_odd_names_fit_into_a_manifest(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (root / NOT_UTF8).symlink_to("/etc/hostname")
    warnings = archive(root).report.warnings("media")
    assert warnings[0].startswith("media: media/caf\\xe9-\\xff.txt is a link that leads outside")
    manifest = Manifest.model_validate(document(warnings=warnings))
    assert manifest.warnings == warnings


def test_of_very_many_findings_a_hundred_are_named_and_the_rest_counted() -> None:
    report = ArchiveReport(
        vanished=[f"media/{number:06}" for number in range(200_000, 0, -1)],
        leading_outside=[f"media/link {number}" for number in range(101)],
        changed=["media/one.txt"],
    )
    warnings = report.warnings("media")
    assert len(warnings) == 100 + 1 + 100 + 1 + 1
    assert warnings[0] == "media: media/000001 vanished while the backup was made"
    assert warnings[100] == "media: 199900 more files vanished while the backup was made"
    assert warnings[101] == "media: media/one.txt changed while it was read"
    assert warnings[-1] == "media: 1 more files are links that lead outside; their targets are not in the backup"


def test_a_media_folder_without_a_single_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "media" / "2026" / "11").mkdir(parents=True)
    assert archive(tmp_path / "media").report.warnings("media") == ["media: media holds no files"]
    (tmp_path / "media" / "2026" / "11" / "logo.png").touch()
    assert archive(tmp_path / "media").report.warnings("media") == []


def busy_folder(tmp_path: Path) -> Path:
    """A first file so large that the archive's writer is called before the second is looked at."""
    root = tmp_path / "media"
    root.mkdir()
    (root / "a large").write_bytes(noise(5_000_000))
    (root / "b small").write_bytes(b"small")
    (root / "c folder").mkdir()
    (root / "c folder" / "file").write_bytes(b"file")
    return root


class Once:
    """Calls an action at the first chunk."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def __call__(self, chunk: bytes) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


def test_files_that_vanish_meanwhile_are_named_and_do_not_stop_the_backup(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)

    def vanish() -> None:
        (root / "b small").unlink()
        (root / "c folder" / "file").unlink()
        (root / "c folder").rmdir()

    made = archive(root, Once(vanish))
    assert made.report.vanished == ["media/b small", "media/c folder"]
    assert made.names() == ["media", "media/a large"]
    assert made.compared() == (1, [])
    assert "media: media/b small vanished while the backup was made" in made.report.warnings("media")


def test_a_folder_exchanged_for_a_link_while_it_is_read_leads_to_nothing_outside(tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.mkdir()
    for name in ("b", "c", "d"):
        (secret / name).write_text("secret")
    folder = tmp_path / "media" / "folder"
    folder.mkdir(parents=True)
    # The first is so large that the archive's writer is called before the others are looked at.
    (folder / "a").write_bytes(noise(5_000_000))
    for name in ("b", "c"):
        (folder / name).write_text("ours")

    def exchange() -> None:
        folder.rename(tmp_path / "media" / "moved")
        folder.symlink_to(secret)

    made = archive(tmp_path / "media", Once(exchange))
    assert made.contents()["media/folder/b"] == made.contents()["media/folder/c"] == b"ours"


def test_media_nested_too_deeply_to_be_read_are_refused_in_words_and_so_is_their_removal(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    descriptor = os.open(tmp_path / "media", os.O_RDONLY)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        with pytest.raises(SourceUnreadable, match="Too many open files"):
            archive(tmp_path / "media")
        with pytest.raises(RestoreError, match="could not be removed whole"):
            remove_tree(tmp_path / "media")
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, limits[1]), limits[1]))
        with pytest.raises(RestoreError, match="could not be removed whole"):
            remove_tree(tmp_path / "media")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        subprocess.run(["rm", "-rf", tmp_path / "media"], check=True)


def test_a_media_disk_that_goes_away_while_it_is_read_fails_the_backup(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)
    with pytest.raises(SourceUnreadable, match="went away"):
        archive(root, Once(lambda: root.rename(tmp_path / "unplugged")))


def test_an_empty_mount_point_that_comes_to_light_while_media_is_read_fails_the_backup(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)

    def unmount() -> None:
        root.rename(tmp_path / "unmounted")
        root.mkdir()

    with pytest.raises(SourceUnreadable, match="went away or was replaced"):
        archive(root, Once(unmount))


def test_media_of_which_most_vanishes_while_it_is_read_fails_the_backup(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)
    for number in range(30):
        (root / f"d{number}").mkdir()
        (root / f"d{number}" / "file").write_text("x")

    def lose(count: int) -> None:
        for number in range(count):
            (root / f"d{number}").rename(tmp_path / f"lost {number}")

    with pytest.raises(SourceUnreadable, match=r"30 of the 35 files and folders seen in .* vanished"):
        archive(root, Once(lambda: lose(30)))
    for number in range(30):
        (tmp_path / f"lost {number}").rename(root / f"d{number}")
    made = archive(root, Once(lambda: lose(20)))
    assert len(made.report.vanished) == 20
    assert made.compared() == (13, [])


class ShortReads:
    """A file that gives fewer bytes than it is asked for, as FUSE does."""

    def __init__(self, descriptor: int, mode: str, buffering: int) -> None:
        self._file = io.FileIO(descriptor, mode)

    def __enter__(self) -> ShortReads:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 131_072)) or b""


def test_files_on_a_disk_that_answers_in_small_pieces_come_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "media").mkdir()
    contents = {f"media/{size}": noise(size) for size in (200_000, 1 << 20, (1 << 20) + 1, 3_000_000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(archive_module, "open", ShortReads, raising=False)
        made = archive(tmp_path / "media")
    assert made.report.warnings("media") == []
    assert made.contents() == contents


def test_a_file_that_grows_while_it_is_read_is_named_and_the_archive_stays_whole(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)

    def grow() -> None:
        with (root / "a large").open("ab") as file:
            file.write(noise(2_000_000))

    made = archive(root, Once(grow))
    assert made.report.changed == ["media/a large"]
    assert made.contents()["media/a large"] == noise(5_000_000)
    assert made.contents()["media/c folder/file"] == b"file"
    assert made.compared() == (3, [])


def test_a_file_that_shrinks_while_it_is_read_is_named_and_the_archive_stays_whole(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)
    made = archive(root, Once(lambda: os.truncate(root / "a large", 1_500_000)))
    assert made.report.changed == ["media/a large"]
    assert made.contents()["media/c folder/file"] == b"file"
    assert len(made.contents()["media/a large"]) == 5_000_000
    assert made.compared() == (3, [])


def test_a_file_that_is_rewritten_while_it_is_read_is_named(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)

    def rewrite() -> None:
        with (root / "a large").open("r+b") as file:
            file.seek(4_000_000)
            file.write(b"other")

    assert archive(root, Once(rewrite)).report.changed == ["media/a large"]


def test_an_unreadable_file_or_folder_fails_the_backup_by_name(open_folder: Path) -> None:
    # Root reads everything, so an ordinary user archives.
    for name, mode in (("file", 0o000), ("folder", 0o000), ("folder to list", 0o444)):
        root = open_folder / f"media with {name}"
        root.mkdir(mode=0o755)
        secret = root / name
        if name == "file":
            secret.write_text("x")
        else:
            secret.mkdir()
            (secret / "child").write_text("x")
        secret.chmod(mode)
        said = said_by_python(
            "import sys\n"
            "from pathlib import Path\n"
            "from twist_dr.repository.archive import archive_media\n"
            "from twist_dr.errors import SourceUnreadable\n"
            + AS_USER.format(NOBODY)
            + "try: archive_media({'media': Path(sys.argv[1])}, lambda chunk: None, lambda line: None)\n"
            "except SourceUnreadable as error: print(error)\n",
            root,
        )
        assert str(secret) in said
        assert "Permission denied" in said


def test_before_a_restore_what_cannot_be_read_is_named_and_the_rest_is_archived(open_folder: Path) -> None:
    root = open_folder / "media"
    (root / "closed folder").mkdir(parents=True)
    for name in ("a", "closed", "z", "closed folder/child"):
        (root / name).write_text(name)
    (root / "closed").chmod(0)
    (root / "closed folder").chmod(0o444)
    root.chmod(0o755)
    said = said_by_python(
        "import io, sys\n"
        "from pathlib import Path\n"
        "from twist_dr.repository.archive import archive_media\n"
        "from twist_dr.repository.archive_index import read_index\n"
        "from twist_dr.repository.archive_reading import compare_archive\n"
        + AS_USER.format(NOBODY)
        + "archive, index = bytearray(), bytearray()\n"
        "folders = {'gone': Path(sys.argv[1], 'gone'), 'media': Path(sys.argv[1])}\n"
        "report = archive_media(folders, archive.extend, index.extend, as_it_is=True)\n"
        "print(*report.warnings('media'), sep='\\n')\n"
        "print(*(entry.path for entry in read_index(io.BytesIO(index))))\n"
        "print(compare_archive(io.BytesIO(archive), read_index(io.BytesIO(index)), 'media.tar'))\n",
        root,
    ).splitlines()
    assert said[0].startswith(f"media: The media folder {root / 'gone'} is not there")
    assert said[1].startswith(f"media: {root / 'closed'} cannot be read (Permission denied)")
    assert said[2].startswith(f"media: {root / 'closed folder/child'} cannot be read (Permission denied)")
    assert said[3:] == ["media media/a media/closed folder media/z", "(2, [])"]


def test_before_a_restore_a_file_that_breaks_off_is_named_and_filled_with_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = busy_folder(tmp_path)

    def broken(head: bytes, file: Any, size: int) -> Iterator[bytes]:
        yield head[:size]
        if size > len(head):
            raise OSError(errno.EIO, "bad block")

    monkeypatch.setattr(archive_module, "_limited", broken)
    with pytest.raises(SourceUnreadable, match="Input/output error"):
        archive(root)
    parts: list[bytes] = []
    report = archive_media({"media": root}, parts.append, lambda line: None, as_it_is=True)
    assert [sentence for sentence in report.damage if "a large" in sentence and "zeros" in sentence]
    content = {
        member.name: file.read() for member, file in read_archive(io.BytesIO(b"".join(parts)), "media.tar") if file
    }
    whole = (root / "a large").read_bytes()
    kept = content["media/a large"]
    assert len(kept) == len(whole) and kept.startswith(whole[: 1 << 20]) and not any(kept[(1 << 20) + 1 :])


def test_a_failing_disk_behind_the_archive_is_not_taken_for_an_unreadable_file(tmp_path: Path) -> None:
    root = busy_folder(tmp_path)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error") as caught:
        archive(root, Once(fail))
    assert not isinstance(caught.value, SourceUnreadable)


# -- configuration ----------------------------------------------------------------------------------------------------


def configured(*patterns: Path | str) -> tuple[Archived, list[str]]:
    parts: list[bytes] = []
    lines: list[bytes] = []
    report, empty = archive_configuration([str(pattern) for pattern in patterns], parts.append, lines.append)
    return Archived(b"".join(parts), b"".join(lines), report), empty


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    (folder / "app" / "sub").mkdir(parents=True)
    (folder / "app" / "one.conf").write_text("one")
    (folder / "app" / "sub" / "two.conf").write_text("two")
    (folder / "app" / ".env").write_text("three")
    return folder


def test_configuration_lies_under_its_full_path(etc: Path) -> None:
    made, empty = configured(etc / "app")
    inside = str(etc / "app").lstrip("/")
    assert made.contents() == {
        f"{inside}/.env": b"three",
        f"{inside}/one.conf": b"one",
        f"{inside}/sub/two.conf": b"two",
    }
    assert empty == []


def test_a_pattern_that_finds_nothing_is_named(etc: Path) -> None:
    made, empty = configured(etc / "app" / "*.toml", etc / "app" / "*.conf")
    assert len(made.contents()) == 1
    assert empty == [f"configuration: the pattern {etc}/app/*.toml finds no file"]


def test_patterns_that_overlap_store_each_file_once(etc: Path) -> None:
    made, _ = configured(etc / "app", etc / "app" / "**", etc / "app" / "*.conf", etc / "app" / "sub" / "two.conf")
    assert len(made.names()) == len(set(made.names())) == 5
    assert made.report.files == 3


def test_a_configuration_file_that_is_only_a_link_is_named(etc: Path) -> None:
    (etc / "app.conf").symlink_to("app/one.conf")
    made, _ = configured(etc / "app.conf")
    assert made.report.leading_outside == [str(etc / "app.conf").lstrip("/")]


def test_configuration_found_through_a_link_and_beside_it_can_be_read_back(etc: Path) -> None:
    (etc / "rel5").mkdir()
    (etc / "rel5" / "s.yml").write_text("five")
    (etc / "current").symlink_to("rel5")
    made, empty = configured(etc / "*", etc / "current" / "s.yml", etc / "app" / ".." / "current" / "*.yml")
    inside = str(etc).lstrip("/")
    assert made.contents()[f"{inside}/rel5/s.yml"] == b"five"
    assert f"{inside}/current" in made.names()
    assert len(made.names()) == len(set(made.names()))
    assert empty == []


def test_configuration_that_is_found_only_through_a_link_is_stored_where_it_lies(etc: Path) -> None:
    (etc / "current").symlink_to("app")
    made, _ = configured(etc / "current" / "one.conf", etc / "current" / ".." / "app" / "one.conf", etc / "current")
    inside = str(etc).lstrip("/")
    assert made.names() == [f"{inside}/app/one.conf", f"{inside}/current"]


# -- archives of others -----------------------------------------------------------------------------------------------


def by_hand(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """An archive of (name, type, link target)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            if kind == tarfile.REGTYPE:
                member.size = 4
            made.addfile(member, io.BytesIO(b"evil") if kind == tarfile.REGTYPE else None)
    file.seek(0)
    return file


FINE = ("media/fine.txt", tarfile.REGTYPE, "")


@pytest.mark.parametrize(
    "bad",
    [
        [("../evil", tarfile.REGTYPE, "")],
        [("media/../../evil", tarfile.REGTYPE, "")],
        [("media/..", tarfile.DIRTYPE, "")],
        [("/etc/evil", tarfile.REGTYPE, "")],
        [("//evil", tarfile.REGTYPE, "")],
        [(".", tarfile.DIRTYPE, "")],
        [("media/disk", tarfile.BLKTYPE, "")],
        [("media/tty", tarfile.CHRTYPE, "")],
        [("media/pipe", tarfile.FIFOTYPE, "")],
        [("media/hard", tarfile.LNKTYPE, "media/../../fine.txt")],
        [("media/hard", tarfile.LNKTYPE, "/etc/shadow")],
        [("media/link", tarfile.SYMTYPE, "/etc"), ("media/link/evil", tarfile.REGTYPE, "")],
        [("media/link", tarfile.SYMTYPE, "/etc"), ("media/./link//a/b/evil", tarfile.REGTYPE, "")],
        [("media/link", tarfile.SYMTYPE, "/etc/passwd"), ("media/link", tarfile.REGTYPE, "")],
    ],
    ids=[
        "dots first", "dots within", "dots last", "absolute", "double slash", "nothing", "disk", "terminal", "pipe",
        "hard link", "hard link outside", "below a link", "below a link, veiled", "over a link",
    ],
)  # fmt: skip
def test_an_archive_that_reaches_outside_is_refused_after_the_good_entries(bad: list[tuple[str, bytes, str]]) -> None:
    seen = []
    with pytest.raises(ArchiveInvalid, match="do not restore it"):
        for member, _ in read_archive(by_hand(FINE, *bad), "media.tar"):
            seen.append(member.name)
    assert seen == ["media/fine.txt", *(name for name, _, _ in bad[:-1])]


def headers(data: bytes) -> Iterator[int]:
    """Where the members' headers begin."""
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        yield from (member.offset_data - 512 for member in made)


def test_a_truncated_or_damaged_archive_is_refused_wherever_it_was_hit(tmp_path: Path) -> None:
    made = archive(busy_folder(tmp_path))
    starts = list(headers(made.archive))
    cuts = [0, 1, 511, starts[1], starts[1] + 100, starts[2], starts[3] + 512, len(made.archive) - 1024]
    hits = [start + 150 for start in starts]
    damaged = [made.archive[:cut] for cut in cuts]
    damaged += [made.archive[:hit] + b"\xff" + made.archive[hit + 1 :] for hit in hits]
    for data in damaged:
        with pytest.raises(ArchiveInvalid, match=r"media\.tar"):
            for _, content in read_archive(io.BytesIO(data), "media.tar"):
                if content is not None:
                    content.read()


def test_reading_an_archive_of_very_many_files_keeps_none_of_them_in_memory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = archive(tree)
    opened: list[tarfile.TarFile] = []
    real = tarfile.open

    def noted(*args: Any, **named: Any) -> tarfile.TarFile:
        opened.append(real(*args, **named))
        return opened[-1]

    monkeypatch.setattr(tarfile, "open", noted)
    kept = [len(opened[0].members) for _ in read_archive(io.BytesIO(made.archive), "media.tar")]  # type: ignore[attr-defined]
    assert len(kept) == len(facts(tree))
    assert max(kept) <= 1


def test_an_archive_and_an_index_that_disagree_are_told_apart(tmp_path: Path) -> None:
    made = archive(busy_folder(tmp_path))
    lines = made.index.splitlines(keepends=True)

    def differences(*index: bytes, data: bytes = made.archive) -> str:
        return " | ".join(Archived(data, b"".join(index), made.report).compared()[1])

    assert differences(*lines) == ""
    assert "a large" in differences(lines[0], *lines[2:])
    assert "file is missing from the archive" not in differences(*lines[:-1])
    assert "nothing more" in differences(*lines[:-1])
    extra = json.dumps({**json.loads(lines[-1]), "path": "media/lost.txt"}).encode() + b"\n"
    assert differences(*lines, extra) == "media.tar: media/lost.txt is missing from the archive"
    other = made.archive.replace(b"small" + bytes(507), b"smoll" + bytes(507))
    assert differences(*lines, data=other) == "media.tar: media/b small has other bytes than were recorded"


@pytest.mark.parametrize("line", [b"{", b"[]\n", b"5\n", b'{"path": "a"}\n', b'{"path": "a", "extra": 1}\n', b"\xff\n"])
def test_a_damaged_index_is_refused_in_words(line: bytes) -> None:
    with pytest.raises(ArchiveInvalid, match="index is damaged"):
        list(read_index(io.BytesIO(line)))
