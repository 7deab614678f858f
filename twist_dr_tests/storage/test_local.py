"""What a folder as a storage target adds to the contract: links, disks that are full, read-only or gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from twist_dr.errors import ObjectExists, TargetFull, TargetRefused, TargetUnavailable
from twist_dr.storage import files
from twist_dr.storage.beneath import Folder
from twist_dr.storage.local import LocalTarget
from twist_dr_tests.storage.conftest import MakeFile, mounted_tmpfs

KEY = "erp/backups/1/database.dump"


def ready(path: Path, name: str = "disk") -> LocalTarget:
    target = LocalTarget(name, path)
    target.prepare()
    return target


def test_a_staged_file_on_the_same_disk_is_linked_so_it_takes_no_space_twice(
    tmp_path: Path, make_file: MakeFile
) -> None:
    source, digest = make_file(1000)
    ready(tmp_path / "one").put(source, KEY, digest)
    assert (tmp_path / "one" / KEY).stat().st_ino == source.stat().st_ino


def test_two_targets_on_one_disk_never_share_their_bytes(tmp_path: Path, make_file: MakeFile) -> None:
    for _ in range(20):
        source, digest = make_file(1000)
        targets = [ready(tmp_path / name) for name in ("one", "two", "three")]
        key = f"erp/{source.name}"
        start = threading.Barrier(len(targets))

        def store(target: LocalTarget, source: Path, key: str, start: threading.Barrier) -> None:
            start.wait()
            target.put(source, key, digest)  # noqa: B023

        with ThreadPoolExecutor(len(targets)) as pool:
            futures = [pool.submit(store, target, source, key, start) for target in targets]
            for future in futures:
                future.result()
        inodes = [(target.path / key).stat().st_ino for target in targets]
        assert len(set(inodes)) == len(targets)
        assert inodes.count(source.stat().st_ino) == 1, "exactly one of them is the link"


def test_a_file_that_others_may_change_is_copied_instead_of_linked(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file(b"as it was")
    source.chmod(0o644)
    target = ready(tmp_path / "one")
    target.put(source, KEY, digest)
    source.write_bytes(b"changed!!")
    target.check(KEY, digest)


def test_nobody_else_can_read_what_is_stored(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    source.chmod(0o644)
    target = ready(tmp_path / "one")
    old = os.umask(0)
    try:
        target.put(source, KEY, digest)
    finally:
        os.umask(old)
    assert (target.path / KEY).stat().st_mode & 0o777 == 0o600
    for folder in ("", ".incoming", "erp", "erp/backups", "erp/backups/1"):
        assert (target.path / folder).stat().st_mode & 0o777 == 0o700


def test_a_full_disk_is_said_to_be_full_and_nothing_remains(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file(3 << 20)
    small, small_digest = make_file(100)
    with mounted_tmpfs(tmp_path / "small", "size=2m") as folder:
        target = ready(folder)
        with pytest.raises(TargetFull, match=r"disk: .*free some space"):
            target.put(source, KEY, digest)
        assert list(target.list("")) == []
        assert target.sweep(timedelta(0)) == 0
        space = target.space()
        assert space.total == 2 << 20
        assert space.free is not None
        assert space.free > 2_000_000, "what was written until then is free again"
        target.put(small, KEY, small_digest)


def test_a_read_only_disk_is_refused_but_can_be_read(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    with mounted_tmpfs(tmp_path / "disk") as folder:
        target = ready(folder)
        target.put(source, KEY, digest)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for use in (
            lambda: target.put(source, "erp/other", digest),
            lambda: target.delete(KEY),
            target.prepare,
            target.probe,
        ):
            with pytest.raises(TargetRefused, match=r"disk: .*read-only: remount it for writing"):
                use()
        target.check(KEY, digest)
        assert [entry.key for entry in target.list("")] == [KEY]


def test_a_folder_that_vanished_is_not_taken_for_an_empty_one(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(tmp_path / "one")
    target.put(source, KEY, digest)
    shutil.rmtree(target.path)
    for use in (
        lambda: target.put(source, KEY, digest),
        lambda: target.stat(KEY),
        lambda: target.open(KEY),
        lambda: list(target.list("erp")),
        lambda: target.children(""),
        lambda: target.delete(KEY),
        lambda: target.sweep(timedelta(0)),
        target.space,
    ):
        with pytest.raises(TargetUnavailable, match=r"does not exist; mount its disk.*storage_targets\.disk\.path"):
            use()
    assert not target.path.exists()


def test_a_folder_is_made_only_where_its_parent_exists(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="mount its disk"):
        LocalTarget("disk", tmp_path / "not" / "there").prepare()
    assert not (tmp_path / "not").exists()
    LocalTarget("disk", tmp_path / "there").prepare()
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o700


def test_an_altered_object_is_found_and_not_taken_for_the_same(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file(b"some bytes")
    target = ready(tmp_path / "one")
    target.put(source, KEY, digest)
    (target.path / KEY).unlink()
    (target.path / KEY).write_bytes(b"some bytez")
    with pytest.raises(ObjectExists, match="check that object and delete it if it is damaged"):
        target.put(source, KEY, digest)


def test_an_object_where_a_folder_is_needed_is_refused_with_a_reason(tmp_path: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(tmp_path / "one")
    target.put(source, "erp/a", digest)
    with pytest.raises(ObjectExists, match="no object can lie below it"):
        target.put(source, "erp/a/b/c", digest)
    with pytest.raises(ObjectExists, match="objects lie below erp"):
        target.put(source, "erp", digest)
    assert target.stat("erp/a/b/c") is None
    assert target.sweep(timedelta(0)) == 0


def test_an_empty_folder_is_not_taken_for_a_backup(tmp_path: Path, make_file: MakeFile) -> None:
    """What a writer leaves that was killed just before its first object became visible."""
    target = ready(tmp_path / "one")
    (target.path / "erp" / "backups" / "1").mkdir(parents=True)
    (target.path / "erp" / "backups" / "2").mkdir()
    source, digest = make_file()
    target.put(source, "erp/backups/2/manifest.json", digest)
    assert target.children("erp/backups") == ["2"]


def test_unfinished_uploads_cannot_be_reached_by_a_key(tmp_path: Path) -> None:
    target = ready(tmp_path / "one")
    with pytest.raises(ValueError, match="reserved"):
        target.stat(".incoming/1-2")
    assert target.children("") == []


def test_sweep_keeps_files_that_are_not_ours_and_those_that_are_written_to(tmp_path: Path) -> None:
    target = ready(tmp_path / "one")
    foreign = target.path / ".incoming" / "notes.txt"
    foreign.write_text("mine")
    old = target.path / ".incoming" / ("1000000000-" + "0" * 32)
    old.write_text("left")
    os.utime(old, (1000000000, 1000000000))
    slow = old.with_name("1000000000-" + "1" * 32)
    slow.write_text("began long ago, and goes on")
    young = target.path / ".incoming" / f"{int(time.time())}-{'0' * 32}"
    young.write_text("under way")
    assert target.sweep(timedelta(hours=1)) == 1
    assert foreign.exists()
    assert young.exists() and slow.exists()
    assert not old.exists()


def test_where_hard_links_are_unknown_an_object_still_never_replaces_another(tmp_path: Path) -> None:
    """The operation that ``publish`` falls back to; no file system without hard links can be mounted everywhere."""
    old, new, other = tmp_path / "old", tmp_path / "new", tmp_path / "other"
    old.write_text("first")
    with Folder.at(tmp_path) as folder:
        files.rename_no_replace(folder, "old", folder, "new")
        assert new.read_text() == "first"
        other.write_text("second")
        with pytest.raises(FileExistsError):
            files.rename_no_replace(folder, "other", folder, "new")
    assert (new.read_text(), other.read_text()) == ("first", "second")
