"""Whatever is put on a folder as a storage target, nothing that is done there leaves it."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twist_dr.errors import ObjectMissing, StorageError, TargetRefused
from twist_dr.settings.building import keep_apart
from twist_dr.storage import beneath
from twist_dr.storage.base import Stranger
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.nas import NasTarget
from twist_dr_tests.storage.conftest import MakeFile, mounted_tmpfs

KEY = "erp/backups/20260101T000000Z-full-0001/manifest.json"
FOLDERS = ["erp", "erp/backups", "erp/backups/20260101T000000Z-full-0001"]
OLD = f"1000000000-{'0' * 32}"


@pytest.fixture(params=["local", "nas"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalTarget]:
    if request.param == "local":
        made = LocalTarget("office", tmp_path / "office")
        made.prepare()
        yield made
        return
    with mounted_tmpfs(tmp_path / "office") as folder:
        yield NasTarget("office", folder, mount_point=folder)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Files of somebody else's, under all the names that somebody could want us to look for."""
    folder = tmp_path / "victim"
    for name in (KEY, KEY.removeprefix("erp/"), KEY.removeprefix("erp/backups/"), "manifest.json", OLD):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("somebody else's")
    return folder


def _everything(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def _strangers(target: LocalTarget) -> list[Stranger]:
    return [each for each in target.strangers("erp") if each is not None]


def _bind(source: Path, place: Path) -> None:
    place.mkdir()
    subprocess.run(["mount", "--bind", str(source), str(place)], check=True)


def _link(source: Path, place: Path) -> None:
    place.symlink_to(source)


@contextmanager
def _led_away(target: LocalTarget, where: str, how: Callable[[Path, Path], None], victim: Path) -> Iterator[None]:
    place = target.path / where
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    how(victim, place)
    try:
        yield
    finally:
        if how is _bind:
            subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("where", FOLDERS)
@pytest.mark.parametrize(("how", "what"), [(_link, "a symbolic link"), (_bind, "a mount point")])
def test_a_folder_that_leads_elsewhere_holds_nothing_takes_nothing_and_is_named(
    target: LocalTarget, victim: Path, make_file: MakeFile, where: str, how: Callable[[Path, Path], None], what: str
) -> None:
    source, digest = make_file()
    before = _everything(victim)
    with _led_away(target, where, how, victim):
        assert target.stat(KEY) is None
        with pytest.raises(ObjectMissing):
            target.open(KEY)
        with pytest.raises(ObjectMissing):
            target.check(KEY, digest)
        for prefix in ("", *FOLDERS):
            assert (list(target.list(prefix)), target.children(prefix)) == ([], [])
        target.delete(KEY)
        target.sweep(timedelta(0))
        with pytest.raises(TargetRefused, match=f"{where} is {what}, and nothing below .* move it away"):
            target.put(source, KEY, digest)
        assert _strangers(target) == [Stranger(where, what)]
        assert (target.path / where).exists() and _everything(victim) == before


def test_where_unfinished_uploads_lie_nothing_leads_elsewhere(
    target: LocalTarget, victim: Path, make_file: MakeFile
) -> None:
    source, digest = make_file()
    before = _everything(victim)
    with _led_away(target, ".incoming", _link, victim):
        with pytest.raises(TargetRefused, match=r"\.incoming is a symbolic link"):
            target.put(source, KEY, digest)
        with pytest.raises(TargetRefused, match=r"\.incoming is a symbolic link"):
            target.prepare()
        with pytest.raises(TargetRefused, match=r"\.incoming is a symbolic link"):
            target.sweep(timedelta(0))
    assert _everything(victim) == before and list(target.list("")) == []


def test_an_old_upload_or_probe_that_is_a_link_is_left_alone(target: LocalTarget, victim: Path) -> None:
    target.prepare()
    for name in (f".incoming/{OLD}", ".probe-1"):
        (target.path / name).symlink_to(victim / OLD)
    os.utime(victim / OLD, (1, 1))
    assert target.sweep(timedelta(0)) == 0
    assert (target.path / ".incoming" / OLD).is_symlink() and (target.path / ".probe-1").is_symlink()


def _fifo(place: Path, victim: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(place.parent, os.O_PATH)
        server.bind(f"/proc/self/fd/{folder}/{place.name}")
        os.close(folder)


def _device(place: Path, victim: Path) -> None:
    os.mknod(place, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero: read, it never ends


def _file_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "manifest.json")


def _dangling(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "not there")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_fifo, "a named pipe"),
        (_socket, "a socket"),
        (_device, "a device"),
        (_file_link, "a symbolic link"),
        (_dangling, "a symbolic link"),
    ],
)
def test_what_is_no_regular_file_is_no_object_and_is_neither_opened_nor_replaced_nor_removed(
    target: LocalTarget, victim: Path, make_file: MakeFile, make: Callable[[Path, Path], None], what: str
) -> None:
    source, digest = make_file()
    before = _everything(victim)
    target.prepare()
    place = target.path / KEY
    place.parent.mkdir(parents=True)
    make(place, victim)
    assert target.stat(KEY) is None and list(target.list("")) == [] and target.children("erp") == []
    with pytest.raises(ObjectMissing):
        target.open(KEY)
    target.delete(KEY)
    with pytest.raises(TargetRefused, match=f"manifest.json is {what}"):
        target.put(source, KEY, digest)
    assert _strangers(target) == [Stranger(KEY, what)]
    assert os.path.lexists(place) and _everything(victim) == before


