"""A target with many base backups of many tables: their manifests are read one at a time, each once, and not kept."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

import pytest

from twist_dr.cli.recover.found import find_backups
from twist_dr.operations.rebuild import rebuild_catalog
from twist_dr.recovery.bases import find_bases
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.retention.ground import read_bases
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr_tests.helpers import KEY, KEYRING
from twist_dr_tests.primaries import MB
from twist_dr_tests.recovery.material import base_manifest
from twist_dr_tests.site import Site

BASES, TABLES = 60, 3000
CLUSTER = "7000000000000000001"


class Counting(LocalTarget):
    """Counts how often each object is opened."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        self.opened: Counter[str] = Counter()

    def open(self, key: str) -> BinaryIO:
        self.opened[key] += 1
        return super().open(key)


def manifests() -> list[Manifest]:
    begun, rows = (
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        {f"public.a_table_{n:05}": 100_000 + n for n in range(TABLES)},
    )
    taken = []
    for number in range(BASES):
        at = begun + timedelta(hours=number)
        backup_id, lsn = f"{at:%Y%m%dT%H%M%SZ}-base-{number:04x}", f"0/{number + 1:X}000028"
        taken.append(base_manifest(backup_id, CLUSTER, 1, lsn, lsn, at, at, MB, 15).model_copy(update={"tables": rows}))
    return taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("many")
    for manifest in manifests():
        path = made / "erp" / "backups" / manifest.backup_id / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(manifest.seal(KEY))
    return made


@pytest.mark.parametrize("look", ["plan", "cleanup", "recover"])
def test_looking_at_many_bases_takes_the_memory_of_a_few_and_reads_each_once(folder: Path, look: str) -> None:
    target = Counting("office", folder)
    repository = Repository(target, "erp")
    looks = {
        # A command that first chooses a base backup and then plans a recovery from it looks twice.
        "plan": lambda: [len(find_bases([repository], KEYRING, Report())) for _ in range(2)][1],
        "cleanup": lambda: len(read_bases(repository, repository.backup_ids(), KEYRING).known),
        "recover": lambda: len([each for each in find_backups(repository, KEYRING) if each.manifest]),
    }
    tracemalloc.start()
    try:
        assert looks[look]() == BASES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One manifest is parsed, or as many as are read side by side; kept whole, they are more than 25 MB.
    assert peak < (16 if look == "recover" else 4) << 20
    assert set(target.opened.values()) == {1}


def test_a_rebuild_fetches_each_manifest_once(folder: Path, tmp_path: Path) -> None:
    target = Counting("office", folder)
    (tmp_path / "media").mkdir()
    app = Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media").app(keyring=KEYRING)
    rebuild_catalog(app, target)
    read = {key: times for key, times in target.opened.items() if key.endswith("manifest.json")}
    assert len(read) == BASES and set(read.values()) == {1}
