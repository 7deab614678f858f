"""The contract of ``twist_dr.storage.base``, kept by every provider."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.errors import Cancelled, ObjectCorrupt, ObjectExists, ObjectMissing
from twist_dr.storage.base import Digest, StorageTarget
from twist_dr_tests.site import ROOT
from twist_dr_tests.storage.conftest import PART, MakeFile, Place

NOW = timedelta(0)
KEY = "erp/backups/20260101T000000Z-full-0001/database.dump.zst.enc"


def read(target: StorageTarget, key: str) -> bytes:
    with target.open(key) as stream:
        return stream.read()


def assert_holds_nothing(target: StorageTarget, keeps_folders: bool = False) -> None:
    assert target.stat(KEY) is None
    assert list(target.list("")) == []
    assert list(target.list("erp")) == []
    if not keeps_folders:
        assert target.children("") == []
        assert target.children("erp") == []
    with pytest.raises(ObjectMissing, match=target.name):
        target.open(KEY)


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART + 12345])
def test_what_was_stored_is_read_back_byte_for_byte(target: StorageTarget, make_file: MakeFile, size: int) -> None:
    source, digest = make_file(size)
    before = datetime.now(timezone.utc) - timedelta(seconds=5)
    target.put(source, KEY, digest)
    assert read(target, KEY) == source.read_bytes()
    target.check(KEY, digest)
    found = target.stat(KEY)
    assert found is not None
    assert (found.key, found.size) == (KEY, size)
    assert before <= found.modified <= datetime.now(timezone.utc) + timedelta(seconds=5)
    assert [entry.key for entry in target.list("erp")] == [KEY]


def test_a_stream_can_be_read_in_small_pieces_like_a_tar_reader_does(
    target: StorageTarget, make_file: MakeFile
) -> None:
    source, digest = make_file(100_001)
    target.put(source, KEY, digest)
    with target.open(KEY) as stream:
        pieces = list(iter(lambda: stream.read(512), b""))
    assert {len(piece) for piece in pieces[:-1]} == {512}
    assert b"".join(pieces) == source.read_bytes()


def test_storing_the_same_bytes_again_succeeds_and_writes_nothing(
    place: Place, target: StorageTarget, make_file: MakeFile
) -> None:
    source, digest = make_file(PART + 1)
    target.put(source, KEY, digest)
    before = target.stat(KEY)
    place.target().put(source, KEY, digest)
    assert target.stat(KEY) == before
    source.unlink()
    target.put(source, KEY, digest)  # Not even the source is needed.
    assert [entry.key for entry in target.list("")] == [KEY]


@pytest.mark.parametrize("other", [b"other byte", b"a longer text"])
def test_other_bytes_under_a_used_key_are_refused_and_the_old_ones_kept(
    target: StorageTarget, make_file: MakeFile, other: bytes
) -> None:
    source, digest = make_file(b"some bytes")
    target.put(source, KEY, digest)
    second, second_digest = make_file(other)
    with pytest.raises(ObjectExists, match=f"{target.name}.*left as it is"):
        target.put(second, KEY, second_digest)
    assert read(target, KEY) == b"some bytes"


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_source_that_is_not_what_was_announced_is_refused_and_nothing_remains(
    target: StorageTarget, make_file: MakeFile, size: int
) -> None:
    source, digest = make_file(size)
    for wrong in (Digest(size, "0" * 64), Digest(size + 1, digest.sha256)):
        with pytest.raises(ObjectCorrupt, match="nothing was stored"):
            target.put(source, KEY, wrong)
    with pytest.raises(ObjectCorrupt, match="cannot be read"):
        target.put(source.with_name("absent"), KEY, digest)
    assert_holds_nothing(target)
    assert target.sweep(NOW) == 0


@pytest.mark.parametrize("stop_at", [0, PART, int(2.9 * PART)])
def test_a_cancelled_upload_leaves_nothing(
    place: Place, target: StorageTarget, make_file: MakeFile, stop_at: int
) -> None:
    source, digest = make_file(3 * PART)
    told = 0

    def cancel(count: int) -> None:
        nonlocal told
        told += count
        if told > stop_at:
            raise Cancelled("asked to stop")

    with pytest.raises(Cancelled, match="asked to stop"):
        target.put(source, KEY, digest, cancel)
    assert_holds_nothing(target, place.keeps_folders)
    assert target.sweep(NOW) == 0
    target.put(source, KEY, digest)
    assert read(target, KEY) == source.read_bytes()


def test_an_interrupt_that_is_no_exception_leaves_nothing(
    place: Place, target: StorageTarget, make_file: MakeFile
) -> None:
    source, digest = make_file(2 * PART)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.put(source, KEY, digest, interrupt)
    assert_holds_nothing(target, place.keeps_folders)
    assert target.sweep(NOW) == 0


WRITER = """
import json, sys, time
from pathlib import Path
from twist_dr.storage.base import Digest
from twist_dr_tests.storage.conftest import Place

