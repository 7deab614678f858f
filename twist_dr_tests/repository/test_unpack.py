"""What was archived comes back as it was, in new folders and nowhere else, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from twist_dr.errors import ArchiveInvalid, RestoreFailed, StagingFull
from twist_dr.repository.archive import archive_configuration, archive_media
from twist_dr.repository.archive_index import ArchiveEntry, read_index
from twist_dr.repository.unpack import Unpacked, unpack, unpack_configuration
from twist_dr.system.folders import remove_tree
from twist_dr_tests.helpers import AS_USER, NOBODY, noise, said_by_python
from twist_dr_tests.repository.test_archive import NAMES, Archived
from twist_dr_tests.storage.conftest import mounted_tmpfs

ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root can be another user")


def archived(**folders: Path) -> Archived:
    parts: list[bytes] = []
    lines: list[bytes] = []
    report = archive_media(folders, parts.append, lines.append)
    return Archived(b"".join(parts), b"".join(lines), report)


def unpacked(
    made: Archived,
    index: list[ArchiveEntry] | None = None,
    advance: Callable[[int], None] = lambda count: None,
    **places: Path,
) -> Unpacked:
    entries = made.entries() if index is None else index
    return unpack(io.BytesIO(made.archive), iter(entries), places, "media.tar", advance=advance)


class When(float):
    """A time that passes through a number of seconds with a fraction, which is exact to less than a microsecond."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) < 1e-6


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """What there is to know of each path at and below a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            When(status.st_mtime),
            content,
        )
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A media folder with a bit of everything."""
    root = tmp_path / "media files"
    deep = root / ("d" * 90) / ("ü" * 90)
    deep.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(noise(number * 700, seed=number))
        (deep / name).write_bytes(noise(number, seed=number))
    (root / "empty folder").mkdir()
    (root / "empty").touch()
    (root / "large.bin").write_bytes(noise(3_000_001))
    (root / "executable").write_text("#!/bin/sh\n")
    (root / "executable").chmod(0o751)
    (root / "sealed").mkdir()
    (root / "sealed" / "inside").write_text("sealed")
    (root / "sealed" / "inside").chmod(0o400)
    (root / "shared").mkdir()
    (root / "shared" / "upload").write_text("shared")
    (root / "link").symlink_to("plain.txt")
    (root / "broken link").symlink_to(os.fsdecode(b"/nowhere/\xff"))
    (root / "link to folder").symlink_to("sealed")
    if ROOT:
        os.chown(root / "shared", NOBODY, NOBODY)
        os.chown(root / "shared" / "upload", 4_000_000, 33)
        os.chown(root / "link", 33, 33, follow_symlinks=False)
    (root / "shared").chmod(0o2775)
    (root / "sealed").chmod(0o555)
    for when, path in enumerate([*root.rglob("*"), root]):
        os.utime(path, ns=(0, (1_234_567_890 - when * 86_400) * 10**9 + 123_456_789), follow_symlinks=False)
    os.utime(root / "empty", (-86_400, -86_400))
    root.chmod(0o750)
    return root


@pytest.mark.promise(10)
def test_everything_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    before = facts(tree)
    made = archived(attachments=tree)
    told: list[int] = []
    done = unpacked(made, advance=told.append, attachments=tmp_path / "restored")
    assert facts(tmp_path / "restored") == before
    assert (done.files, done.bytes) == (made.report.files, made.report.bytes) and sum(told) == done.bytes
    assert (done.skipped, done.notes) == ([], [])


