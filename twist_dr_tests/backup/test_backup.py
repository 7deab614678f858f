"""A full backup: what would be empty is refused or named (promise 10), and taking it troubles the database no longer than need be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import twist_dr.backup.take as backup_module
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.errors import BackupError, SourceUnreadable
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.manifest import Label, Manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer

NO_CLUSTER = Cluster("postgresql://nobody@127.0.0.1:1/nothing")
FORM = Form("zstd", True)

Take = Callable[..., Manifest]


@pytest.fixture
def staging(tmp_path: Path) -> StagingArea:
    return StagingArea(tmp_path / "staging")


@pytest.fixture
def take(staging: StagingArea) -> Take:
    """Takes a backup of what a plan says."""

    def taken(cluster: Cluster = NO_CLUSTER, *, report: Report | None = None, **plan: Any) -> Manifest:
        return take_full_backup(
            BackupPlan(application="erp", targets={"office": FORM}, **plan),
            cluster,
            KEYRING,
            staging,
            report or Report(),
        )

    return taken


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "logo.png").write_bytes(b"logo")
    return folder


def test_a_database_without_tables_is_refused_and_nothing_of_it_remains(
    newest_server: PostgresServer, take: Take, staging: StagingArea
) -> None:
    with pytest.raises(BackupError, match=r"The database without tables holds no tables.*correct database\.url"):
        take(newest_server.create_database("without tables"), parts=("database",))
    assert staging.sealed() == []


def test_an_empty_media_folder_is_named_in_the_first_backup(take: Take, media: Path) -> None:
    (media / "logo.png").unlink()
    manifest = take(parts=("media",), media={"uploads": media})
    assert manifest.files == {"media": 0}
    assert manifest.warnings == ["media: uploads holds no files"]


@pytest.mark.parametrize("label", ["pre-update", "pre-restore"])
def test_before_a_restore_what_refuses_other_backups_is_taken_as_it_is(
    newest_server: PostgresServer, take: Take, staging: StagingArea, media: Path, label: Label
) -> None:
    cluster = newest_server.create_database(f"nothing {label}")
    (media / "logo.png").unlink()
    folders = {"gone": media / "gone", "uploads": media}

    def damage() -> Manifest:
        return take(cluster, media=folders, label=label, last_files={"media": 1})

    if label == "pre-update":
        with pytest.raises(BackupError):
            damage()
        assert staging.sealed() == []
        return
    warnings = damage().warnings
    # Nor is a database waited for that is gone, or whose server is.
    dropped = Cluster(newest_server.url("dropped"))
    for gone, said in ((dropped, "dropped"), (NO_CLUSTER, "127.0.0.1")):
        rest = take(gone, media=folders, label=label)
        assert rest.parts == ["media", "configuration"] and rest.postgres is None
        assert [warning for warning in rest.warnings if warning.startswith("database: ") and said in warning]
    for guard in (
        "holds no tables",
        f"{media / 'gone'} is not there",
        "uploads holds no files",
        "last backup they held 1",
    ):
        assert [warning for warning in warnings if guard in warning], (guard, warnings)


def test_media_that_had_files_in_the_last_backup_and_has_none_now_fail_the_backup(
    take: Take, media: Path, staging: StagingArea
) -> None:
    last = take(parts=("media",), media={"uploads": media})
    (media / "logo.png").unlink()
    with pytest.raises(SourceUnreadable, match="hold no files, and in the last backup they held 1; mount them"):
        take(parts=("media",), media={"uploads": media}, last_files=last.files)
    assert staging.sealed() == [last.backup_id]


def test_one_media_folder_of_several_may_become_empty_and_is_named(take: Take, media: Path, tmp_path: Path) -> None:
    (tmp_path / "thumbs").mkdir()
    folders = {"uploads": media, "thumbs": tmp_path / "thumbs"}
    manifest = take(parts=("media",), media=folders, last_files={"media": 2})
    assert manifest.warnings == ["media: thumbs holds no files"]


def test_a_file_that_goes_while_the_media_is_measured_does_not_stop_the_backup(
    take: Take, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.walk
    (media / "upload.part").touch()

    def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in real(folder):
            (media / "upload.part").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", walk)
    manifest = take(parts=("media",), media={"uploads": media})
    assert not (media / "upload.part").exists()
    assert manifest.files == {"media": 1}


@pytest.mark.parametrize(
    ("last_stored_bytes", "steps"), [(None, ["media measured", "snapshot opened"]), (1000, ["snapshot opened"])]
)
def test_media_is_measured_before_the_snapshot_is_opened_and_only_for_a_first_backup(
    take: Take, media: Path, monkeypatch: pytest.MonkeyPatch, last_stored_bytes: int | None, steps: list[str]
) -> None:
    taken: list[str] = []
    real = backup_module._tree_size

    def measure(folder: Path) -> int:
        taken.append("media measured")
        return real(folder)

    def opened(cluster: Cluster) -> None:
        taken.append("snapshot opened")
        raise BackupError("far enough")

    monkeypatch.setattr(backup_module, "_tree_size", measure)
    monkeypatch.setattr(backup_module, "Snapshot", opened)
    with pytest.raises(BackupError, match="far enough"):
        take(media={"uploads": media}, last_stored_bytes=last_stored_bytes)
    assert taken == steps


def test_what_the_dumping_programs_warn_of_stands_in_the_manifest_and_the_log(
    newest_server: PostgresServer, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = newest_server.create_database("warned of")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE invoice AS SELECT 1 AS id")
    for name in ("dump_database", "dump_roles"):
        real = getattr(backup_module, name)

        def warned(*args: Any, real: Callable[..., list[str]] = real, name: str = name) -> list[str]:
            return [*real(*args), f"warning: something about {name}"]

        monkeypatch.setattr(backup_module, name, warned)
    logged: list[str] = []
    manifest = take(cluster, parts=("database",), report=Report(Lines(warning=logged.append)))
    assert manifest.warnings[-2:] == [
        "database: warning: something about dump_database",
        "database: warning: something about dump_roles",
    ]
    assert logged == manifest.warnings
    assert manifest.tables == {"public.invoice": 1}