kind, arguments, source, key, size, sha256, stop_at = json.loads(sys.argv[1])
told = 0
def progress(count):
    global told
    told += count
    if told >= stop_at:
        print("in the middle", flush=True)
        time.sleep(600)
Place(kind, arguments).target().put(Path(source), key, Digest(size, sha256), progress)
"""


def kill_a_writer_in_the_middle(place: Place, source: Path, digest: Digest) -> None:
    arguments = [place.kind, place.arguments, str(source), KEY, digest.size, digest.sha256, digest.size // 2]
    root = str(ROOT)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, json.dumps(arguments)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert writer.stdout is not None
    with writer.stdout as said:
        assert said.readline() == "in the middle\n"
        writer.kill()
    writer.wait()


def test_a_writer_killed_in_the_middle_leaves_nothing_to_see_and_sweep_removes_the_rest(
    place: Place, target: StorageTarget, make_file: MakeFile
) -> None:
    source, digest = make_file(50 << 20)
    kill_a_writer_in_the_middle(place, source, digest)
    assert_holds_nothing(target, place.keeps_folders)
    if place.dates_uploads:
        assert target.sweep(timedelta(hours=1)) == 0, "what may still be under way must stay"
    assert target.sweep(NOW) == (1 if place.leaves_uploads else 0)
    assert target.sweep(NOW) == 0
    target.put(source, KEY, digest)
    target.check(KEY, digest)


def test_many_threads_store_many_objects_with_one_target(place: Place, make_file: MakeFile) -> None:
    target = place.target()
    target.prepare()
    files = {f"erp/wal/{number:04}": make_file(10_000 + number) for number in range(24)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: target.put(item[1][0], item[0], item[1][1]), files.items()))
    assert [entry.key for entry in target.list("erp/wal")] == sorted(files)
    for key, (_, digest) in files.items():
        target.check(key, digest)


def test_the_same_object_stored_by_several_threads_at_once_is_stored_whole(place: Place, make_file: MakeFile) -> None:
    source, digest = make_file(PART + 7)
    target = place.target()
    target.prepare()
    start = threading.Barrier(4)

    def store() -> None:
        start.wait()
        target.put(source, KEY, digest)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(store) for _ in range(4)]:
            future.result()
    target.check(KEY, digest)
    assert target.sweep(NOW) == 0


def test_lists_are_in_key_order_and_end_at_whole_path_parts(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file(b"x")
    keys = ["erp/a-b/c", "erp/a.b", "erp/a/b", "erp/a/c/d", "erp/a0", "erp-2/a", "shop/z"]
    for key in reversed(keys):
        target.put(source, key, digest)
    assert [entry.key for entry in target.list("erp")] == ["erp/a-b/c", "erp/a.b", "erp/a/b", "erp/a/c/d", "erp/a0"]
    assert [entry.key for entry in target.list("")] == sorted(keys)
    assert [entry.key for entry in target.list("erp/a")] == ["erp/a/b", "erp/a/c/d"]
    assert list(target.list("er")) == []
    assert {entry.size for entry in target.list("")} == {1}


def test_children_names_one_level_only(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file(b"x")
    for key in ["erp/backups/2/m", "erp/backups/1/m", "erp/backups/1/n", "erp/wal/x/y", "shop/z"]:
        target.put(source, key, digest)
    assert target.children("") == ["erp", "shop"]
    assert target.children("erp") == ["backups", "wal"]
    assert target.children("erp/backups") == ["1", "2"]
    assert target.children("erp/backups/1") == ["m", "n"]
    assert target.children("nothing") == []


def test_a_deleted_object_is_gone_and_deleting_it_again_succeeds(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file()
    target.put(source, KEY, digest)
    target.put(source, "erp/other", digest)
    target.delete(KEY)
    target.delete(KEY)
    assert target.stat(KEY) is None
    assert target.children("erp") == ["other"]
    target.delete("erp")  # A part of a path is no object.
    assert target.children("erp") == ["other"]
    target.put(source, KEY, digest)
    assert read(target, KEY) == source.read_bytes()


def test_an_object_that_nothing_locks_can_be_deleted_at_any_time(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file()
    target.put(source, KEY, digest)
    assert target.locked_until(KEY) is None
    assert target.locked_until("erp/none") is None


def test_a_key_that_could_lead_elsewhere_is_refused_everywhere(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file()
    for key in ("", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a b", "ä", "a\n", "a\\b"):
        for use in (target.stat, target.open, target.delete, lambda key: target.put(source, key, digest)):
            with pytest.raises(ValueError, match="not a storage key"):
                use(key)
    assert_holds_nothing(target)


def test_a_missing_object_is_said_to_be_missing(target: StorageTarget) -> None:
    assert target.stat(KEY) is None
    with pytest.raises(ObjectMissing, match="list the target"):
        target.open(KEY)
    with pytest.raises(ObjectMissing, match="list the target"):
        target.check(KEY, Digest(0, hashlib.sha256().hexdigest()))


def test_a_copy_that_is_not_what_was_recorded_is_called_corrupt(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file()
    target.put(source, KEY, digest)
    with pytest.raises(ObjectCorrupt, match="another target"):
        target.check(KEY, Digest(digest.size, "0" * 64))


def test_reading_can_be_stopped_by_its_progress(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file(PART)
    target.put(source, KEY, digest)

    def cancel(count: int) -> None:
        raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        target.check(KEY, digest, cancel)


def test_progress_tells_every_byte_sent_and_read_back(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file(2 * PART)
    told: list[int] = []
    target.put(source, KEY, digest, told.append)
    assert sum(told) in (digest.size, 2 * digest.size), "once when linked, else sent and read back"
    assert min(told) > 0


def test_the_test_of_a_target_says_what_it_can_do_and_leaves_nothing(place: Place, target: StorageTarget) -> None:
    found = target.probe()
    assert found.checksum == place.checksum
    if place.tells_time:
        assert found.clock_skew_seconds is not None
        assert abs(found.clock_skew_seconds) < 5
    else:
        assert found.clock_skew_seconds is None
        assert any("clock" in note for note in found.notes), "what it cannot do is named"
    assert_holds_nothing(target)
    assert target.sweep(NOW) == 0


def test_what_a_killed_test_of_a_target_left_is_swept_away(target: StorageTarget, make_file: MakeFile) -> None:
    source, digest = make_file()
    target.put(source, ".probe-left", digest)
    target.put(source, "erp/kept", digest)
    target.sweep(NOW - timedelta(seconds=5))
    assert [entry.key for entry in target.list("")] == ["erp/kept"]


def test_making_a_target_touches_nothing(place: Place) -> None:
    place.target()
    if place.kind in ("local", "nas"):
        assert not Path(place.arguments["path"]).exists()


def test_the_location_and_the_messages_show_no_secret(place: Place) -> None:
    target = place.target()
    shown = f"{target.location} {target!r}"
    for name in ("secret_access_key", "access_key_id", "password"):
        assert name not in place.arguments or place.arguments[name] not in shown
