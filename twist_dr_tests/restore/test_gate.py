"""The gate: what would make a restore fail or harm is named before anything is fetched, all of it at once."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twist_dr.errors import BackupNotFound, KeyMissing, RestoreRefused, WrongKey
from twist_dr.repository.django_facts import DjangoFacts
from twist_dr.repository.keys import Keyring, new_key
from twist_dr.repository.manifest import Extension, Manifest
from twist_dr.restore import gate as gates
from twist_dr.restore.gate import Gate
from twist_dr.restore.plan import RestorePlace, RestoreRequest, restore_place
from twist_dr.restore.restore import Restore
from twist_dr.system.progress import Report
from twist_dr_tests.conftest import make_backed_up_site
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site


def _place(site: Site, **changes: Any) -> RestorePlace:
    app = site.app()
    place = restore_place(app, list(app.repositories().values()), "replace")
    return replace(place, **changes)


def _look(site: Site, change: Callable[[Manifest], Manifest] = lambda manifest: manifest, **request: Any) -> Gate:
    manifest = change(site.manifest())
    return gates.look(RestoreRequest(manifest.backup_id, **{"mode": "replace", **request}), _place(site), manifest)


def _with_facts(**changes: Any) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        assert manifest.postgres is not None
        return manifest.model_copy(update={"postgres": manifest.postgres.model_copy(update=changes)})

    return change


def test_a_backup_that_fits_passes_and_says_what_was_looked_at(backed_up: Site) -> None:
    found = _look(backed_up)
    assert found.refusals == []
    passed = " ".join(found.passed)
    for word in ("is whole", "takes the dump", "every extension", "that of the live database", "free and needs"):
        assert word in passed
    assert found.markdown().startswith("| gate | |\n| --- | --- |\n")


def test_what_the_backup_leaves_out_is_in_the_plan(backed_up: Site) -> None:
    sentence = "the subscription feed is not restored; make it anew"
    found = _look(backed_up, lambda manifest: manifest.model_copy(update={"left_out": [sentence]}))
    assert f"not in the backup: {sentence}" in found.warnings and found.refusals == []


def test_an_older_server_is_refused(backed_up: Site) -> None:
    (refusal,) = _look(backed_up, _with_facts(version="99.1", version_number=990001)).refusals
    assert "the backup comes from 99.1" in refusal and "upgrade the server" in refusal


def test_a_dump_by_newer_client_tools_than_there_are_is_refused(backed_up: Site) -> None:
    (refusal,) = _look(backed_up, _with_facts(client_version="99.0")).refusals
    assert "99 or newer are needed" in refusal


def test_a_dump_by_newer_tools_does_not_go_into_a_server_that_those_tools_do_not_serve(
    server: PostgresServer, tmp_path: Path
) -> None:
    site = make_backed_up_site(server, tmp_path)
    refusals = _look(site, _with_facts(client_version="18.0")).refusals
    assert bool(refusals) == (server.major < 17)


def test_missing_extensions_are_all_named(backed_up: Site) -> None:
    extensions = [
        Extension(name=name, version="1") for name in ("postgis", "plpgsql", "timescaledb", "x\n| passed | all\x1b[2J")
    ]
    found = _look(backed_up, _with_facts(extensions=extensions))
    (refusal,) = found.refusals
    assert "postgis, timescaledb, x\\n| passed" in refusal and "plpgsql" not in refusal
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in found.markdown().splitlines())


def test_too_little_space_is_refused_with_figures(backed_up: Site) -> None:
    huge = 10**15

    def change(manifest: Manifest) -> Manifest:
        artifacts = [artifact.model_copy(update={"size": huge}) for artifact in manifest.artifacts]
        return _with_facts(database_size=huge)(manifest.model_copy(update={"artifacts": artifacts}))

    refusals = _look(backed_up, change).refusals
    assert len(refusals) == 3
    for where, refusal in zip(("the database server's disk", "work_dir", "the disk of"), refusals, strict=True):
        assert refusal.startswith(where) and "free and needs" in refusal


def test_a_part_that_the_backup_lacks_is_refused(backed_up: Site) -> None:
    found = _look(backed_up, lambda manifest: manifest.model_copy(update={"parts": ["database"]}))
    assert [refusal for refusal in found.refusals if "has no media" in refusal]


def test_without_manage_py_another_schema_than_the_live_one_is_refused(backed_up: Site) -> None:
    changed = {"billing": ["0001_initial"]}
    found = _look(backed_up, lambda manifest: manifest.model_copy(update={"migrations": changed}))
    assert found.refusals and "set django in the settings" in found.refusals[0]
    sandbox = _look(backed_up, lambda manifest: manifest.model_copy(update={"migrations": changed}), mode="sandbox")
    assert sandbox.refusals == [] and "set django in the settings" in sandbox.warnings[0]


def test_manage_py_that_does_not_run_is_refused(backed_up: Site) -> None:
    backed_up.set(django={"manage": ["false"], "folder": str(backed_up.folder)})
    (refusal,) = _look(backed_up).refusals
    assert "could not be asked for its migrations" in refusal


def test_what_the_code_is_now_and_was_not_is_in_the_plan(backed_up: Site) -> None:
    environment = {"ERP_DATABASE_URL": backed_up.database_url}
    backed_up.set(
        django={
            "manage": [sys.executable, "manage.py"],
            "folder": str(fixtures.MANAGE.parent),
            "environment": environment,
        }
    )
    then = DjangoFacts(version="1.11", python=platform.python_version(), installed_apps=["gone"], databases={})
    found = _look(backed_up, lambda manifest: manifest.model_copy(update={"django": then}))
    assert any("made under Django 1.11, and now it is" in warning for warning in found.warnings)
    assert any("had gone, which the code has no more" in warning for warning in found.warnings)
    assert not any("Python" in warning for warning in found.warnings) and found.refusals == []


def test_a_role_that_row_level_security_filters_is_refused(backed_up: Site) -> None:
    site = backed_up
    site.query(
        "DO $$ BEGIN CREATE ROLE filtered LOGIN PASSWORD 'filtered'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    site.query("GRANT pg_read_all_data, pg_signal_backend, postgres TO filtered; ALTER ROLE filtered CREATEDB")
    owner = site.query("SELECT current_user")[0][0]
    assert owner == "postgres"
    site.variables["FILTERED"] = site.database_url.replace(
        site.database_url.partition("://")[2].rpartition("@")[0], "filtered:filtered"
    )
    site.set(restore={"database_url": "${FILTERED}"})
    refusals = " ".join(_look(site).refusals)
    assert "row-level security hides rows of" in refusals and "BYPASSRLS" in refusals
    site.query("REVOKE postgres FROM filtered")


def test_what_the_role_may_not_make_is_told_of_the_backup_with_everything_else(backed_up: Site) -> None:
    """The site belongs to a superuser."""
    site = backed_up
    site.query("DO $$ BEGIN CREATE ROLE made_by_readme; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    site.query(
        "ALTER ROLE made_by_readme LOGIN CREATEDB BYPASSRLS PASSWORD 'r'; GRANT pg_read_all_data TO made_by_readme"
    )
    site.variables["RESTORER"] = site.database_url.replace(
        site.database_url.partition("://")[2].rpartition("@")[0], "made_by_readme:r"
    )
    site.set(restore={"database_url": "${RESTORER}", "validators": [["sh", "-c", "echo on Fridays never >&2; exit 1"]]})
    with pytest.raises(RestoreRefused) as refused:
        Restore(RestoreRequest(site.latest().backup_id), _place(site), Report()).run()
    told = str(refused.value)
    assert "made_by_readme is no member of postgres with all its rights, which owns public." in told
    assert "GRANT postgres TO made_by_readme" in told and "on Fridays never" in told
    for name in site.settings().enabled_targets:
        assert site.held(name) == [site.latest().backup_id]


def test_all_reasons_are_told_at_once(backed_up: Site) -> None:
    site = backed_up
    site.set(
        restore={"validators": [["sh", "-c", "echo on Fridays never >&2; exit 1"]]},
        media={"attachments": str(site.folder / "gone" / "media")},
    )
    with pytest.raises(RestoreRefused) as refused:
        Restore(RestoreRequest(site.latest().backup_id), _place(site), Report()).run()
    assert "on Fridays never" in str(refused.value) and "media.attachments" in str(refused.value)
    media, validator = refused.value.obstacles
    assert "media.attachments" in media.what and media.remedy and "correct media" in media.remedy
    assert "on Fridays never" in validator.what and validator.remedy is None


@pytest.mark.parametrize(("keyring", "error"), [("other", KeyMissing), ("same name", WrongKey)])
def test_the_key_is_looked_for_first(backed_up: Site, keyring: str, error: type[Exception]) -> None:
    name = "k1" if keyring == "same name" else "k2"
    other = new_key(name)
    place = _place(backed_up, keyring=Keyring(name, {name: other}, "elsewhere"))
    with pytest.raises(error):
        Restore(RestoreRequest(backed_up.latest().backup_id), place, Report()).run()


def test_no_such_backup_names_what_each_target_said(backed_up: Site) -> None:
    with pytest.raises(BackupNotFound, match=r"office: it holds no backup .* archive: it holds no backup"):
        Restore(RestoreRequest("20200101T000000Z-full-0000"), _place(backed_up), Report()).run()


def test_a_plan_is_a_look_and_nothing_else(backed_up: Site) -> None:
    site = backed_up
    before = sorted(path for path in site.folder.rglob("*"))
    databases = site.databases()
    record = Restore(RestoreRequest(site.latest().backup_id), _place(site), Report()).run()
    assert record.state == "done" and "nothing was changed" in record.result
    assert record.impact and record.gate
    assert sorted(path for path in site.folder.rglob("*")) == before
    assert site.databases() == databases