@only_root
def test_an_ordinary_user_gets_all_but_the_owners(tree: Path, open_folder: Path) -> None:
    made = archived(attachments=tree)
    (open_folder / "media.tar").write_bytes(made.archive)
    (open_folder / "index").write_bytes(made.index)
    open_folder.chmod(0o777)
    code = (
        "import sys, traceback\nfrom pathlib import Path\nfrom twist_dr.repository.unpack import unpack\n"
        "from twist_dr.system.folders import remove_tree\nfrom twist_dr.repository.archive_index import read_index\n"
        + AS_USER.format(NOBODY)
        + "base = Path(sys.argv[1])\n"
        "with open(base / 'media.tar', 'rb') as archive, open(base / 'index', 'rb') as index:\n"
        "    print(unpack(archive, read_index(index), {'attachments': base / 'restored'}, 'media.tar').notes)\n"
        "if len(sys.argv) > 2: remove_tree(base / 'restored'); remove_tree(base / 'restored')\n"
    )
    assert said_by_python(code, open_folder) == "[]"

    def without_owner(root: Path) -> dict[str, tuple[object, ...]]:
        return {name: (mode, *rest) for name, (mode, _, _, *rest) in facts(root).items()}

    assert without_owner(open_folder / "restored") == without_owner(tree)
    assert {path.lstat().st_uid for path in (open_folder / "restored").rglob("*")} == {NOBODY}
    remove_tree(open_folder / "restored")
    said_by_python(code, open_folder, "and remove, read-only folder and all")
    assert not (open_folder / "restored").exists()


def test_the_folder_is_closed_to_others_until_all_is_in(tree: Path, tmp_path: Path) -> None:
    tree.chmod(0o755)
    modes = set()
    restored = tmp_path / "restored"
    unpacked(archived(attachments=tree), advance=lambda _: modes.add(restored.stat().st_mode), attachments=restored)
    assert {stat.S_IMODE(mode) for mode in modes} == {0o700}
    assert stat.S_IMODE(restored.stat().st_mode) == 0o755


