"""What a share adds to a folder: it may not be mounted, and it may not answer."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from twist_dr.errors import TargetUnavailable
from twist_dr.storage.nas import NasTarget
from twist_dr_tests.storage.conftest import MakeFile, mounted_tmpfs

KEY = "erp/backups/1/database.dump"


@pytest.fixture
def mount_point() -> Iterator[Path]:
    """Below no other mount: where the tests' own temporary files are in memory, they are below one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, mounted_tmpfs(Path(folder) / "share") as share:
        yield share


def unmount(folder: Path) -> None:
    subprocess.run(["umount", str(folder)], check=True)


def every_operation(target: NasTarget, make_file: MakeFile) -> list[Callable[[], object]]:
    source, digest = make_file()
    return [
        target.prepare,
        lambda: target.put(source, KEY, digest),
        lambda: target.open(KEY),
        lambda: target.stat(KEY),
        lambda: target.check(KEY, digest),
        lambda: list(target.list("")),
        lambda: target.children(""),
        lambda: target.delete(KEY),
        lambda: target.sweep(timedelta(0)),
        target.space,
        target.probe,
    ]


@pytest.mark.parametrize("below", [".", "backups"])
@pytest.mark.parametrize("named", [True, False])
def test_when_the_share_is_not_mounted_everything_is_refused_and_nothing_lands_beneath(
    mount_point: Path, make_file: MakeFile, below: str, named: bool
) -> None:
    target = NasTarget("nas", mount_point / below, mount_point=mount_point if named else None)
    target.prepare()
    source, digest = make_file()
    target.put(source, KEY, digest)
    unmount(mount_point)
    (mount_point / below).mkdir(exist_ok=True)  # As some leave there from an earlier accident.
    for use in every_operation(target, make_file):
        with pytest.raises(TargetUnavailable, match=r"nas: nothing is mounted at .*mount "):
            use()
    assert [path.name for path in mount_point.rglob("*")] == ([] if below == "." else [below])


def test_what_was_stored_is_there_again_once_the_share_is_mounted_again(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    with mounted_tmpfs(tmp_path / "server") as server, mounted_tmpfs(tmp_path / "share") as folder:
        unmount(folder)
        subprocess.run(["mount", "--bind", str(server), str(folder)], check=True)
        target = NasTarget("nas", folder / "backups", mount_point=folder)
        target.prepare()
        target.put(source, KEY, digest)
        unmount(folder)
        with pytest.raises(TargetUnavailable):
            target.check(KEY, digest)
        subprocess.run(["mount", "--bind", str(server), str(folder)], check=True)
        target.check(KEY, digest)


def test_a_folder_of_this_disk_is_not_taken_for_a_share(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="nothing is mounted"):
        NasTarget("nas", tmp_path / "share" / "backups", mount_point=tmp_path / "share").prepare()
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_made_above_the_target_on_the_share(mount_point: Path) -> None:
    with pytest.raises(TargetUnavailable, match="does not exist"):
        NasTarget("nas", mount_point / "not" / "there", mount_point=mount_point).prepare()
    assert list(mount_point.iterdir()) == []


def test_a_path_outside_its_mount_point_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"storage_targets\.nas\.path"):
        NasTarget("nas", tmp_path / "elsewhere", mount_point=tmp_path / "share")


def test_a_staged_file_on_the_share_itself_is_copied_not_linked(mount_point: Path, make_file: MakeFile) -> None:
    outside, digest = make_file()
    source = mount_point / "staged"
    source.touch(0o600)
    source.write_bytes(outside.read_bytes())
    target = NasTarget("nas", mount_point / "backups", mount_point=mount_point)
    target.prepare()
    target.put(source, KEY, digest)
    assert (target.path / KEY).stat().st_ino != source.stat().st_ino


def test_a_mount_point_with_a_space_in_its_name_is_found(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "my share") as folder:
        NasTarget("nas", folder / "backups", mount_point=folder).prepare()


@contextlib.contextmanager
def hanging_share(folder: Path) -> Iterator[Callable[[], None]]:
    """A file system whose server never answers: FUSE without a server. Yields what makes that server crash.

    What waits for it is let go then, with ENOTCONN.
    """
    folder.mkdir()
    device = open("/dev/fuse", "rb+", buffering=0)  # noqa: SIM115
    options = f"fd={device.fileno()},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(folder), b"fuse", 0, options) != 0:
        pytest.fail(f"this test needs to mount a FUSE file system as root: {os.strerror(ctypes.get_errno())}")
    try:
        yield device.close
    finally:
        device.close()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("named", [True, False])
def test_a_share_that_does_not_answer_is_refused_in_time_and_asked_only_once(
    tmp_path: Path, make_file: MakeFile, named: bool
) -> None:
    before, start = threading.active_count(), time.monotonic()
    with hanging_share(tmp_path / "share"):
        target = NasTarget(
            "nas",
            tmp_path / "share" / "backups",
            mount_point=tmp_path / "share" if named else None,
            timeout_seconds=0.1,
        )
        for use in every_operation(target, make_file):
            with pytest.raises(TargetUnavailable, match=r"nas: the share at .* has not answered for 0\.1 seconds"):
                use()
        assert threading.active_count() <= before + 1
        assert time.monotonic() - start < 5


def test_a_share_whose_server_crashed_is_refused_with_what_to_do(tmp_path: Path, make_file: MakeFile) -> None:
    with hanging_share(tmp_path / "share") as crash:
        crash()
        target = NasTarget("nas", tmp_path / "share" / "backups", mount_point=tmp_path / "share")
        for use in every_operation(target, make_file):
            with pytest.raises(TargetUnavailable, match=r"nas: .*check that the disk or share is mounted"):
                use()
