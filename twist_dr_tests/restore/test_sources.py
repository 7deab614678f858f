"""Where a backup is read from: the first good copy, and the next one as soon as it turns out not to be."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.errors import BackupNotFound, RestoreFailed, TargetUnavailable
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.patience import bounded, watched
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.helpers import KEYRING, noise

FORM = Form("none", True)


class Trickle(io.RawIOBase):
    """A stream that gives some bytes, and then next to nothing."""

    def __init__(self, inner: BinaryIO, good: int) -> None:
        self._inner = inner
        self._good = good

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._inner.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._good <= 0:
            time.sleep(0.05)
        data = self._inner.read(min(len(buffer), self._good) if self._good > 0 else 1)
        buffer[: len(data)] = data
        self._good -= len(data)
        return len(data)


class SlowTarget(LocalTarget):
    """A storage target behind a line that all but stops in the middle of each object."""

    def open(self, key: str) -> BinaryIO:
        stream = super().open(key)
        return io.BufferedReader(Trickle(stream, 2 << 20), 1 << 20)


@pytest.fixture
def backup(tmp_path: Path) -> Manifest:
    """A backup of six megabytes of media, on the targets ``first`` and ``second``."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "large.bin").write_bytes(noise(6 << 20))
    staging = StagingArea(tmp_path / "staging" / "erp")
    plan = BackupPlan(application="erp", targets={"any": FORM}, parts=("media",), media={"uploads": media})
    manifest = take_full_backup(plan, Cluster("postgresql://nobody@127.0.0.1:1/nothing"), KEYRING, staging, Report())
    for name in ("first", "second"):
        with staging.using(manifest.backup_id) as folder:
            store_copy(manifest, folder, Repository(LocalTarget(name, tmp_path / name), "erp"), FORM, Report())
    return manifest


def _repositories(tmp_path: Path, first: type[LocalTarget] = LocalTarget) -> list[Repository]:
    return [
        Repository(first("first", tmp_path / "first"), "erp"),
        Repository(LocalTarget("second", tmp_path / "second"), "erp"),
    ]


@pytest.mark.promise(4)
def test_a_target_that_all_but_stops_in_the_middle_is_passed_over_for_the_next(
    backup: Manifest, tmp_path: Path
) -> None:
    warnings: list[str] = []
    repositories = _repositories(tmp_path, SlowTarget)
    sources = Sources(backup.backup_id, repositories, KEYRING, Report(Lines(warning=warnings.append)), patience=0.5)
    sources.fetch("media.tar", tmp_path / "media.tar")
    assert (tmp_path / "media.tar").stat().st_size == backup.artifact("media.tar").size  # type: ignore[union-attr]
    assert sources.used == ["first", "second"] and sources.corrupt == {}
    assert "nothing came for 500 ms" in sources.passed_over["first"]
    assert warnings and warnings[0].startswith("passed over first: ")


def test_the_last_target_may_take_longer_as_there_is_no_other(backup: Manifest, tmp_path: Path) -> None:
    only = [Repository(SlowTarget("first", tmp_path / "first"), "erp")]
    sources = Sources(backup.backup_id, only, KEYRING, Report(), patience=0.06)
    assert sources.read_small("media.files.jsonl")


@pytest.mark.promise(4)
def test_a_corrupt_artifact_is_passed_over_and_its_target_not_asked_again(backup: Manifest, tmp_path: Path) -> None:
    sources = Sources(backup.backup_id, _repositories(tmp_path), KEYRING, Report())
    path = next((tmp_path / "first").rglob("media.tar*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    sources.fetch("media.tar", tmp_path / "media.tar")
    assert list(sources.corrupt) == ["first"] and sources.corrupt["first"].target == "first"
    assert sources.passed_over["first"].startswith(f"{backup.backup_id}/media.tar")
    path.unlink()
    assert sources.read_small("media.files.jsonl")
    assert sources.used == ["first", "second"]


def test_when_none_is_good_each_is_named_and_nothing_is_left(backup: Manifest, tmp_path: Path) -> None:
    sources = Sources(backup.backup_id, _repositories(tmp_path), KEYRING, Report())
    for path in tmp_path.glob("*/erp/backups/*/media.tar*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    with pytest.raises(RestoreFailed, match=r"No storage target has a good copy.*first.*second"):
        sources.fetch("media.tar", tmp_path / "media.tar")
    assert not (tmp_path / "media.tar").exists()
    with pytest.raises(BackupNotFound, match="first: it holds no backup"):
        Sources("20200101T000000Z-full-0000", _repositories(tmp_path), KEYRING, Report())


def test_a_call_that_never_returns_is_left_to_itself() -> None:
    never = threading.Event()
    with pytest.raises(TargetUnavailable, match="office: nothing came for 100 ms"):
        bounded(never.wait, 0.1, "office")
    never.set()


def test_a_reader_that_is_slow_itself_is_no_reason_to_give_up() -> None:
    got = []
    for item in watched(lambda: iter(range(20)), 0.2, "office"):
        time.sleep(0.05)
        got.append(item)
    assert got == list(range(20))


def test_an_error_of_the_source_comes_to_the_reader() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield 1
        raise OSError("gone")

    given = watched(broken, 5, "office")
    assert next(given) == 1
    with pytest.raises(OSError, match="gone"):
        next(given)


def test_of_the_only_target_that_was_asked_nothing_follows_for_the_others(backup: Manifest, tmp_path: Path) -> None:
    path = next((tmp_path / "first").rglob("media.tar*"))
    path.chmod(0o600)
    path.write_bytes(bytes(path.stat().st_size))
    sources = Sources(backup.backup_id, _repositories(tmp_path)[:1], KEYRING, Report())
    said = f"^first has no good copy of {backup.backup_id}, and no other storage target was asked. first: "
    with pytest.raises(RestoreFailed, match=said):
        sources.fetch("media.tar", tmp_path / "media.tar")
