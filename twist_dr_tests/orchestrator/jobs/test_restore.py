"""``dagster job execute -j restore`` and ``-j undo_restore``: plan, sandbox, cutover and the way back, with real servers and files."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from twist_dr.orchestrator.around import watching_runs
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.restore.plan import surroundings
from twist_dr.restore.settle import kept, remove_kept
from twist_dr.system.events import Event, Planned
from twist_dr.system.lock import FileLocks
from twist_dr_tests.conftest import TOOLS, make_backed_up_site
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import ROOT, Site, start
from twist_dr_tests.storage.conftest import mounted_tmpfs
from twist_dr_tests.sweep import instants


@pytest.fixture
def backed_up(newest_server: PostgresServer, tmp_path: Path) -> Site:
    """A site with a backup, and with changes since: 7 mails and a media file more."""
    site = make_backed_up_site(newest_server, tmp_path)
    _change(site)
    return site


def _change(site: Site) -> None:
    site.query(
        "INSERT INTO outbox_outboxmessage (company_id, recipient, subject, body, headers, created_at) "
        "SELECT company_id, 'later@example.com', 'later', '', '{}', now() FROM outbox_outboxmessage LIMIT 7"
    )
    (site.media / "later.txt").write_text("uploaded after the backup")


def _state(site: Site) -> str:
    """Which of the two states is live: ``then`` (the backup's) or ``now`` (with the changes). Anything else fails."""
    (rows,) = site.query("SELECT count(*) FROM outbox_outboxmessage WHERE subject = 'later'")
    found = (rows[0], (site.media / "later.txt").exists())
    assert found in ((0, False), (7, True)), found
    return "then" if found[0] == 0 else "now"


def _said(text: str) -> str:
    """What a job said beyond Dagster's own events."""
    return "\n".join(line for line in text.splitlines() if " DEBUG " not in line)


def test_launched_as_it_is_it_plans_the_latest_verified_backup_and_changes_nothing(backed_up: Site) -> None:
    site = backed_up
    site.restore().expect(1).text.index("No backup of erp with a database is verified")
    site.verify().expect(0)
    site.backup().expect(0)
    site.query("CREATE INDEX late ON billing_invoice (id); ALTER TABLE outbox_outboxmessage ALTER subject TYPE text")
    told = list[Event]()
    with watching_runs(told.append):
        text = site.restore().expect(0).text
    assert "nothing was changed" in text
    assert (
        "in the schema 1 would go (index public.late), 1 would change back (column public.outbox_outboxmessage.subject)"
        in text
    )
    run = site.instance.get_run_records(limit=1)[0].dagster_run.run_id
    logs = site.instance.all_logs(run, of_type=dg.DagsterEventType.STEP_OUTPUT)
    (made,) = [each.get_dagster_event().step_output_data for each in logs]
    shown: Any = made.metadata["schema"].value
    assert [(each["name"], each["before"], each["after"]) for each in shown["rows"]] == [
        ("public.outbox_outboxmessage.subject", "character varying(200) NOT NULL", "text NOT NULL"),
        ("public.late", None, "CREATE INDEX late ON public.billing_invoice USING btree (id);"),
    ]
    verified = site.catalog().latest_verified("erp")
    assert verified is not None and verified.backup_id in text and Planned({"backup": verified.backup_id}) in told
    assert "7 rows newer" in text and "1 media file" in text
    assert _state(site) == "now" and site.databases() == [""]
    assert not (site.folder / "work" / "restores").exists()


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(3)
def test_a_restore_cuts_over_and_an_undo_takes_it_back(any_site: Site) -> None:
    site = any_site
    site.backup().expect(0)
    _change(site)
    text = site.replace().expect(0).text
    assert _state(site) == "then"
    assert "locked out for" in text and "; to take it back: twist-dr undo" in text
    (restored,) = site.catalog().restores("erp")
    assert (restored.state, restored.mode, restored.reason) == ("done", "replace", "test")
    assert restored.rows > 1000 and restored.tables > 20 and restored.files > 10
    assert restored.seconds_locked_out is not None and restored.seconds_locked_out < 1
    assert restored.sources == ("office",) and not restored.verified
    site.cli("list", "--replaced").expect(0).text.index("_replaced_")
    site.undo().expect(0)
    assert _state(site) == "now"
    assert [row.kind for row in site.catalog().restores("erp")] == ["undo", "restore"]
    assert restored.restore_id in site.cli("restores").expect(0).text
    assert "cutover" in site.cli("restores", restored.restore_id).expect(0).text


def test_before_a_cutover_a_backup_labelled_pre_restore_is_made(backed_up: Site) -> None:
    site = backed_up
    first = site.latest().backup_id
    site.replace(backup=first, pre_restore_backup=True).expect(0)
    newest = site.latest()
    assert newest.label == "pre-restore" and newest.complete
    assert first in newest.reason
    assert (
        newest.manifest.tables["public.outbox_outboxmessage"]
        == site.query("SELECT count(*) FROM outbox_outboxmessage")[0][0] + 7
    )
    # It holds the damage, however well it restores: proven too, it is not what the next restore proposes.
    site.verify(backup="latest:pre-restore").expect(0)
    site.verify(backup=first).expect(0)
    plan = site.restore().expect(0).text
    assert f"From {first}, labelled manual, " in plan and newest.backup_id not in plan


def test_when_the_backup_before_it_fails_the_restore_does_not_start(backed_up: Site) -> None:
    site = backed_up
    site.query("CREATE FUNCTION lost() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    site.query("CREATE TABLE damaged (id int DEFAULT lost())")
    # A damaged catalog, which pg_dump cannot read through.
    site.query("SET allow_system_table_mods = on; DELETE FROM pg_proc WHERE proname = 'lost'")
    text = site.replace(pre_restore_backup=True, parts="media").expect(1).text
    assert "so the restore was not started" in text
    assert _state(site) == "now" and site.databases() == [""]


@pytest.mark.parametrize("removed", [False, True], ids=["emptied", "removed"])
def test_when_all_media_are_gone_the_backup_before_it_warns_and_the_media_come_back(
    backed_up: Site, removed: bool
) -> None:
    site = backed_up
    first = site.latest()
    shutil.rmtree(site.media)
    if not removed:
        site.media.mkdir()
    text = site.replace(backup=first.backup_id, pre_restore_backup=True).expect(0).text
    restored = sum(path.is_file() and not path.is_symlink() for path in site.media.rglob("*"))
    assert restored == first.manifest.files["media"]
    damage = site.latest().manifest
    assert damage.label == "pre-restore" and damage.files["media"] == 0
    assert any("hold no files" in warning or "is not there" in warning for warning in damage.warnings)
    assert ("is made anew; if a disk belongs there, mount it first" in text) == removed
    # What is missing after a restore of damage is still missed by the next ordinary backup, which is compared with an ordinary one.
    shutil.rmtree(site.media)
    site.media.mkdir()
    assert f"in the last backup they held {first.manifest.files['media']}" in site.backup().expect(1).text


def test_a_restore_that_fails_leaves_no_media_folder_where_there_was_none(backed_up: Site) -> None:
    site = backed_up
    shutil.rmtree(site.media)
    site.set(restore={"after_restore_sql": ["SELECT no_such_function()"]})
    site.replace().expect(1)
    assert not site.media.exists() and site.databases() == [""]


@pytest.mark.promise(7)
def test_with_one_target_gone_the_backup_before_it_goes_to_the_other_and_so_does_the_restore(backed_up: Site) -> None:
    site = backed_up
    shutil.rmtree(site.folder / "targets" / "office")
    first = site.latest().backup_id
    text = site.replace(backup=first, pre_restore_backup=True).expect(0).text
    assert _state(site) == "then"
    assert "passed over office" in text
    assert site.catalog().restores("erp")[0].sources == ("archive",)
    assert site.catalog().restores("erp")[0].passed_over[0].startswith("office: ")


@pytest.mark.promise(4)
def test_a_corrupt_copy_is_passed_over_and_said_and_noted(backed_up: Site) -> None:
    site = backed_up
    path = site.stored("office", "database.dump")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    text = site.replace().expect(0).text
    assert _state(site) == "then"
    assert "passed over office" in text
    states = {copy.target: copy.state for copy in site.catalog().copies(site.latest().backup_id)}
    assert states == {"office": "corrupt", "archive": "checked"}


@pytest.mark.promise(4)
def test_a_media_archive_that_is_corrupt_near_its_end_leaves_nothing_of_itself(backed_up: Site) -> None:
    site = backed_up
    for target in ("office", "archive"):
        path = site.stored(target, "media.tar")
        data = bytearray(path.read_bytes())
        data[-50] ^= 1
        path.write_bytes(data)
    text = site.replace().expect(1).text
    assert "No storage target has a good copy" in text
    assert _state(site) == "now" and site.databases() == [""]
    assert [path.name for path in site.folder.iterdir() if "restore-" in path.name] == []
    assert site.catalog().restores("erp")[0].state == "failed"


def test_a_target_that_hangs_is_passed_over(backed_up: Site) -> None:
    site = backed_up
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It takes connections and never answers, as a store behind a firewall that has changed does.
        cloud = {
            "type": "s3", "bucket": "backups", "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "access_key_id": "key", "secret_access_key": "secret",
        }  # fmt: skip
        site.set(restore={"stall_seconds": 1}, storage_targets={"cloud": cloud, **site.document["storage_targets"]})
        said = _said(site.replace().expect(0).text)
    assert "passed over cloud: nothing came for 1.0 s" in said
    assert _state(site) == "then"


def test_a_source_can_be_named(backed_up: Site) -> None:
    backed_up.replace(source="archive").expect(0)
    assert backed_up.catalog().restores("erp")[0].sources == ("archive",)
    assert "choose among office, archive" in backed_up.replace(source="attic").expect(1).text


def test_a_sandbox_is_left_beside_the_live_database_and_says_how_to_get_there(backed_up: Site) -> None:
    site = backed_up
    site.set(
        restore={
            "after_restore_sql": ["DELETE FROM outbox_outboxmessage WHERE false"],
            "sandbox": {"after_restore_sql": ["DELETE FROM outbox_outboxmessage"]},
        }
    )
    text = site.restore(mode="sandbox", backup="latest", allow_unverified=True, reason="look").expect(0).text
    assert _state(site) == "now"
    (row,) = site.catalog().restores("erp")
    name = row.database
    assert name is not None and re.search(r"_sandbox_\d{8}t\d{6}$", name)
    assert f"dbname={name}'" in text and f"twist-dr sandboxes remove {row.restore_id}" in text
    password = str(Cluster(site.database_url).parameters["password"])
    assert password not in text
    assert site.query("SELECT count(*) FROM outbox_outboxmessage", name) == [(0,)]
    assert site.query("SELECT count(*) > 0 FROM billing_invoice", name) == [(True,)]
    sandbox = site.folder / "work" / "sandboxes" / row.restore_id / "attachments"
    assert sandbox.is_dir() and not (sandbox / "later.txt").exists()
    (kept,) = json.loads(site.cli("list", "--replaced", "--json").expect(0).text)
    assert (kept["database"], kept["folders"]) == (None, []), "nothing was replaced"
    # A sandbox has the configuration beside it to look at, and it is as secret as a replaced one.
    assert kept["configuration"].endswith(row.restore_id)
    assert f"database {name}" in site.cli("sandboxes").expect(0).text
    site.cli("sandboxes", "remove", row.restore_id).expect(0)
    assert site.databases() == [""] and not sandbox.exists() and _state(site) == "now"


def test_some_tables_come_into_a_schema_of_their_own_in_the_live_database(backed_up: Site) -> None:
    site = backed_up
    site.query("UPDATE billing_invoice SET status = 'lost'")
    text = site.replace(mode="schema", tables="billing_invoice, public.billing_invoiceline", confirm="").expect(0).text
    (found,) = re.findall(r"restored_\d{8}t\d{6}", text)[:1]
    assert site.query("SELECT DISTINCT status = 'lost' FROM billing_invoice") == [(True,)]
    assert site.query(f"SELECT count(*) > 0, bool_or(status = 'lost') FROM {found}.billing_invoice") == [(True, False)]
    assert site.query(f"SELECT count(*) > 0 FROM {found}.billing_invoiceline") == [(True,)]
    assert "DROP SCHEMA" in text
    assert _state(site) == "now" and site.databases() == [""]
    assert site.catalog().restores("erp")[0].tables == 2


def test_some_tables_come_into_a_sandbox(backed_up: Site) -> None:
    site = backed_up
    config = {
        "mode": "sandbox",
        "tables": "billing_invoice",
        "reason": "look",
        "backup": "latest",
        "allow_unverified": True,
    }
    site.restore(**config).expect(0)
    name = site.catalog().restores("erp")[0].database
    assert name is not None
    assert site.query("SELECT count(*) > 0 FROM billing_invoice", name) == [(True,)]
    assert _state(site) == "now"


def test_what_must_not_come_back_to_life_is_dealt_with_before_anybody_sees_it(backed_up: Site) -> None:
    site = backed_up
    seen = site.folder / "seen"
    site.set(
        restore={
            "after_restore_sql": ["DELETE FROM outbox_outboxmessage WHERE sent_at IS NULL"],
            "after_restore_commands": [["sh", "-c", f'echo "$TWIST_DR_DATABASE $PGDATABASE $TWIST_DR_MODE" > {seen}']],
        }
    )
    site.replace().expect(0)
    assert site.query("SELECT count(*) FROM outbox_outboxmessage WHERE sent_at IS NULL") == [(0,)]
    database, same, mode = seen.read_text().split()
    assert database == same and re.search(r"_restore_\d{8}t\d{6}$", database) and mode == "replace"


@pytest.mark.parametrize(
    "settings",
    [
        {"after_restore_sql": ["DELETE FROM nosuchtable"]},
        {"after_restore_commands": [["false"]]},
        {"validators": [["sh", "-c", "echo not on a Friday >&2; exit 1"]]},
        {"maintenance": {"command_on": ["false"], "command_off": ["true"]}},
    ],
    ids=["sql", "command", "validator", "maintenance"],
)  # fmt: skip
def test_what_the_settings_demand_and_cannot_be_done_stops_the_restore(
    backed_up: Site, settings: dict[str, Any]
) -> None:
    site = backed_up
    site.set(restore=settings)
    site.replace().expect(1)
    assert _state(site) == "now" and site.databases() == [""]
    assert [path.name for path in site.folder.iterdir() if "restore-" in path.name] == []


def test_a_validator_gets_the_manifest_and_its_words_are_the_reason(backed_up: Site) -> None:
    site = backed_up
    program = "python3 -c \"import json, os; print(json.load(open(os.environ['TWIST_DR_MANIFEST']))['backup_id'])\" >&2; exit 1"
    seen = site.folder / "seen"
    site.set(restore={"validators": [["sh", "-c", f"env > {seen}; {program}"]], "environment": {"TICKET": "T-1"}})
    text = site.restore(backup="latest", allow_unverified=True).expect(1).text
    assert f"the validator sh says no: sh failed with exit status 1: {site.latest().backup_id}" in text
    # Of our environment, which holds the database's URL and more, it got nothing but what the settings name.
    assert "TICKET=T-1" in seen.read_text()
    assert not any(value in seen.read_text() for value in site.environment.values())


def test_some_parts_only(backed_up: Site) -> None:
    site = backed_up
    site.replace(parts="media").expect(0)
    assert not (site.media / "later.txt").exists()
    assert site.query("SELECT count(*) FROM outbox_outboxmessage WHERE subject = 'later'") == [(7,)]
    site.undo().expect(0)
    assert _state(site) == "now"
    site.replace(parts="configuration").expect(0)
    base = site.folder / "work" / "restored-configuration"
    (folder,) = (base / "erp").iterdir()
    assert {path.stat().st_mode & 0o777 for path in (base, *base.rglob("*")) if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in base.rglob("*") if path.is_file()} == {0o600}
    assert str(folder) in site.cli("list", "--replaced").expect(0).text
    # The same for all else that backups, restores and their logs leave on this machine.
    work = [path for path in (site.folder / "work").rglob("*") if not path.is_symlink() and not path.is_socket()]
    assert [str(path) for path in work if path.is_file() and path.stat().st_mode & 0o077] == []
    assert [path.read_text() for path in folder.rglob("site.conf")] == ["SECRET_KEY=configured\n"]
    assert (site.folder / "site.conf").read_text() == "SECRET_KEY=configured\n"


_SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"confirm": ""}, "typed in confirm"),
    ({"confirm": "ERP"}, "typed in confirm"),
    ({"reason": " "}, "needs a reason"),
    ({"parts": "everything"}, "names no parts"),
    ({"tables": "billing_invoice"}, "never replace live ones"),
    ({"mode": "schema"}, "name them in tables"),
    ({"mode": "sandbox", "tables": "nosuch"}, "has no table nosuch"),
    ({"backup": "20200101T000000Z-full-0000"}, "20200101T000000Z-full-0000"),
    ({"allow_unverified": False}, "not known to be verified"),
]


