"""A statement that the live server does not take is found before a restore needs it: by the plan, and before a row is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from twist_dr.backup import take as backup
from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.cli.recover.database import recover_database
from twist_dr.cli.recover.files import recover_dump
from twist_dr.cli.recover.server import look
from twist_dr.errors import RestoreFailed
from twist_dr.postgres.dump import restore_database
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.restore.plan import Mode, RestoreRequest, restore_place
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.restore import Restore
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.postgres.test_dump_internals import keeps_internals
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

#: Version 17 took this column away.
LOST_COLUMN = "CREATE VIEW written AS SELECT buffers_checkpoint FROM pg_stat_bgwriter"
ENCRYPTED = Form("zstd", True)
SAID = "buffers_checkpoint does not exist"


class Upgraded:
    """A live server of the newest version, and backups that were taken before it was upgraded."""

    def __init__(self, before: PostgresServer, now: PostgresServer, folder: Path) -> None:
        self.now = now
        self._before = before
        self._folder = folder
        self.lines: list[str] = []
        self.keeps_internals = keeps_internals(before)
        self.report = Report(Lines(self.lines.append, self.lines.append))
        self.repository = Repository(LocalTarget("office", folder / "office"), "erp")
        now.create_database("upgraded")
        for name in ("media", "site"):
            (folder / name).mkdir()
        self._site = Site(folder / "site", now.url("upgraded"), folder / "media")

    def backup(self, *statements: str, form: Form = ENCRYPTED) -> Manifest:
        cluster = self._before.create_database("upgraded")
        with cluster.connect() as connection:
            for statement in ("CREATE TABLE t AS SELECT generate_series(1, 10) AS id", *statements):
                connection.execute(statement)
        staging = StagingArea(self._folder / "staging" / "erp")
        plan = BackupPlan("erp", parts=("database",), targets={"office": form})
        manifest = take_full_backup(plan, cluster, KEYRING, staging, Report())
        with staging.using(manifest.backup_id) as staged:
            store_copy(manifest, staged, self.repository, form, Report())
        return manifest

    def restore(self, manifest: Manifest, mode: Mode, *tables: str) -> RestoreRecord:
        place = restore_place(self._site.app(keyring=KEYRING), [self.repository], mode)
        request = RestoreRequest(manifest.backup_id, mode=mode, parts=("database",), tables=tables)
        return Restore(request, replace(place, media={}, key_tables=["t"]), self.report).run()

    def told(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def databases(self) -> list[str]:
        with self.now.cluster().connect() as connection:
            return [
                name for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^upgraded_'")
            ]


@pytest.fixture
def upgraded(
    newest_server: PostgresServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgraded]:
    if min(TOOLS) == max(TOOLS):
        pytest.skip("needs PostgreSQL of two versions")
    folder = tmp_path_factory.mktemp("older")
    with PostgresServer(TOOLS[min(TOOLS)], folder, settings={"fsync": "off"}) as older:
        found = Upgraded(older, newest_server, tmp_path)
        yield found
        with newest_server.cluster().connect() as connection:
            for name in found.databases():
                connection.execute(f'DROP DATABASE "{name}"')


def test_a_plan_says_which_statement_the_live_server_does_not_take(upgraded: Upgraded) -> None:
    record = upgraded.restore(upgraded.backup(LOST_COLUMN), "plan")
    (warning,) = [line for line in record.warnings if "does not take the backup's schema" in line]
    assert SAID in warning and f"PostgreSQL {upgraded.now.tools.version}" in warning
    assert SAID in (record.gate or "")


def test_a_restore_ends_at_such_a_statement_before_it_loads_a_row(upgraded: Upgraded) -> None:
    manifest = upgraded.backup(LOST_COLUMN)
    with pytest.raises(RestoreFailed, match=SAID):
        upgraded.restore(manifest, "sandbox")
    assert upgraded.told("trying the schema in upgraded_sandbox") and not upgraded.told("restoring in")
    assert upgraded.databases() == []


def test_a_backup_of_the_server_before_its_upgrade_is_tried_and_restored(upgraded: Upgraded) -> None:
    record = upgraded.restore(upgraded.backup(), "sandbox")
    assert "takes the backup's schema, tried in a scratch server" in (record.gate or "")
    assert upgraded.told("trying the schema in") and upgraded.told("restoring in")
    (name,) = upgraded.databases()
    with upgraded.now.cluster(name).connect() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (10,)


def test_bytes_that_are_authentic_only_as_a_whole_are_not_tried_by_the_gate(upgraded: Upgraded) -> None:
    record = upgraded.restore(upgraded.backup(LOST_COLUMN, form=Form("zstd", False)), "plan")
    (warning,) = [line for line in record.warnings if "could not be tried" in line]
    assert "not encrypted" in warning and SAID not in warning


def test_recover_ends_at_such_a_statement_before_it_loads_a_row(upgraded: Upgraded) -> None:
    manifest = upgraded.backup(LOST_COLUMN)
    assert manifest.postgres is not None
    new = look(upgraded.now.url("upgraded_recovered"), manifest.postgres)
    with pytest.raises(RestoreFailed, match=SAID):
        recover_database(new, OneCopy(manifest, upgraded.repository, KEYRING), jobs=1, report=upgraded.report)
    assert not upgraded.told("restoring into")
    assert upgraded.databases() == []


def test_what_newer_tools_dumped_comes_back_in_every_mode_and_what_is_internal_is_left_out_with_a_word(
    upgraded: Upgraded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(backup, "find_tools", lambda folders: [TOOLS[max(TOOLS)]])
        manifest = upgraded.backup()
    assert manifest.postgres is not None and manifest.postgres.major == min(TOOLS)
    word = "internal column option pg_attver was left out of 1 column:"
    requests: list[tuple[Mode, tuple[str, ...]]] = [
        ("sandbox", ()),
        ("sandbox", ("public.t",)),
        ("schema", ("public.t",)),
        ("replace", ()),
    ]
    for mode, tables in requests:
        record = upgraded.restore(manifest, mode, *tables)
        assert any(word in line for line in record.warnings) == upgraded.keeps_internals, (mode, tables)
    with upgraded.now.cluster("upgraded").connect() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (10,)
    new = look(upgraded.now.url("upgraded_recovered"), manifest.postgres)
    recover_database(new, OneCopy(manifest, upgraded.repository, KEYRING), jobs=1, report=upgraded.report)
    recover_dump(tmp_path / "by_hand.dump", OneCopy(manifest, upgraded.repository, KEYRING), upgraded.report)
    assert len([line for line in upgraded.lines if word in line]) == (6 if upgraded.keeps_internals else 0)
    upgraded.now.create_database("upgraded_by_hand")
    restore_database(upgraded.now.cluster(), TOOLS[max(TOOLS)], "upgraded_by_hand", tmp_path / "by_hand.dump", jobs=1)