@pytest.mark.parametrize("seconds", [-(1 << 40), 1 << 40])
def test_a_file_with_a_time_that_no_calendar_has_is_listed_all_the_same(
    tmp_path: Path, make_file: MakeFile, seconds: int
) -> None:
    source, digest = make_file()
    with mounted_tmpfs(tmp_path / "office") as folder:
        target = LocalTarget("office", folder)
        target.put(source, KEY, digest)
        os.utime(folder / KEY, (seconds, seconds))
        (entry,) = target.list("")
        assert entry == target.stat(KEY) and entry.modified.year in (1, 9999)


def test_a_file_that_is_a_mount_is_no_object(target: LocalTarget, victim: Path) -> None:
    place = target.path / KEY
    place.parent.mkdir(parents=True)
    place.touch()
    subprocess.run(["mount", "--bind", str(victim / "manifest.json"), str(place)], check=True)
    try:
        assert target.stat(KEY) is None and list(target.list("")) == []
        target.delete(KEY)
        assert _strangers(target) == [Stranger(KEY, "a mount point")]
        assert place.read_text() == "somebody else's"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_where_the_kernel_does_not_tell_of_mounts_another_file_system_is_one(
    tmp_path: Path, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.8, and containers whose seccomp profile is older than statx(2)."""
    monkeypatch.setattr(beneath, "_told_mount", lambda folder, name: None)
    source, digest = make_file()
    target = LocalTarget("office", tmp_path / "office")
    target.prepare()
    target.put(source, KEY, digest)
    assert target.stat(KEY) is not None and _strangers(target) == []
    with mounted_tmpfs(target.path / "erp" / "wal") as folder:
        (folder / "manifest.json").write_text("somebody else's")
        assert [each.key for each in target.list("")] == [KEY] and target.stat("erp/wal/manifest.json") is None
        assert _strangers(target) == [Stranger("erp/wal", "a mount point")]


def test_the_targets_own_folder_may_be_a_link_and_hard_links_are_files(tmp_path: Path, make_file: MakeFile) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "office").symlink_to(tmp_path / "disk")
    target = LocalTarget("office", tmp_path / "office")
    target.prepare()
    source, digest = make_file()
    target.put(source, KEY, digest)
    assert (tmp_path / "disk" / KEY).stat().st_nlink == 2
    target.check(KEY, digest)
    target.delete(KEY)
    assert list(target.list("")) == [] and source.exists()


def test_folders_within_folders_without_end_are_not_walked_to_their_end(tmp_path: Path) -> None:
    target = LocalTarget("office", tmp_path / "office")
    target.prepare()
    here = os.open(target.path, os.O_PATH)
    for _ in range(500):
        os.mkdir("erp", dir_fd=here)
        below = os.open("erp", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert list(target.list("")) == [] and target.children("") == [] and target.children("/".join(["erp"] * 15)) == []
    with pytest.raises(ValueError, match="its parts are too many"):
        target.stat("/".join(["erp"] * 17))
    (stranger,) = _strangers(target)
    assert stranger.what == "too deep a folder"
    subprocess.run(["rm", "-rf", str(target.path)], check=True)  # pytest's own way takes minutes


def _exchange(folder: Path, other: Path) -> None:
    """Both change names in one step (renameat2(2), RENAME_EXCHANGE)."""
    done = ctypes.CDLL(None).renameat2(-100, os.fsencode(folder), -100, os.fsencode(other), 2)
    assert done == 0


@pytest.mark.parametrize("where", [*FOLDERS, ".incoming"])
def test_a_folder_that_is_exchanged_for_a_link_again_and_again_leads_nowhere(
    tmp_path: Path, victim: Path, make_file: MakeFile, where: str
) -> None:
    target = LocalTarget("office", tmp_path / "office")
    target.prepare()
    source, digest = make_file()
    target.put(source, KEY, digest)
    (tmp_path / "link").symlink_to(victim)
    before, names = _everything(victim), sorted(str(path) for path in victim.rglob("*"))
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            with suppress(AssertionError):  # the folder is not there just now
                _exchange(target.path / where, tmp_path / "link")

    def listed() -> None:
        for entry in target.list(""):
            assert entry.size == digest.size

    attacker = threading.Thread(target=exchange)
    attacker.start()
    try:
        for _ in range(150):
            for use in (
                lambda: target.put(source, KEY, digest),
                lambda: target.check(KEY, digest),
                listed,
                lambda: target.sweep(timedelta(0)),
                lambda: target.delete(KEY),
            ):
                with suppress(StorageError):
                    use()
    finally:
        stop.set()
        attacker.join()
    assert _everything(victim) == before
    assert sorted(str(path) for path in victim.rglob("*")) == names


def _spelled(folder: Path, other: Path) -> Path:
    return other.parent / "." / folder.name / ".." / folder.name


def _linked(folder: Path, other: Path) -> Path:
    other.symlink_to(folder)
    return other


def _bound(folder: Path, other: Path) -> Path:
    _bind(folder, other)
    return other


@pytest.mark.parametrize("how", [_spelled, _linked, _bound])
def test_two_targets_that_are_one_folder_neither_store_nor_delete_and_can_be_read(
    tmp_path: Path, make_file: MakeFile, how: Callable[[Path, Path], Path]
) -> None:
    source, digest = make_file()
    alone = LocalTarget("office", tmp_path / "office")
    alone.prepare()
    alone.put(source, KEY, digest)
    other = how(alone.path, tmp_path / "other")
    try:
        targets = keep_apart({"office": LocalTarget("office", alone.path), "archive": LocalTarget("archive", other)})
        for name, target in targets.items():
            for use in (
                target.prepare,
                lambda target=target: target.put(source, "erp/new", digest),
                lambda target=target: target.delete(KEY),
                lambda target=target: target.sweep(timedelta(0)),
            ):
                with pytest.raises(TargetRefused, match=f"{name}: .* is the same folder as .* give each"):
                    use()
            target.check(KEY, digest)
            assert [each.key for each in target.list("")] == [KEY]
    finally:
        if how is _bound:
            subprocess.run(["umount", str(other)], check=True)


def test_a_target_that_is_away_keeps_no_other_from_being_used(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    away = NasTarget("nas", tmp_path / "nas", mount_point=tmp_path / "nas")
    gone = LocalTarget("gone", tmp_path / "gone" / "gone")
    office = LocalTarget("office", tmp_path / "office")
    keep_apart({"nas": away, "gone": gone, "office": office})
    office.prepare()
    office.put(source, KEY, digest)
    office.check(KEY, digest)


_PARTS = st.sampled_from(
    ["erp", "backups", "wal", "holds", "20260101T000000Z-full-0001", "manifest.json", ".incoming", OLD, "a b"]
)
_PATHS = st.lists(_PARTS, min_size=1, max_size=4).map(tuple)
_KINDS = st.sampled_from(["file", "folder", "link", "link in", "pipe", "device", "hard link"])


def _plant(place: Path, kind: str, victim: Path) -> None:
    if kind == "file":
        place.write_text("a file")
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        _device(place, victim)
    elif kind == "hard link":
        os.link(victim / "manifest.json", place)
    else:
        place.symlink_to(victim if kind == "link" else victim / "manifest.json")


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(planted=st.lists(st.tuples(_PATHS, _KINDS), max_size=8))
def test_whatever_lies_there_nothing_of_a_victims_is_read_changed_or_removed_through_it(
    tmp_path: Path, victim: Path, make_file: MakeFile, planted: list[tuple[tuple[str, ...], str]]
) -> None:
    source, digest = make_file()
    target = LocalTarget("office", tmp_path / uuid.uuid4().hex)
    target.path.mkdir()
    for path, kind in planted:
        place = target.path.joinpath(*path)
        # Made as far as it can be: below what was planted before, too, but for what leads to the victim.
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.parent.resolve().is_relative_to(target.path) and not os.path.lexists(place):
                _plant(place, kind, victim)
    before, names = _everything(victim), sorted(str(path) for path in victim.rglob("*"))
    keys = {"/".join(path) for path, _ in planted if path[0] != ".incoming" and "a b" not in path} | {KEY}
    for entry in target.list(""):
        with target.open(entry.key) as stream:
            assert len(stream.read()) == entry.size
        assert (target.path / entry.key).resolve() == target.path / entry.key, "reached through no link"
        keys.add(entry.key)
    strange = {each.path for each in target.strangers("") if each is not None}
    assert strange.isdisjoint(entry.key for entry in target.list(""))
    for key in sorted(keys):
        for use in (target.stat, target.children, lambda key: target.put(source, key, digest), target.delete):
            with suppress(StorageError):
                use(key)
    with suppress(StorageError):
        target.sweep(timedelta(0))
    assert _everything(victim) == before and sorted(str(path) for path in victim.rglob("*")) == names
    assert {path for path in strange if not os.path.lexists(target.path / path)} == set(), "each is left alone"