def test_what_makes_no_sense_is_refused(backed_up: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site = backed_up
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    # Imported here: loading it reads the settings of this environment.
    from twist_dr.definitions import build_definitions

    job = build_definitions(site.app()).resolve_job_def("restore")
    for changes, said in _SENSELESS:
        config = {"restore": {"config": {**_config(site)["restore"]["config"], **changes}}}
        result = job.execute_in_process({"ops": config}, raise_on_error=False)
        assert not result.success, changes
        failure = result.failure_data_for_node("restore")
        assert failure is not None and failure.user_failure_data is not None
        assert said in (failure.user_failure_data.description or ""), changes
    assert _state(site) == "now" and site.databases() == [""]


def test_two_at_once_are_refused_by_name(backed_up: Site) -> None:
    site = backed_up
    with FileLocks(site.settings().lock_dir, "erp").hold("A backup"):
        assert "cannot start while A backup (process" in site.replace().expect(1).text
        assert "cannot start while A backup (process" in site.undo().expect(1).text
        site.restore(backup="latest", allow_unverified=True).expect(0)
    door = _door(site)
    runs = [site.start("restore", _config(site)) for _ in range(2)]
    _wait_until(lambda: any(run.poll() is not None for run in runs))
    door.touch()
    texts = [run.communicate(timeout=120)[0] for run in runs]
    assert sorted(run.returncode or 0 for run in runs) == [0, 1], texts
    assert _state(site) == "then"


def _door(site: Site) -> Path:
    """A file that a restore waits for before it cuts over: so two overlap, however slowly each begins."""
    door = site.folder / "door"
    site.set(restore={"after_restore_commands": [["sh", "-c", f"until [ -e '{door}' ]; do sleep 0.1; done"]]})
    return door


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _config(site: Site) -> dict[str, Any]:
    return {
        "restore": {
            "config": {"mode": "replace", "reason": "test", "confirm": "erp", "pre_restore_backup": False, "allow_unverified": True, "backup": "latest"}
        }
    }  # fmt: skip


def test_an_undo_without_its_confirmation_says_what_it_would_do(backed_up: Site) -> None:
    site = backed_up
    assert "nothing kept of any restore" in site.undo().expect(1).text
    site.replace().expect(0)
    assert "would put back the database" in site.undo(confirm="").expect(1).text
    assert "needs a reason" in site.undo(reason="").expect(1).text
    assert _state(site) == "then"


# -- versions of the application ----------------------------------------------------------------------------------------


@pytest.fixture
def django_site(site: Site) -> Site:
    """A site whose settings know its manage.py."""
    _add_django(site, fixtures.MANAGE)
    return site


def _add_django(site: Site, manage: Path) -> None:
    site.set(
        django={
            "manage": [sys.executable, str(manage)],
            "folder": str(manage.parent),
            "environment": {"ERP_DATABASE_URL": "${SITE_DATABASE_URL}"},
            "database_variable": "ERP_DATABASE_URL",
        }
    )


def _with_migration(site: Site) -> Path:
    """The same application, one migration further; returns its manage.py."""
    code = site.folder / "newer-code"
    shutil.copytree(fixtures.MANAGE.parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "billing" / "migrations" / "0005_note.py").write_text(
        "from django.db import migrations, models\n\n\nclass Migration(migrations.Migration):\n"
        "    dependencies = [('billing', '0004_currency')]\n"
        "    operations = [migrations.AddField('customer', 'note', models.TextField(null=True))]\n"
    )
    return code / "manage.py"


def _move_to_schema(site: Site) -> None:
    """Its tables, but for the key table of the settings, lie where only the database's own search path has them looked for."""
    with psycopg.connect(site.database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA shop")
        connection.execute(
            """DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
               AND c.relkind IN ('r', 'p') AND c.relname <> 'billing_invoice' LOOP EXECUTE format('ALTER TABLE %s SET SCHEMA shop', t); END LOOP; END $$"""
        )
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET search_path = shop, public".encode())


def test_an_older_backup_is_migrated_before_it_is_live(django_site: Site) -> None:
    site = django_site
    _move_to_schema(site)
    site.backup().expect(0)
    _change(site)
    newer = _with_migration(site)
    subprocess.run(
        [sys.executable, str(newer), "migrate", "--no-input"],
        env=fixtures.environment(site.database_url, site.media), check=True, capture_output=True,
    )  # fmt: skip
    _add_django(site, newer)
    plan = site.restore(backup="latest", allow_unverified=True).expect(0).text
    assert "then run 1 migration in it" in plan
    assert "in the schema 1 would go (column " in plan and "the code's 1 migration to come" in plan
    refused = site.replace(run_migrations=False).expect(1).text
    assert "billing.0005_note would be missing" in refused
    text = site.replace().expect(0).text
    assert "billing.0005_note" in text
    assert _state(site) == "then"
    assert site.query("SELECT count(*) FROM django_migrations WHERE name = '0005_note'") == [(1,)]
    site.undo().expect(0)
    assert _state(site) == "now"


def test_a_backup_newer_than_the_code_is_refused_by_name(django_site: Site) -> None:
    site = django_site
    newer = _with_migration(site)
    subprocess.run(
        [sys.executable, str(newer), "migrate", "--no-input"],
        env=fixtures.environment(site.database_url, site.media), check=True, capture_output=True,
    )  # fmt: skip
    site.set(app_version="1.5.0")
    site.backup().expect(0)
    _change(site)
    text = site.replace().expect(1).text
    assert "lacks billing.0005_note" in text and "Upgrade the application to 1.5.0 or later, then restore" in text
    assert _state(site) == "now" and site.databases() == [""]
    # In a sandbox it can be looked at all the same.
    site.restore(mode="sandbox", backup="latest", allow_unverified=True, reason="look", parts="database").expect(0)


def test_settings_that_lead_the_migration_elsewhere_touch_no_other_database(django_site: Site) -> None:
    site = django_site
    site.backup().expect(0)
    newer = _with_migration(site)
    settings = newer.parent / "erp_site" / "settings.py"
    settings.write_text(settings.read_text().replace('os.environ.get("ERP_DATABASE_URL"', 'os.environ.get("OTHER_URL"'))
    _add_django(site, newer)
    document = dict(site.document["django"])
    document["environment"] = {**document["environment"], "OTHER_URL": "${SITE_DATABASE_URL}"}
    site.set(django=document)
    site.replace().expect(1)
    assert site.databases() == [""]
    assert site.query("SELECT count(*) FROM django_migrations WHERE name = '0005_note'") == [(0,)]


# -- the server ---------------------------------------------------------------------------------------------------------


def test_a_role_that_lacks_rights_is_told_which(backed_up: Site) -> None:
    site = backed_up
    name = Cluster(site.database_url).parameters["dbname"]
    site.query("DO $$ BEGIN CREATE ROLE weak LOGIN PASSWORD 'weak'; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    site.query(f"GRANT pg_read_all_data TO weak; GRANT CONNECT ON DATABASE {name} TO weak; ALTER ROLE weak BYPASSRLS")
    site.variables["WEAK_URL"] = site.database_url.replace(_userinfo(site), "weak:weak")
    site.set(restore={"database_url": "${WEAK_URL}"})
    text = site.replace().expect(1).text
    assert "ALTER ROLE weak CREATEDB" in text and "TO weak" in text and "GRANT pg_signal_backend TO weak" in text
    assert _state(site) == "now"


def _userinfo(site: Site) -> str:
    return site.database_url.partition("://")[2].rpartition("@")[0]


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """A site whose database lies in a tablespace on a disk of its own; gives that disk too, which every test leaves as free as it was."""
    tmp_path = tmp_path_factory.mktemp("cramped")
    (tmp_path / "site" / "media").mkdir(parents=True)
    with (
        tempfile.TemporaryDirectory(prefix="twist-dr-test-") as open_folder,
        mounted_tmpfs(_entered(open_folder) / "disk", "size=300m,mode=0755") as disk,
        PostgresServer(
            TOOLS[max(TOOLS)], tmp_path / "server", settings={"fsync": "off", "max_wal_size": "64MB"}
        ) as server,
    ):
        (disk / "space").mkdir()
        user, group = unprivileged()
        if user is not None:
            os.chown(disk / "space", user, group or -1)
        with server.cluster().connect() as connection:
            connection.execute(f"CREATE TABLESPACE cramped LOCATION '{disk / 'space'}'")
            connection.execute("CREATE DATABASE erp TEMPLATE template0 ENCODING 'UTF8' TABLESPACE cramped")
        fixtures.create(server.url("erp"), tmp_path / "site" / "media", megabytes=40)
        site = Site(tmp_path / "site", server.url("erp"), tmp_path / "site" / "media")
        site.backup().expect(0)
        yield site, disk


def _entered(folder: str) -> Path:
    """A folder that every user may enter."""
    Path(folder).chmod(0o755)
    return Path(folder)


def _take_all_space(ballast: Path) -> None:
    """At once, as far as that goes: what is restored meanwhile must not get ahead."""
    with open(ballast, "wb", 0) as file:
        taken = 0
        for step in (16 << 20, 1 << 20, 4096):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), taken, step)
                    taken += step


def test_a_server_without_space_is_refused_at_the_gate(cramped: tuple[Site, Path]) -> None:
    site, disk = cramped
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - (30 << 20)))
    text = site.replace(parts="database").expect(1).text
    assert f"the database server's disk ({disk}" in text and "free space there" in text
    assert site.databases() == [""]
    (disk / "ballast").unlink()