def test_each_folder_goes_to_its_place_and_what_has_none_is_named(tmp_path: Path) -> None:
    for name in ("avatars", "documents", "exports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "what").write_text(name)
    made = archived(**{name: tmp_path / name for name in ("avatars", "documents", "exports")})
    done = unpacked(made, avatars=tmp_path / "1", exports=tmp_path / "3", letters=tmp_path / "4")
    assert ((tmp_path / "1" / "what").read_text(), (tmp_path / "3" / "what").read_text()) == ("avatars", "exports")
    assert done.files == 2 and done.skipped == ["documents"]
    assert done.notes == ["media.tar: holds no folder letters, so none was made."] and not (tmp_path / "4").exists()


def test_set_uid_is_dropped_and_said_but_a_folder_keeps_its_group(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "tool").write_text("x")
    (folder / "tool").chmod(0o6755)
    folder.chmod(0o2770)
    done = unpacked(archived(media=folder), media=tmp_path / "restored")
    assert stat.S_IMODE((tmp_path / "restored" / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "restored").stat().st_mode) == 0o2770
    assert [note for note in done.notes if "media/tool" in note and "set-uid" in note] == done.notes != []


@pytest.fixture
def small(tmp_path: Path) -> Archived:
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(f"<{name}>")
    return archived(media=folder)


@pytest.mark.promise(4)
@pytest.mark.parametrize("asked", [True, False])
def test_other_bytes_than_recorded_are_refused_by_name(small: Archived, tmp_path: Path, asked: bool) -> None:
    small.archive = small.archive.replace(b"<b>", b"<B>")
    places = {"media" if asked else "other": tmp_path / "restored"}
    with pytest.raises(ArchiveInvalid, match="media/b has other bytes"):
        unpacked(small, **places)


@pytest.mark.promise(10)
def test_a_missing_or_an_extra_entry_is_refused_by_name(small: Archived, tmp_path: Path) -> None:
    top, a, b, c = small.entries()
    other = replace(a, path="media/aa")
    for number, (index, said) in enumerate(
        [
            ([top, a, b], "holds the file media/c where its index has nothing more"),
            ([top, a, b, c, replace(c, path="media/d")], "media/d is missing"),
            ([top, a, other, b, c], "holds the file media/b where its index has the file media/aa"),
            ([top, replace(a, kind="link"), b, c], "holds the file media/a where its index has the link media/a"),
            ([top, replace(a, sha256=None), b, c], "media/a has other bytes"),
        ]
    ):
        with pytest.raises(ArchiveInvalid, match=said):
            unpacked(small, index, media=tmp_path / f"restored {number}")


def test_an_archive_that_ends_early_is_refused(tree: Path, tmp_path: Path) -> None:
    made = archived(media=tree)
    for number, size in enumerate((0, 512, 100_000, len(made.archive) // 2, len(made.archive) - 1024 - 512)):
        cut = Archived(made.archive[:size], made.index, made.report)
        with pytest.raises(ArchiveInvalid):
            unpacked(cut, media=tmp_path / f"restored {number}")


def test_a_folder_that_is_there_already_is_left_alone(small: Archived, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("precious")
    with pytest.raises(RestoreFailed, match="there is there already"):
        unpacked(small, media=tmp_path / "there")
    assert [path.read_text() for path in (tmp_path / "there").iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_made_is_named(small: Archived, tmp_path: Path) -> None:
    with pytest.raises(RestoreFailed, match=r"below .*missing/restored .*No such file"):
        unpacked(small, media=tmp_path / "missing" / "restored")


@pytest.mark.parametrize("options", ["size=1m", "nr_inodes=10"])
def test_a_full_disk_is_named_and_what_was_made_can_be_removed(tree: Path, tmp_path: Path, options: str) -> None:
    with mounted_tmpfs(tmp_path / "disk", options) as disk:
        with pytest.raises(StagingFull, match=f"disk of {disk}/restored is full"):
            unpacked(archived(media=tree), media=disk / "restored")
        remove_tree(disk / "restored")
        assert list(disk.iterdir()) == []


# -- spiteful archives and neighbours ---------------------------------------------------------------------------------


def handmade(*members: tuple[str, bytes, str]) -> tuple[io.BytesIO, Iterator[ArchiveEntry]]:
    """An archive and its index of members (name, type, content or link target), with no rule kept."""
    target = io.BytesIO()
    entries = []
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            is_file = kind == tarfile.REGTYPE
            info.size = len(content) if is_file else 0
            info.linkname = "" if is_file else content
            archive.addfile(info, io.BytesIO(content.encode()))
            word = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "folder", tarfile.SYMTYPE: "link"}[kind]
            digest = None if word == "folder" else hashlib.sha256(content.encode()).hexdigest()
            entries.append(ArchiveEntry(name, word, info.size, digest, 0))
    target.seek(0)
    return target, iter(entries)


_FOLDER, _FILE, _LINK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("media", _FOLDER, ""), ("media/../x", _FILE, "x")],
        [("/media", _FOLDER, "")],
        [("media", _FOLDER, ""), ("media/link", _LINK, "{victim}"), ("media/link/x", _FILE, "x")],
        [("media", _FOLDER, ""), ("media/link", _LINK, "{victim}/x"), ("media/link", _FILE, "x")],
        [("media", _LINK, "{victim}"), ("media/x", _FILE, "x")],
        [("media", _LINK, "{victim}")],
        [("media", _FILE, "x")],
        [("media/x", _FILE, "x")],
        [("media", _FOLDER, ""), ("media", _FOLDER, "")],
        [("media", _FOLDER, ""), ("media/x", _FILE, "x"), ("media/x", _FILE, "y")],
        [("media", _FOLDER, ""), ("media/x", _FILE, "x"), ("media/x/y", _FILE, "y")],
        [("media", _FOLDER, ""), ("media/x", _FOLDER, ""), ("media/x", _FOLDER, "")],
        [("media", _FOLDER, ""), ("media/x/y", _FILE, "y")],
        [("media", _FOLDER, ""), ("media/./x", _FILE, "x")],
        [("media", _FOLDER, ""), ("media//x", _FILE, "x")],
        [("media", _FOLDER, ""), ("media/.", _FOLDER, "")],
    ],
    ids=lambda members: " ".join(name for name, _, _ in members),
)
def test_an_archive_that_breaks_the_rules_is_refused_and_writes_nothing_outside(
    members: list[tuple[str, bytes, str]], tmp_path: Path
) -> None:
    victim, base = tmp_path / "victim", tmp_path / "base"
    victim.mkdir()
    base.mkdir()
    stream, index = handmade(*((name, kind, text.format(victim=victim)) for name, kind, text in members))
    with pytest.raises(ArchiveInvalid):
        unpack(stream, index, {"media": base / "restored"}, "media.tar")
    assert list(victim.iterdir()) == [] and {path.name for path in base.iterdir()} <= {"restored"}


def test_a_link_laid_in_the_way_while_we_write_is_not_followed(small: Archived, tmp_path: Path) -> None:
    victim, restored = tmp_path / "victim", tmp_path / "restored"
    victim.write_text("precious")

    def lay(count: int) -> None:
        if not (restored / "b").is_symlink():
            (restored / "b").symlink_to(victim)

    with pytest.raises(ArchiveInvalid, match="media/b"):
        unpacked(small, advance=lay, media=restored)
    assert victim.read_text() == "precious"


def test_a_folder_exchanged_for_a_link_while_we_write_leads_nowhere(tmp_path: Path) -> None:
    folder, victim, restored = tmp_path / "media", tmp_path / "victim", tmp_path / "restored"
    (folder / "below").mkdir(parents=True)
    victim.mkdir()
    for name in ("1", "2"):
        (folder / "below" / name).write_text(name)

    def swap(count: int) -> None:
        if not (restored / "below").is_symlink():
            (restored / "below").rename(tmp_path / "moved")
            (restored / "below").symlink_to(victim)

    unpacked(archived(media=folder), advance=swap, media=restored)
    assert list(victim.iterdir()) == [] and len(list((tmp_path / "moved").iterdir())) == 2


def test_paths_too_long_for_the_system_by_the_new_folders_name_are_written_and_removed(tmp_path: Path) -> None:
    folder = deep = tmp_path / "m"
    folder.mkdir()
    while len(os.fsencode(deep)) < 3_900:
        deep = deep / ("d" * 100)
        deep.mkdir()
    (deep / "file").write_text("x")
    restored = tmp_path / ("r" * 250)
    assert unpacked(archived(media=folder), media=restored).files == 1
    remove_tree(restored)
    assert not restored.exists()


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_configuration_is_unpacked_for_us_alone_below_one_folder(tmp_path: Path, private: bool) -> None:
    etc = tmp_path / "etc"
    (etc / "app" / "conf.d").mkdir(parents=True)
    for name, mode in (("app/settings.py", 0o640), ("app/conf.d/a", 0o444), ("single", 0o600), ("other", 0o666)):
        (etc / name).write_text(name)
        (etc / name).chmod(mode)
    (etc / "app" / "current").symlink_to("settings.py")
    (etc / "app" / "conf.d").chmod(0o555)
    if ROOT:
        os.chown(etc / "single", NOBODY, NOBODY)
    parts: list[bytes] = []
    lines: list[bytes] = []
    patterns = [str(etc / "app"), str(etc / "single")]
    archive_configuration(patterns, parts.append, lines.append)
    folder = tmp_path / "to compare"
    index = read_index(io.BytesIO(b"".join(lines)))
    done = unpack_configuration(io.BytesIO(b"".join(parts)), index, folder, "configuration.tar", private=private)
    below = folder / str(etc).lstrip("/")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and {path.lstat().st_uid for path in folder.rglob("*")} == {
        os.geteuid()
    }
    modes = {str(path.relative_to(below)): stat.S_IMODE(path.stat().st_mode) for path in below.rglob("*")}
    if private:
        assert set(modes.values()) == {0o700, 0o600}
        assert {name for name, mode in modes.items() if mode == 0o700} == {"app", "app/conf.d"}
        return
    assert modes == {
        "app": 0o755,
        "app/conf.d": 0o555,
        "app/conf.d/a": 0o444,
        "app/current": 0o640,
        "app/settings.py": 0o640,
        "single": 0o600,
    }
    assert (below / "app" / "current").is_symlink() and (below / "single").read_text() == "single"
    assert (done.files, done.skipped, done.notes) == (3, [], [])


def test_configuration_with_a_difference_is_refused(tmp_path: Path) -> None:
    stream, index = handmade(("etc/app", _FILE, "right"))
    wrong = [replace(entry, sha256="0" * 64) for entry in index]
    with pytest.raises(ArchiveInvalid, match="etc/app has other bytes"):
        unpack_configuration(stream, iter(wrong), tmp_path / "to compare", "configuration.tar", private=True)
