"""The audit log: appended by many, chained, and every kind of tampering found and named by its line."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from sqlalchemy import create_engine, text

from twist_dr.catalog import Catalog
from twist_dr.catalog.operations import audit_digest
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.sandbox import ClusterSandbox
from twist_dr.recovery.untar import Owner
from twist_dr.restore.to_time import sandbox_base
from twist_dr.settings import Actor, Settings
from twist_dr.system.events import Event
from twist_dr.system.progress import Lines, Report
from twist_dr.watch.audit import log as audit
from twist_dr.watch.audit.check import verify_log
from twist_dr_tests.apps import application
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.settings.test_settings import good, parsed
from twist_dr_tests.site import Site

OPS = Actor("ops@host")


@pytest.fixture
def bare_site(tmp_path: Path) -> Site:
    """A site whose database nobody asks."""
    (tmp_path / "media").mkdir()
    return Site(tmp_path, "postgresql://nobody:sesame@127.0.0.1:1/erp", tmp_path / "media")


def written(site: Site, count: int = 6) -> tuple[Settings, Catalog]:
    settings, catalog, told = site.settings(), site.catalog(), list[Event]()
    for number in range(1, count + 1):
        audit.record(
            site.app(OPS, report=Report(told.append)), action="delete", subject=f"backup {number}", result="done"
        )
    assert told == []
    return settings, catalog


def tampered(site: Site, *statements: str) -> None:
    """Change the catalog past twist-dr, as somebody with a database client would."""
    engine = create_engine(site.settings().catalog_url)
    with engine.begin() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount
    engine.dispose()


def rewritten(site: Site, seq: int) -> None:
    """Change a line and make the whole chain fit again, as somebody who has read our sources would."""
    engine = create_engine(site.settings().catalog_url)
    with engine.begin() as connection:
        lines = connection.execute(text("SELECT seq, document, previous FROM audit ORDER BY seq")).all()
        previous = lines[0].previous
        for line in lines:
            document = line.document.replace("backup", "nothing") if line.seq == seq else line.document
            digest = audit_digest(previous, document)
            connection.execute(
                text("UPDATE audit SET document = :document, previous = :previous, digest = :digest WHERE seq = :seq"),
                {"document": document, "previous": previous, "digest": digest, "seq": line.seq},
            )
            previous = digest
    engine.dispose()


TAMPERINGS: list[tuple[str, Callable[[Site], None], str]] = [
    ("text", lambda site: tampered(site, "UPDATE audit SET document = replace(document, 'done', 'refused') WHERE seq = 3"), "Line 3 was changed"),
    ("time", lambda site: tampered(site, "UPDATE audit SET at = '2020-01-01 00:00:00.000000' WHERE seq = 4"), "Line 4 was changed"),
    ("digest", lambda site: tampered(site, f"UPDATE audit SET digest = '{'0' * 64}' WHERE seq = 2"), "Line 2 was changed"),
    ("middle", lambda site: tampered(site, "DELETE FROM audit WHERE seq IN (3, 4)"), "Lines 3 to 4 are missing"),
    ("beginning", lambda site: tampered(site, "DELETE FROM audit WHERE seq = 1"), "Line 1 is missing"),
    ("renumbered", lambda site: tampered(site, "DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = seq - 1 WHERE seq > 3"), "Line 3"),
    ("end", lambda site: tampered(site, "DELETE FROM audit WHERE seq > 4"), "Lines 5 to 6 are written here and"),
    ("all", lambda site: tampered(site, "DELETE FROM audit"), "Lines 1 to 6 are written here"),
    ("chain", lambda site: rewritten(site, 2), "the log was written anew"),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "told"), [each[1:] for each in TAMPERINGS], ids=[each[0] for each in TAMPERINGS])
def test_tampering_is_found_and_the_line_named(bare_site: Site, tamper: Callable[[Site], None], told: str) -> None:
    written(bare_site)
    assert "6 lines, none changed or missing" in bare_site.cli("audit", "verify").expect(0).text
    tamper(bare_site)
    assert told in bare_site.cli("audit", "verify").expect(1).text
    assert json.loads(bare_site.cli("audit", "verify", "--json").expect(1).text)["sound"] is False


@pytest.mark.parametrize(
    "tamper",
    [lambda site: tampered(site, "DELETE FROM audit WHERE seq > 4"), lambda site: rewritten(site, 2)],
    ids=["end", "chain"],
)
def test_lines_written_after_the_tampering_do_not_hide_it(bare_site: Site, tamper: Callable[[Site], None]) -> None:
    settings, catalog = written(bare_site)
    tamper(bare_site)
    written(bare_site, 5)
    assert not verify_log(application(settings, catalog=catalog)).sound


def test_lines_of_another_machine_do_not_look_like_tampering(bare_site: Site) -> None:
    settings, catalog = written(bare_site)
    for _ in range(3):
        catalog.append_audit("erp", who="ops@other", action="launch", subject="backup_full", result="done")
    written(bare_site)
    found = verify_log(application(settings, catalog=catalog))
    assert (found.lines, found.problems) == (15, ())
    anchor = audit.read_anchor(audit.places(settings))
    assert anchor is not None and (anchor.seq, anchor.digest) == (15, found.digest)


def test_a_missing_anchor_is_a_warning_and_a_damaged_one_an_error(bare_site: Site) -> None:
    settings, catalog = written(bare_site)
    path = audit.places(settings).anchor
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{")
    assert [problem.severity for problem in verify_log(application(settings, catalog=catalog)).problems] == ["error"]
    path.unlink()
    found = verify_log(application(settings, catalog=catalog))
    assert found.sound and [problem.severity for problem in found.problems] == ["warning"]


def test_a_clock_that_was_set_back_is_a_warning(bare_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, catalog = written(bare_site, 2)
    earlier = datetime.now().astimezone() - timedelta(days=400)
    monkeypatch.setattr("twist_dr.catalog.operations._now", lambda: earlier)
    written(bare_site, 1)
    found = verify_log(application(settings, catalog=catalog))
    assert found.sound and found.problems[0].seq == 3 and "set back" in found.problems[0].text


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_write_at_once_and_the_chain_holds(bare_site: Site, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("newest_server")
        name = f"audit_{uuid4().hex[:12]}"
        server.create_database(name)
        bare_site.set(catalog={"url": server.url(name)})
    settings = bare_site.settings()
    troubles: list[str] = []

    def write(number: int) -> None:
        app = bare_site.app(Actor(f"w{number}"), report=Report(Lines(warning=troubles.append)))
        for line in range(10):
            audit.record(app, action="test", subject=str(line), result="done")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    catalog = bare_site.catalog()
    found = verify_log(application(settings, catalog=catalog))
    assert (troubles, found.lines, found.problems) == ([], 50, ())
    rows = catalog.audit("erp")
    assert {row.who for row in rows} == {f"w{number}" for number in range(5)}
    assert all(
        [row.subject for row in rows if row.who == f"w{number}"] == [str(line) for line in range(10)]
        for number in range(5)
    )


def test_a_line_that_the_catalog_cannot_take_is_kept_and_written_later(bare_site: Site) -> None:
    settings, catalog = written(bare_site, 1)
    database = bare_site.folder / "work" / "catalog.db"
    good = bare_site.folder / "good.db"
    shutil.copyfile(database, good)
    database.write_bytes(b"no database" * 1000)
    for extra in database.parent.glob("catalog.db-*"):
        extra.unlink()
    told: list[str] = []
    app = bare_site.app(OPS, report=Report(Lines(warning=told.append)))
    audit.record(
        app,
        action="restore",
        subject="erp",
        result="done",
        details={"file": "a\udcff\0b", "path": Path("x")},
    )
    assert len(told) == 1 and "will be later" in told[0]
    database.unlink()
    good.rename(database)
    waiting = verify_log(application(settings, catalog=catalog))
    assert waiting.sound and "1 line waits" in waiting.problems[0].text
    audit.record(app, action="launch", subject="x", result="done")
    assert len(told) == 1
    rows = bare_site.catalog().audit("erp")
    assert [row.action for row in rows] == ["delete", "restore", "launch"]
    assert rows[1].details["path"] == "x" and datetime.fromisoformat(rows[1].details["happened_at"]) < rows[1].at
    assert verify_log(application(settings, catalog=catalog)).problems == ()


def test_nothing_raises_when_not_even_the_disk_takes_a_line(bare_site: Site) -> None:
    bare_site.set(work_dir="/proc/nowhere")
    told: list[str] = []
    app = bare_site.app(OPS, report=Report(Lines(warning=told.append)))
    audit.record(app, action="launch", subject="x", result="done")
    assert len(told) == 1 and "lacks a line" in told[0]
    assert audit.note_settings(bare_site.app(OPS)) == []


@pytest.mark.promise(6)
def test_a_change_of_settings_is_noticed_by_its_path_and_no_value_is_told(bare_site: Site) -> None:
    catalog = bare_site.catalog()
    assert audit.note_settings(bare_site.app(OPS)) == []
    assert audit.note_settings(bare_site.app(OPS)) == []
    bare_site.set(objectives={"recovery_point": "3 days"}, configuration=["/etc/erp-new.conf"])
    bare_site.database_url = bare_site.database_url.replace("sesame", "mustard")
    changed = audit.note_settings(bare_site.app(OPS))
    assert changed == ["configuration[0]", "database.url", "objectives.recovery_point"]
    assert audit.note_settings(bare_site.app(OPS)) == []
    (row,) = catalog.audit("erp")
    assert (row.action, row.details["changed"]) == ("change settings", changed)
    everything = b"".join(path.read_bytes() for path in (bare_site.folder / "work").rglob("*") if path.is_file())
    assert b"mustard" not in everything and b"erp-new.conf" not in everything


def test_a_policy_is_told_by_its_fields_and_is_the_same_in_each_process() -> None:
    retention = {"kinds": ["full", "base"], "daily": 7, "last": {"manual": 3}}
    targets = {"nas": {"type": "local", "path": "/nas", "retention": retention}}
    leaves = dict(audit._leaves("", parsed(good(storage_targets=targets))))
    told = {path.removeprefix("storage_targets.nas.retention."): value for path, value in leaves.items()}
    assert (told["kinds"], told["kinds[0]"], told["kinds[1]"]) == ("2", "base", "full")
    assert (told["daily"], told["last.manual"]) == ("7", "3") and "storage_targets.nas.retention" not in leaves


def test_a_key_is_told_once_per_run_and_purpose(bare_site: Site) -> None:
    one, other = (bare_site.app(Actor("ops@host", run_id=uuid4().hex)) for _ in range(2))
    for purpose in ("encrypt", "encrypt", "verify"):
        audit.key_used(one, key_id="k1", purpose=purpose, subject="b1")
    audit.key_used(other, key_id="k1", purpose="encrypt", subject="b2")
    rows = one.catalog.audit("erp")
    assert [(row.action, row.subject, row.result) for row in rows] == [
        ("use key", "k1", "encrypt"),
        ("use key", "k1", "verify"),
        ("use key", "k1", "encrypt"),
    ]


def test_the_log_is_listed_since_a_time_and_as_json(bare_site: Site) -> None:
    assert "no lines" in bare_site.cli("audit").expect(0).text
    written(bare_site, 3)
    text_ = bare_site.cli("audit", "--limit", "2").expect(0).text
    assert "backup 3" in text_ and "backup 1" not in text_
    rows = json.loads(bare_site.cli("audit", "--since", "1 hour", "--json").expect(0).text)
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert "no lines of that time" in bare_site.cli("audit", "--since", "2999-01-01").expect(0).text
    assert "soon" in bare_site.cli("audit", "--since", "soon").expect(2).text


def test_applications_that_share_a_catalog_have_logs_of_their_own(bare_site: Site) -> None:
    settings, catalog = written(bare_site, 2)
    catalog.append_audit("shop", who="x", action="launch", subject="y", result="done")
    assert catalog.audit("shop")[0].seq == 1
    assert verify_log(application(settings, catalog=catalog)).lines == 2
    assert yaml.safe_load((bare_site.folder / "twist-dr.yaml").read_text())["application"] == "erp"


def test_a_new_key_is_in_the_log(bare_site: Site) -> None:
    bare_site.cli("keys", "new", "--id", "k2").expect(0)
    (row,) = bare_site.catalog().audit("erp")
    assert (row.action, row.subject, row.result) == ("new key", "k2", "done") and "@" in row.who


def test_a_sandbox_that_somebody_removes_is_in_the_log(bare_site: Site) -> None:
    folder = sandbox_base(bare_site.settings()) / "20261121T020000Z-recovery-3f9a"
    folder.mkdir(parents=True)
    gone = Tools(Path("/nowhere"), 0, "unknown", server=False)
    ClusterSandbox(folder, gone, Owner(None, None), 5433).note(user="erp", database="erp", point="latest")
    bare_site.cli("sandboxes", "remove", folder.name).expect(0)
    (row,) = bare_site.catalog().audit("erp")
    assert (row.action, row.subject, row.result) == ("remove sandbox", folder.name, "done") and not folder.exists()


def test_what_a_command_did_is_done_though_the_log_cannot_be_written(bare_site: Site) -> None:
    bare_site.set(catalog={"url": "postgresql://nobody@127.0.0.1:1/catalog"})
    text = bare_site.cli("keys", "new", "--id", "k2").expect(0).text
    assert "warning: The audit log could not be written" in text and "k2 (check value" in text
    assert bare_site.keyring.primary_id == "k2"