def test_a_server_that_runs_out_of_space_in_the_middle_stays_as_it_was(cramped: tuple[Site, Path]) -> None:
    site, disk = cramped

    def fill() -> None:
        """As soon as the restored database is there, something else takes all the space."""
        deadline = time.monotonic() + 60
        while not any("_restore_" in name for name in site.databases()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        _take_all_space(disk / "ballast")

    rows = site.query("SELECT count(*) FROM billing_invoice")
    filler = threading.Thread(target=fill)
    filler.start()
    text = site.replace(parts="database").expect(1).text
    filler.join()
    assert "The disk of the database server filled up during the restore" in _said(text)
    assert site.databases() == [""]
    (disk / "ballast").unlink()
    assert site.query("SELECT count(*) FROM billing_invoice") == rows


def test_a_server_that_runs_out_of_space_after_the_rows_says_the_same(cramped: tuple[Site, Path]) -> None:
    site, disk = cramped
    rows = site.query("SELECT count(*) FROM billing_invoice")
    site.set(
        restore={"after_restore_commands": [["sh", "-c", f"cat /dev/zero > {disk / 'ballast'} 2>/dev/null; true"]]}
    )
    text = site.replace(parts="database").expect(1).text
    assert "The disk of the database server filled up during the restore" in _said(text)
    assert site.databases() == [""]
    site.set(restore={})
    (disk / "ballast").unlink()
    assert site.query("SELECT count(*) FROM billing_invoice") == rows


def test_prepared_transactions_are_named_by_the_plan_already(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    settings = {"fsync": "off", "max_prepared_transactions": "5"}
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings=settings) as server:
        media = tmp_path / "site" / "media"
        media.mkdir()
        fixtures.create(server.url("erp"), media, megabytes=1)
        site = Site(tmp_path / "site", server.url("erp"), media)
        site.backup().expect(0)
        with psycopg.connect(site.database_url, autocommit=True) as connection:
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE left_over (x int)")
            connection.execute("PREPARE TRANSACTION 'month-end'")
        text = site.restore(backup="latest", allow_unverified=True).expect(1).text
        assert "prepared transaction month-end" in text and "ROLLBACK PREPARED" in text


# -- health, crashes, cleanup ---------------------------------------------------------------------------------------------


def test_an_application_that_is_not_healthy_afterwards_is_put_back_at_once(backed_up: Site) -> None:
    site = backed_up
    probe = ["test", "-e", str(site.media / "later.txt")]
    site.set(restore={"health": {"command": probe, "timeout_seconds": 0.5}})
    text = site.replace().expect(1).text
    assert "what was live before is live again" in text
    assert _state(site) == "now"
    assert site.catalog().restores("erp")[0].state == "undone"


@pytest.mark.promise(3)
@pytest.mark.promise(8)
@pytest.mark.sweep
@pytest.mark.parametrize("part", instants([0.1, 0.65, 0.8], every=[step / 36 for step in range(1, 37)]))
def test_killed_at_any_step_the_doctor_names_it_and_one_command_settles_it(backed_up: Site, part: float) -> None:
    site = backed_up
    site.set(restore={"maintenance": {"file": str(site.folder / "maintenance")}})
    steps = _count_steps(site)
    at = max(1, round(steps * part))
    killed = _run_killed(site, at)
    assert killed == -9
    findings = json.loads(site.cli("doctor", "--json").text)
    named = [finding for finding in findings if finding["check"] == "restores" and finding["status"] == "problem"]
    journals = list((site.folder / "work" / "restores" / "erp").glob("*.json"))
    settled = site.cli("settle").expect(0).text
    state = _state(site)
    assert bool(_settled(site)) == ("nothing was cut short" not in settled)
    assert not (site.folder / "maintenance").exists()
    if named:
        assert "twist-dr settle" in named[0]["remedy"]
        assert ("finished" in settled) == (state == "then"), settled
    else:
        assert "nothing was cut short" in settled, (at, journals)
    assert [path.name for path in site.folder.iterdir() if ".restore-" in path.name or ".aside-" in path.name] == []
    assert len(site.databases()) == (2 if state == "then" else 1)


def _settled(site: Site) -> list[str]:
    """What the audit log says of settling."""
    return [row.subject for row in site.catalog().audit("erp") if row.action == "settle" and row.result == "done"]


_STEPS: list[int] = []


def _count_steps(site: Site) -> int:
    """How many steps a restore has here, the same every time: counted once, in one that is undone again."""
    if not _STEPS:
        listing = site.folder / "steps"
        _run_killed(site, 0, KILLED_STEPS=str(listing))
        _STEPS.append(len(listing.read_text().splitlines()))
        site.undo().expect(0)
        for kept_now in kept(surroundings(site.settings())):
            remove_kept(kept_now.journal, surroundings(site.settings()))
        shutil.rmtree(site.folder / "work" / "restores")
    return _STEPS[0]


def _run_killed(site: Site, at: int, **variables: str) -> int:
    path = site.folder / "killed.yaml"
    path.write_text(json.dumps({"ops": _config(site)}))
    command = [sys.executable, "-m", "twist_dr_tests.killed", str(at), "dagster", "job", "execute", "-m", "twist_dr.definitions", "-j", "restore", "-c", str(path)]  # fmt: skip
    process = start(command, {**site.environment, **variables, "PYTHONPATH": str(ROOT)}, site.folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (0, -9), said[-3000:]
    return process.returncode


def test_the_next_restore_settles_what_was_cut_short_by_itself(backed_up: Site) -> None:
    site = backed_up
    assert _run_killed(site, 12) == -9
    text = site.replace().expect(0).text
    assert "was cut short before its switch and is reverted now" in text
    assert _state(site) == "then" and len(site.databases()) == 2


def test_what_was_replaced_is_removed_by_cleanup_when_its_time_is_over(backed_up: Site) -> None:
    site = backed_up
    site.replace().expect(0)
    assert "kept" in site.job("cleanup").expect(0).text
    assert len(site.databases()) == 2
    (path,) = (site.folder / "work" / "restores" / "erp").glob("*.json")
    document = json.loads(path.read_text())
    document["keep_until"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    findings = json.loads(site.cli("doctor", "--json").text)
    assert [finding["status"] for finding in findings if finding["check"] == "replaced"] == ["warning"]
    site.job("cleanup", {"cleanup": {"config": {"dry_run": True}}}).expect(0)
    assert len(site.databases()) == 2
    site.job("cleanup").expect(0)
    assert site.databases() == [""]
    assert list(site.folder.glob(".media.replaced-*")) == []
    assert "so it cannot be undone any more, and kept is nothing" in site.undo().expect(1).text


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(6)
def test_no_secret_appears_in_what_a_restore_says_and_stores(backed_up: Site) -> None:
    site = backed_up
    text = site.replace().expect(0).text + site.undo().expect(0).text
    password = str(Cluster(site.database_url).parameters["password"])
    key = site.keyring.primary.secret.hex() if hasattr(site.keyring.primary, "secret") else "\0"
    stored = b"".join(path.read_bytes() for path in (site.folder / "work").rglob("*") if path.is_file())
    history = b"".join(path.read_bytes() for path in (site.folder / "dagster").rglob("*") if path.is_file())
    for secret in (password, key):
        assert secret not in text
        assert secret.encode() not in stored + history


def test_a_restore_leaves_no_fetched_dump(backed_up: Site) -> None:
    site = backed_up
    site.replace().expect(0)
    assert list((site.folder / "work").glob("fetched-*")) == []
