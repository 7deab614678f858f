"""What long lists cost in memory: all backups of a large catalog, and all files of two large backups that differ."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import yaml

from twist_dr.backup import take as backup
from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.catalog import Catalog
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.archive_index import ArchiveEntry
from twist_dr.repository.archive_report import ArchiveReport
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.repository.repository import Repository
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr_tests.bench.measure import BENCH, Ended, Row, ended, fresh_folder
from twist_dr_tests.bench.retention import COUNT, fill_catalog, many_backups

FILES = 1_000_000
#: What the command takes by itself, with SQLAlchemy and a keyring, and some.
MOST_BYTES = 150 << 20
_URL = "postgresql://nobody@127.0.0.1:1/erp"
_FORM = Form("zstd", True)


def bench_lists(megabytes: int, rounds: int, *, backups: int = COUNT, files: int = FILES) -> list[Row]:
    """``list --json`` of every backup, ``diff --files --json`` of two that have no file in common."""
    folder = fresh_folder(BENCH / "lists")
    catalog, ids = _scene(folder, files)
    fill_catalog(catalog, many_backups(backups))
    listed = _command(folder, "list", "--json", "--limit", str(2 * backups))
    differ = _command(folder, "diff", *ids, "--files", "--json")
    assert listed.text.count('"run_id"') >= backups and differ.text.count("invoice") == files
    return [
        _row(f"twist-dr list --json of {backups:,} backups", listed),
        _row(f"twist-dr diff --files --json of {files:,} files that all differ", differ),
    ]


def _row(name: str, done: Ended) -> Row:
    return Row(
        name,
        f"at most {MOST_BYTES >> 20} MB",
        done.peak >> 20,
        done.peak <= MOST_BYTES,
        {"whole_command": done.seconds},
    )


def _command(folder: Path, *arguments: str) -> Ended:
    environment = {**os.environ, "TWIST_DR_CONFIG": str(folder / "twist-dr.yaml")}
    return ended(
        subprocess.Popen(
            [Path(sys.executable).with_name("twist-dr"), *arguments],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    )


def _scene(folder: Path, files: int) -> tuple[Catalog, list[str]]:
    """An application with two backups of so many files, on a local target; its catalog, and their ids."""
    key = new_key()
    keyring = Keyring(key.id, {key.id: key}, "new")
    save_keyring(keyring, folder / "keyring.yaml")
    document = {
        "application": "erp", "database": {"url": _URL}, "encryption": {"keyring": "keyring.yaml"}, "work_dir": "work",
        "storage_targets": {"office": {"type": "local", "path": "office"}},
    }  # fmt: skip
    (folder / "twist-dr.yaml").write_text(yaml.safe_dump(document))
    (folder / "work").mkdir()
    catalog = Catalog(f"sqlite:///{folder / 'work' / 'catalog.db'}")
    repository, staging = Repository(LocalTarget("office", folder / "office"), "erp"), StagingArea(folder / "staging")
    ids = []
    for content in ("a", "b"):
        plan = BackupPlan("erp", parts=("media",), targets={"office": _FORM}, media={"m": folder})
        with patch.object(backup, "archive_media", _archive(files, content * 64)):
            manifest = take_full_backup(plan, Cluster(_URL), keyring, staging, Report())
        with staging.using(manifest.backup_id) as staged:
            store_copy(manifest, staged, repository, _FORM, Report())
        catalog.record_backup(manifest, manifest.seal(key), run_id=None)
        ids.append(manifest.backup_id)
    return catalog, ids


def _archive(files: int, content: str) -> Callable[..., ArchiveReport]:
    """What writes an index of so many files; nobody reads the archive."""

    def write(
        folders: Mapping[str, Path],
        write: Callable[[bytes], None],
        write_index: Callable[[bytes], None],
        **options: object,
    ) -> ArchiveReport:
        write(b"nothing")
        write_index(ArchiveEntry("m", "folder", 0, None, 1.0).line())
        for number in range(files):
            write_index(ArchiveEntry(f"m/{number:09}-invoice.pdf", "file", 7, content, 1.0).line())
        return ArchiveReport(files=files)

    return write
