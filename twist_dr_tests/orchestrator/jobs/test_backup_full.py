"""``dagster job execute -j backup_full``, as a script runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import dagster as dg
import pytest
import zstandard

from twist_dr.orchestrator import around
from twist_dr.repository.keys import new_key, save_keyring
from twist_dr.settings import open_application
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site
from twist_dr_tests.storage.servers import rclone_server


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(1, 2)
def test_a_backup_reaches_every_target_and_is_proven_by_a_restore(any_site: Site) -> None:
    any_site.backup(label="pre-update", reason="before 1.5").expect(0)
    any_site.verify().expect(0)
    row = any_site.latest()
    assert (row.label, row.reason) == ("pre-update", "before 1.5")
    assert {copy.target: copy.state for copy in row.copies} == {"office": "checked", "archive": "checked"}
    assert row.last_verification is not None and row.last_verification.verified
    assert row.last_verification.rows == sum(row.manifest.tables.values()) > 1000
    assert row.last_verification.files == sum(row.manifest.files.values()) > 20
    assert any_site.staged() == [], "staging is cleared once every target has its copy"


def test_the_manifest_says_what_a_restore_must_know(any_site: Site) -> None:
    any_site.backup().expect(0)
    manifest = any_site.manifest()
    facts = manifest.postgres
    assert facts is not None and facts.system_identifier and facts.lsn.count("/") == 1 and facts.timeline == 1
    assert (facts.encoding, facts.bootstrap_role) == ("UTF8", "postgres")
    assert "plpgsql" in [extension.name for extension in facts.extensions]
    assert "0003_rls" in manifest.migrations["billing"] and manifest.db_schema_version
    assert manifest.tables["public.billing_invoice"] > 0
    assert manifest.app_version == "1.4.1"
    assert manifest.key.id == "k1"
    names = {artifact.name for artifact in manifest.artifacts}
    assert names == {
        "database.dump",
        "roles.sql",
        "media.tar",
        "media.files.jsonl",
        "configuration.tar",
        "configuration.files.jsonl",
    }


def test_two_local_targets_do_not_share_bytes_and_staging_costs_no_second_write(site: Site) -> None:
    site.backup().expect(0)
    first, second = (site.stored(target, "database.dump").stat() for target in ("office", "archive"))
    assert first.st_ino != second.st_ino
    assert (first.st_nlink, second.st_nlink) == (1, 1)


def test_an_unencrypted_target_can_be_read_with_zstd_alone_and_still_hides_roles_and_configuration(site: Site) -> None:
    site.document["storage_targets"]["archive"]["encrypt"] = False
    site.save()
    site.backup().expect(0)
    packed = site.stored("archive", "database.dump").read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed).startswith(b"PGDMP")
    names = {path.name for path in site.stored("archive").iterdir()}
    assert {"database.dump.zst", "media.tar.zst", "roles.sql.zst.enc", "configuration.tar.zst.enc"} <= names
    site.verify(target="archive").expect(0)


def test_only_the_chosen_parts_go_to_only_the_chosen_targets(site: Site) -> None:
    site.backup(parts="media", targets="archive").expect(0)
    manifest = site.manifest("archive")
    assert manifest.parts == ["media"] and set(manifest.storage_targets) == {"archive"}
    assert site.held("office") == []
    site.verify().expect(0)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"targets": "office, moon"}, "moon is no enabled storage target; choose among office, archive"),
        ({"parts": "databse"}, "names no parts; write 'all', or some of database, media, configuration"),
    ],
)
def test_a_misspelt_choice_is_refused_before_anything_is_made(
    site: Site, config: dict[str, str], sentence: str
) -> None:
    assert sentence in site.backup(**config).expect(1).text
    assert site.staged() == []


@pytest.mark.promise(7)
def test_one_broken_target_stops_no_other_and_fails_the_run(site: Site, tmp_path: Path) -> None:
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    with rclone_server(tmp_path / "s3") as s3:
        common = {
            "type": "s3",
            "endpoint_url": s3.endpoint,
            "access_key_id": s3.access_key,
            "secret_access_key": "${S3_SECRET}",
        }
        site.document["storage_targets"] |= {
            "cloud": {**common, "bucket": "bucket"},
            "no_bucket": {**common, "bucket": "missing"},
            "wrong_key": {**common, "bucket": "bucket", "prefix": "other", "secret_access_key": "wrong-secret-key"},
            "unmounted": {
                "type": "nas",
                "path": str(tmp_path / "mnt" / "backups"),
                "mount_point": str(tmp_path / "mnt"),
            },
        }
        site.save()
        site.variables["S3_SECRET"] = s3.secret_key
        outcome = site.backup().expect(1)
    states = {copy.target: copy.state for copy in site.latest().copies}
    assert states == {
        "office": "checked", "archive": "checked", "cloud": "checked",
        "no_bucket": "failed", "wrong_key": "failed", "unmounted": "failed",
    }  # fmt: skip
    assert "is missing on 3 of 6 storage targets" in outcome.text
    for word in ("no_bucket:", "wrong_key:", "unmounted:", "dagster asset materialize"):
        assert word in outcome.text
    assert not (tmp_path / "mnt").exists(), "nothing lands under an empty mount point"
    assert "wrong-secret-key" not in outcome.text
    assert len(site.staged()) == 1, "what a target still lacks is kept for the next attempt"


def test_a_repeated_run_copies_only_to_the_target_that_failed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.document["storage_targets"]["late"] = {"type": "local", "path": str(tmp_path / "disk" / "late")}
    site.save()
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(around, "_RETRY_SECONDS", 0)
    with dg.DagsterInstance.get() as instance:
        failed = dg.execute_job(dg.reconstructable(_backup_full), instance)
        assert not failed.success
        untouched = site.stored("office", "database.dump").stat().st_mtime_ns
        (tmp_path / "disk").mkdir()
        repeated = dg.execute_job(
            dg.reconstructable(_backup_full),
            instance,
            reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, instance),
        )
        assert repeated.success
        copied = {event.asset_key.path[-1] for event in repeated.get_asset_materialization_events() if event.asset_key}
    assert "late" in copied
    assert {copy.state for copy in site.latest().copies} == {"checked"} and len(site.latest().copies) == 3
    assert len(site.held("office")) == 1, "no second dump was made"
    assert site.stored("office", "database.dump").stat().st_mtime_ns == untouched, (
        "what is there and right is not sent again"
    )
    assert site.staged() == []


def _backup_full() -> dg.JobDefinition:
    from twist_dr.definitions import build_definitions

    return build_definitions(open_application()).resolve_job_def("backup_full")


def test_a_target_added_later_gets_its_copy_from_another_target(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backup().expect(0)
    site.document["storage_targets"]["third"] = {"type": "local", "path": "targets/third"}
    site.save()
    site.materialize("erp", "copies", "third").expect(0)
    assert site.manifest("third").backup_id == site.manifest("office").backup_id
    site.verify(target="third").expect(0)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_named_and_leaves_nothing(site: Site) -> None:
    right = site.database_url
    site.database_url = right.replace(right.split(":")[2].split("@")[0], "wrong-password")
    outcome = site.backup().expect(1)
    assert (
        "password authentication failed" in outcome.text and "correct user, password and database name" in outcome.text
    )
    assert "wrong-password" not in outcome.text
    assert site.staged() == []


def test_a_missing_database_is_named_and_leaves_nothing(site: Site) -> None:
    site.database_url = site.database_url.rsplit("/", 1)[0] + "/nowhere"
    assert 'database "nowhere" does not exist' in site.backup().expect(1).text
    assert site.staged() == []


def test_a_role_under_row_level_security_is_refused_with_the_remedy(site: Site, newest_server: PostgresServer) -> None:
    database = site.database_url.rsplit("/", 1)[1]
    with newest_server.cluster(database).connect() as connection:
        connection.execute("DROP ROLE IF EXISTS auditor")
        connection.execute("CREATE ROLE auditor LOGIN PASSWORD 'secret'")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor")
        connection.execute("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO auditor")
    site.database_url = newest_server.url(database, "auditor", "secret")
    assert "ALTER ROLE auditor BYPASSRLS" in site.backup().expect(1).text
    with newest_server.cluster().connect() as connection:
        connection.execute("ALTER ROLE auditor BYPASSRLS")
    site.backup().expect(0)
    assert any("may not read role passwords" in warning for warning in site.manifest().warnings)
    site.verify().expect(0)
    with newest_server.cluster(database).connect() as connection:
        connection.execute("DROP OWNED BY auditor; DROP ROLE auditor")


def test_a_full_staging_disk_is_said_before_the_dump_begins(site: Site, small_disk: Path) -> None:
    (site.media / "large.bin").write_bytes(os.urandom(40 << 20))
    site.set(work_dir=str(small_disk))
    outcome = site.backup().expect(1)
    assert "The backup needs about" in outcome.text and "set work_dir to a larger disk" in outcome.text


def test_a_staging_disk_that_fills_up_in_the_middle_leaves_nothing_half_made(site: Site, small_disk: Path) -> None:
    site.backup().expect(0)  # the next one's need is reckoned from this one
    catalog = (site.folder / "work" / "catalog.db").absolute()
    site.set(work_dir=str(small_disk), catalog={"url": f"sqlite:///{catalog}"})
    (site.media / "large.bin").write_bytes(os.urandom(150 << 20))
    outcome = site.backup().expect(1)
    assert "is full; free space there" in outcome.text
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.suffix == ".enc"]
    assert len(site.held("office")) == 1


@pytest.mark.promise(10)
def test_an_unreadable_source_fails_the_backup(site: Site) -> None:
    site.set(media={"attachments": str(site.folder / "not-there")})
    assert "The media folder" in site.backup().expect(1).text
    assert site.held("office") == []


def test_two_backups_at_once_are_refused_by_name(site: Site) -> None:
    first = _started_and_at_work(site)
    first.send_signal(signal.SIGSTOP)
    try:
        second = site.backup().expect(1)
    finally:
        first.send_signal(signal.SIGCONT)
    assert f"while A backup (process {first.pid}" in second.text
    first.communicate(timeout=120)
    assert first.returncode == 0


# -- cut off in the middle ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(8)
def test_kill_9_leaves_nothing_that_lists_as_a_backup_and_the_next_run_clears_it(site: Site) -> None:
    run = _started_and_at_work(site)
    run.kill()
    run.communicate()
    _wait_until(lambda: not _children_naming(str(site.folder)), seconds=10)
    assert site.held("office") == [] and site.held("archive") == []
    assert site.cli("list").expect(0).text.startswith("no backups yet")
    assert len(site.staged()) == 1
    (site.media / "large.bin").unlink()
    next_run = site.backup().expect(0)
    assert "removed the incomplete backup" in next_run.text
    assert "was killed earlier and is marked as failed now" in next_run.text
    assert site.staged() == []
    assert len(site.held("office")) == 1


@pytest.mark.usefixtures("as_commands")
def test_an_interrupted_run_leaves_no_process_no_staging_and_no_lock(site: Site) -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):
        run = _started_and_at_work(site)
        run.send_signal(ending)
        text, _ = run.communicate(timeout=60)
        assert run.returncode != 0, text
        assert site.staged() == []
        assert not _children_naming(str(site.folder))
    (site.media / "large.bin").unlink()
    site.backup().expect(0)


def _started_and_at_work(site: Site) -> subprocess.Popen[str]:
    """A backup that has begun to write and is far from its end."""
    (site.media / "large.bin").write_bytes(os.urandom(120 << 20))
    run = site.start("backup_full")
    staging = site.folder / "work" / "staging" / "erp"
    _wait_until(
        lambda: (
            any(path.stat().st_size > 1 << 20 for path in staging.glob("*/media.tar*")) if staging.exists() else False
        )
    )
    return run


def _children_naming(text: str) -> list[str]:
    """Command lines of processes that mention ``text``, or are dumping."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and str(os.getpid()) != path.parent.name and "pytest" not in line:
            found.append(line)
    return found


