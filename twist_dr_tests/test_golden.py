"""What earlier versions wrote is read as they meant it: settings, catalog, storage target and a restore's journal. See golden/README.md."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from twist_dr.settings import Actor, load_settings
from twist_dr.watch import audit
from twist_dr_tests.cli.test_init import example_blocks, uncommented, variables
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

GOLDEN = Path(__file__).with_name("golden")
VERSION = "0.1.0"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / f"{VERSION}.json").read_text())
FULL = "20261130T115752Z-full-c260"
RESTORE = "20261130T115910Z-restore-d815"


@pytest.fixture
def old(newest_server: PostgresServer, tmp_path: Path) -> Site:
    """The installation, beside a server that never saw it."""
    site = Site(tmp_path, newest_server.url("postgres"), tmp_path / "media")
    with tarfile.open(GOLDEN / f"{VERSION}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    site.document = yaml.safe_load((tmp_path / "twist-dr.yaml").read_text())
    return site


def renamed(path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [message.removeprefix(f"{path}: ") for message in caplog.messages]
    caplog.clear()
    return told


def test_its_settings_are_read_and_keys_with_other_names_now_are_told(
    old: Site, caplog: pytest.LogCaptureFixture
) -> None:
    cleanup = ["cleanup.remains_after is called cleanup.incomplete_after now; rename it."]
    settings = old.settings()
    assert renamed(old.folder / "twist-dr.yaml", caplog) == cleanup
    assert settings.cleanup.incomplete_after.days == 2 and settings.enabled_targets.keys() == {"office"}
    whole = old.folder / "whole.yaml"
    text = (old.folder / "commented.yaml").read_text()
    whole.write_text(uncommented(text, example_blocks(text.splitlines())))
    load_settings(whole, variables(whole.read_text()))
    assert renamed(whole, caplog) == cleanup


def tells(row: Any, then: Any) -> bool:
    """Whether a row says all that it said then, in whatever is new beside it."""
    if isinstance(then, dict):
        return all(name in row and tells(row[name], value) for name, value in then.items())
    if isinstance(then, list):
        return len(row) == len(then) and all(map(tells, row, then))
    return bool(row == then)


def test_its_catalog_is_migrated_and_tells_what_it_told_then(old: Site) -> None:
    catalog = old.catalog()
    found = {"backups": catalog.backups(application="erp")}
    found |= {kind: getattr(catalog, kind)("erp") for kind in EXPECTED.keys() - found.keys()}
    for alert in EXPECTED["alerts"]:  # as it is called now
        for name in ("cause", "kind"):
            alert[name] = alert[name].replace("wal_frontier", "archived_position")
    for kind, rows in found.items():
        now = json.loads(json.dumps([asdict(row) for row in rows], default=str))
        assert tells(now, EXPECTED[kind]), (kind, now)
    listed, restored = old.cli("list").expect(0).text, old.cli("restores").expect(0).text
    assert FULL in listed and "archive (failed), office (deleted)" in listed and RESTORE in restored
    assert "kept for the auditors" in old.cli("hold").expect(0).text


def test_what_is_called_otherwise_now_is_no_change_of_its_settings(old: Site) -> None:
    changed = audit.note_settings(old.app(Actor("ops@host")))
    # It lies in another folder, on another server.
    assert "database.url" in changed and not [path for path in changed if path.startswith("cleanup.")]


def test_its_target_is_listed_and_checked_without_settings_and_catalog(old: Site) -> None:
    shutil.rmtree(old.folder / "work")
    place = ("recover", "--from-target", str(old.folder / "targets" / "office"), "--keyring", str(old.keyring_path))
    listed = old.cli(*place).text
    for backup_id in (FULL, "20261130T115818Z-base-53ca", "20261130T115830Z-configuration-a2f5"):
        assert backup_id in listed
    checked = old.cli(*place, "--check", FULL).expect(0).text
    assert "database.dump" in checked and "media.tar" in checked
    configuration = old.cli(*place, "--check", "20261130T115830Z-configuration-a2f5").expect(0).text
    assert "catalog.sqlite" in configuration


def test_its_full_backup_is_proven_by_a_restore(old: Site) -> None:
    old.verify(backup=FULL).expect(0)
    newest, _ = old.catalog().verifications(FULL)
    assert (newest.state, newest.rows, newest.tables, newest.files) == ("verified", 1040, 24, 4)


def test_its_restore_is_undone(old: Site, newest_server: PostgresServer) -> None:
    """On a server that has such databases; the journal is as it was, but for what that server calls them."""
    journal = old.folder / "work" / "restores" / "erp" / f"{RESTORE}.json"
    document = json.loads(journal.read_text())
    names = document["database"]
    for name, number, words in ((names["live"], "incoming_oid", "now"), (names["kept"], "live_oid", "then")):
        # Another file's site may have left one of that name on the server.
        old.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        old.query(f"CREATE DATABASE {name}")
        ((names[number],),) = old.query(f"SELECT oid::bigint FROM pg_database WHERE datname = '{name}'")
        old.query(f"CREATE TABLE state AS SELECT '{words}' AS words", name)
    journal.write_text(json.dumps(document))
    old.database_url = newest_server.url(names["live"])
    try:
        plan = old.job("undo_restore").expect(1).text
        assert f"Undoing {RESTORE} would put back the database {names['kept']}" in plan
        old.undo().expect(0)
        assert old.query("SELECT words FROM state") == [("then",)]
    finally:
        for (name,) in old.query("SELECT datname FROM pg_database WHERE datname ~ '^erp(_replaced.*)?$'", "postgres"):
            old.query(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