def _wait_until(happened: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_commands")
@pytest.mark.promise(6)
def test_no_secret_shows_in_arguments_logs_metadata_catalog_or_on_a_target(site: Site) -> None:
    password = site.database_url.split(":")[2].split("@")[0]
    key_line = site.keyring_path.read_text().splitlines()[-1].split(": ")[1]
    run = site.start("backup_full")
    arguments: set[str] = set()
    while run.poll() is None:
        arguments |= set(_all_command_lines())
        time.sleep(0.005)
    text, _ = run.communicate()
    assert run.returncode == 0
    site.database_url = site.database_url.replace(password, "another-" + password)
    text += site.backup().expect(1).text
    for secret in (password, key_line):
        assert secret not in text
        assert not [line for line in arguments if secret in line]
        for path in site.folder.rglob("*"):
            if path.is_file() and path not in (site.keyring_path,):
                assert secret.encode() not in path.read_bytes(), f"{path} holds a secret"


def _all_command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return lines


# -- what people and scripts read afterwards ---------------------------------------------------------------------------


def test_list_and_show_tell_what_happened(site: Site) -> None:
    site.backup(reason="for the test").expect(0)
    assert "never" in site.cli("list").expect(0).text
    site.verify().expect(0)
    backup_id = site.latest().backup_id
    listed = site.cli("list").expect(0).text
    assert backup_id in listed and "office" in listed and "from office" in listed
    shown = site.cli("show", "latest").expect(0).text
    assert "for the test" in shown and "database.dump" in shown and "verified" in shown
    document = json.loads(site.cli("show", backup_id[:15], "--json").expect(0).text)
    assert document["backup_id"] == backup_id and document["manifest"]["tables"]
    assert document["verifications"][0]["state"] == "verified"
    assert json.loads(site.cli("list", "--json").expect(0).text)[0]["copies"][0]["state"] == "checked"
    assert "no backup of erp whose id begins with '1999'" in site.cli("show", "1999").expect(1).text


def test_a_lost_catalog_is_rebuilt_from_a_target(site: Site) -> None:
    site.backup().expect(0)
    site.backup(label="pre-update").expect(0)
    known = {row.backup_id for row in site.catalog().backups(application="erp")}
    for path in (site.folder / "work").glob("catalog.db*"):
        path.unlink()
    assert site.cli("list").expect(0).text.startswith("no backups yet")
    assert "2 backups read from archive" in site.cli("catalog", "rebuild", "--from", "archive").expect(0).text
    assert {row.backup_id for row in site.catalog().backups(application="erp")} == known
    assert [row.label for row in site.catalog().backups(application="erp")] == ["pre-update", "manual"]
    site.verify().expect(0)


def test_a_new_primary_key_writes_new_backups_and_the_old_one_reads_the_old(site: Site) -> None:
    site.backup().expect(0)
    old = site.latest().backup_id
    assert "is the primary key" in site.cli("keys", "new", "--id", "k2").expect(0).text
    site.backup().expect(0)
    assert site.latest().key_id == "k2"
    site.verify(backup=old).expect(0)
    site.verify().expect(0)
    listed = site.cli("keys", "list").expect(0).text
    assert "k1" in listed and "k2" in listed and site.keyring.primary_id == "k2"


def test_a_missing_and_a_wrong_key_are_said_at_once(site: Site) -> None:
    site.backup().expect(0)
    right = site.keyring
    save_keyring(type(right)("k9", {"k9": new_key("k9")}, "other"), site.keyring_path)
    assert "The backup needs key 'k1'" in site.verify().expect(1).text
    save_keyring(type(right)("k1", {"k1": new_key("k1")}, "other"), site.keyring_path)
    assert "put the key of that time back" in site.verify().expect(1).text


# -- a target that stays away, a catalog that does not answer ----------------------------------------------------------


def test_a_target_that_is_gone_for_nights_does_not_fill_staging(site: Site, tmp_path: Path) -> None:
    site.document["storage_targets"]["away"] = {"type": "local", "path": str(tmp_path / "away" / "folder")}
    site.save()
    for _ in range(3):
        site.backup().expect(1)
    assert len(site.staged()) == 1, "only the newest is kept for the target that lacks it"
    assert len(site.held("office")) == 3


def test_a_backup_that_died_before_it_was_recorded_is_recorded_by_the_next_run(site: Site) -> None:
    site.document["storage_targets"]["away"] = {"type": "local", "path": str(site.folder / "away" / "folder")}
    site.save()
    site.backup().expect(1)
    lost = site.latest().backup_id
    for path in (site.folder / "work").glob("catalog.db*"):
        path.unlink()
    del site.document["storage_targets"]["away"]
    site.save()
    assert f"{lost} lay whole in staging and was not recorded; it is now" in site.backup().expect(0).text
    assert site.catalog().backup("erp", lost) is not None


def test_a_target_added_later_with_another_form_is_told_what_to_do(site: Site) -> None:
    site.backup().expect(0)
    site.document["storage_targets"]["third"] = {"type": "local", "path": "targets/third", "compression": "gzip"}
    site.save()
    text = site.materialize("erp", "copies", "third").expect(1).text
    assert "third keeps backups as gzip+enc" in text and "make a new backup" in text


def test_the_latest_backup_to_verify_is_one_with_a_database(site: Site) -> None:
    site.backup().expect(0)
    whole = site.latest().backup_id
    site.backup(parts="configuration").expect(0)
    site.verify().expect(0)
    assert site.catalog().verifications(whole) != []


def test_a_target_that_lost_all_its_backups_is_not_taken_for_a_new_one(site: Site) -> None:
    site.backup().expect(0)
    (site.folder / "targets" / "office").rename(site.folder / "unmounted")
    assert "office: it held backups before" in site.backup().expect(1).text
    assert not (site.folder / "targets" / "office").exists()
    (site.folder / "targets" / "office").mkdir()
    assert "is not on office any more" in site.cli("catalog", "rebuild", "--from", "office").expect(0).text
    site.backup().expect(0)
