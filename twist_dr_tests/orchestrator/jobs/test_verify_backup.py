"""``dagster job execute -j verify_backup``: good backups are proven, bad copies passed over, bad backups named."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.scratch import scratch_base
from twist_dr.repository.encryption import associated_data
from twist_dr.repository.manifest import Artifact, ArtifactForm, Manifest
from twist_dr.repository.sources import OneCopy
from twist_dr.repository.streams import ArtifactWriter, Form
from twist_dr.settings import Application
from twist_dr.verify import backup
from twist_dr.verify.verification import VerificationResult
from twist_dr_tests.conftest import make_site
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

Damage = Callable[[Site], None]


def _dump(site: Site) -> Path:
    return site.stored("office", "database.dump")


def _truncate(site: Site) -> None:
    data = _dump(site).read_bytes()
    _dump(site).write_bytes(data[:-100])


def _alter(site: Site) -> None:
    data = bytearray(_dump(site).read_bytes())
    data[len(data) // 2] ^= 1
    _dump(site).write_bytes(data)


def _swap(site: Site) -> None:
    first, second = site.stored("office", "configuration.tar"), site.stored("office", "roles.sql")
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def _remove(site: Site) -> None:
    _dump(site).unlink()


def _empty_manifest(site: Site) -> None:
    (site.stored("office") / "manifest.json").write_bytes(b"")


def _alter_manifest(site: Site) -> None:
    path = site.stored("office") / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"label":"manual"', b'"label":"pre-up"'))


def _foreign_manifest(site: Site) -> None:
    older = site.stored("office") / "manifest.json"
    site.backup().expect(0)
    shutil.copyfile(older, site.stored("office") / "manifest.json")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated artifact": (_truncate, "bytes where"),
    "altered artifact": (_alter, "were recorded"),
    "swapped artifacts": (_swap, "office: "),
    "removed artifact": (_remove, "missing, though the manifest is there"),
    "empty manifest": (_empty_manifest, "is not JSON"),
    "altered manifest": (_alter_manifest, "its MAC does not fit"),
    "foreign manifest": (_foreign_manifest, "was put in the place of"),
}


def _read(app: Application, copy: OneCopy) -> VerificationResult:
    """Each artifact is read to its end, and nothing restored."""
    copy.repository.held(copy.manifest)
    for artifact in copy.manifest.artifacts:
        for _ in copy.read(artifact.name):
            pass
    return VerificationResult(copy.manifest.backup_id, copy.repository.target.name, seconds={"total": 0.0})


@pytest.mark.promise(4)
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_copy_is_passed_over_for_the_next_target(
    backed_up: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, words = DAMAGES[name]
    if damage is not _alter:
        # Which copy is taken does not depend on what comes of a good one, which one of them shows.
        monkeypatch.setattr(backup, "prove", _read)
    site = backed_up
    damage(site)
    outcome = site.verify().expect(1)
    assert "passed over office: " in outcome.text and words in outcome.text
    assert "is verified from archive, but its copy on office is bad" in outcome.text
    row = site.latest()
    assert row.last_verification is not None and (row.last_verification.target, row.last_verification.verified) == (
        "archive",
        True,
    )
    assert {copy.target: copy.state for copy in row.copies}["office"] == "corrupt"
    assert "office (corrupt)" in site.cli("list").expect(0).text
    site.materialize("erp", "copies", "office").expect(0)
    site.verify(target="office").expect(0)


def test_a_check_that_is_launched_alone_is_told(backed_up: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in backed_up.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(backed_up.folder)
    from twist_dr.definitions import build_definitions

    checks = {("copies", "office"): "stored_bytes_checked", ("verification",): "restored_equals_recorded"}
    for path, name in checks.items():
        check = dg.AssetCheckKey(dg.AssetKey(["erp", *path]), name)
        job = dg.define_asset_job("only_the_check", selection=dg.AssetSelection.checks(check))
        definitions = dg.Definitions.merge(build_definitions(backed_up.app()), dg.Definitions(jobs=[job]))
        with dg.DagsterInstance.ephemeral() as instance:
            done = definitions.resolve_job_def("only_the_check").execute_in_process(
                instance=instance, raise_on_error=False
            )
        assert done.success and [each.passed for each in done.get_asset_check_evaluations()] == [True]
        assert done.get_asset_materialization_events() == []


def test_when_no_target_has_a_good_copy_the_run_fails_and_says_why_for_each(backed_up: Site) -> None:
    site = backed_up
    _truncate(site)
    site.stored("archive", "media.tar").unlink()
    text = site.verify().expect(1).text
    assert "No storage target has a good copy of" in text and "database.dump" in text and "media.tar" in text
    assert not [
        verification for verification in site.catalog().verifications(site.latest().backup_id) if verification.verified
    ]


def test_an_altered_unencrypted_artifact_is_found(site: Site) -> None:
    site.document["storage_targets"]["office"] |= {"encrypt": False, "compression": "none"}
    site.save()
    site.backup().expect(0)
    dump = _dump(site)
    data = dump.read_bytes()
    dump.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    assert "were recorded" in site.verify(target="office").expect(1).text


# -- backups that restore to something else ----------------------------------------------------------------------------


@pytest.mark.promise(10)
def test_a_restore_that_lacks_rows_is_not_verified_and_every_difference_is_named(site: Site) -> None:
    site.backup(targets="office").expect(0)
    _reseal(site, tables=lambda tables: {**tables, "public.billing_invoice": 7, "public.lost": 3})
    text = site.verify().expect(1).text
    assert "is NOT verified" in text
    assert "rows restored where 7 were recorded" in text
    assert "table public.lost is missing after the restore (3 rows were recorded)" in text
    verification = site.catalog().verifications(site.manifest().backup_id)[0]
    assert verification.state == "unverified" and len(verification.differences) == 2
    assert "FAILED" in site.cli("list").expect(0).text


def test_another_migration_state_and_a_missing_extension_are_differences(site: Site) -> None:
    site.backup(targets="office").expect(0)
    _reseal(site, migrations=lambda migrations: {**migrations, "billing": [*migrations["billing"], "0005_more"]})
    assert "other migrations are applied than were recorded" in site.verify().expect(1).text


def test_an_empty_key_table_is_a_difference(site: Site) -> None:
    with Cluster(site.database_url).connect() as connection:
        connection.execute("TRUNCATE django_session")
    site.backup(targets="office").expect(0)
    site.set(verification={"key_tables": ["billing_invoice", "django_session", "nothing.at_all"]})
    text = site.verify().expect(1).text
    assert "key table public.django_session is empty" in text and "key table nothing.at_all is missing" in text


def test_code_of_the_database_learns_no_secret_and_reaches_nothing(site: Site, open_folder: Path) -> None:
    """A check is run for each row that is restored, by the scratch server's superuser, who may have it run any program."""
    open_folder.chmod(0o1777)
    site.variables["S3_SECRET_ACCESS_KEY"] = "canary"
    site.query(
        f"""CREATE FUNCTION public.ok(a int) RETURNS bool LANGUAGE plpgsql AS $ok$ BEGIN
              BEGIN EXECUTE $$COPY (SELECT 1) TO PROGRAM 'env >> {open_folder}/env'$$; EXCEPTION WHEN OTHERS THEN NULL; END;
              BEGIN EXECUTE $$COPY (SELECT pg_read_file('{site.keyring_path}')) TO '{open_folder}/key'$$; EXCEPTION WHEN OTHERS THEN NULL; END;
              BEGIN EXECUTE $$COPY (SELECT 1) TO '{open_folder}/mark'$$; EXCEPTION WHEN OTHERS THEN NULL; END;
              RETURN true; END $ok$"""
    )
    site.query("CREATE TABLE public.harmless (a int CHECK (public.ok(a)))")
    site.query("INSERT INTO public.harmless VALUES (1)")
    # The live server ran it, too, and has marks to show for it.
    assert (open_folder / "mark").exists() and (open_folder / "env").exists()
    for path in open_folder.iterdir():
        path.unlink()
    site.backup(targets="office").expect(0)
    site.verify().expect(0)
    assert site.catalog().verifications(site.manifest().backup_id)[0].state == "verified"
    assert list(open_folder.iterdir()) == []


def test_a_dump_that_cannot_be_restored_is_not_verified(site: Site) -> None:
    site.backup(targets="office").expect(0)
    _replace_artifact(site, "database.dump", b"PGDMP" + bytes(5000))
    text = site.verify().expect(1).text
    assert "is NOT verified" in text and "pg_restore failed" in text


def test_an_archive_with_an_entry_that_leads_outside_is_refused(site: Site) -> None:
    site.backup(targets="office").expect(0)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        evil = tarfile.TarInfo("attachments/../../../evil")
        evil.size = 4
        archive.addfile(evil, io.BytesIO(b"evil"))
    _replace_artifact(site, "media.tar", out.getvalue())
    assert "has an entry that leads outside" in site.verify().expect(1).text


def test_an_archive_that_lacks_a_file_of_its_index_is_not_verified(site: Site) -> None:
    site.backup(targets="office").expect(0)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("attachments")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    _replace_artifact(site, "media.tar", out.getvalue())
    text = site.verify().expect(1).text
    assert "attachments/company-1 is missing from the archive" in text
    differences = site.catalog().verifications(site.manifest().backup_id)[0].differences
    assert any("0 files where" in difference for difference in differences)


# -- where it is restored ----------------------------------------------------------------------------------------------


def test_an_existing_server_can_be_used_and_is_left_as_it_was(
    backed_up: Site, newest_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = backed_up
    with PostgresServer(newest_server.tools, tmp_path_factory.mktemp("other")) as other:
        site.variables["OTHER_URL"] = other.url()
        site.set(verification={"server": "${OTHER_URL}"})
        before = _names(other)
        site.verify().expect(0)
        assert _names(other) == before
    assert site.latest().last_verification is not None


def test_the_production_server_is_refused_as_a_place_to_verify(backed_up: Site, newest_server: PostgresServer) -> None:
    site = backed_up
    site.variables["OTHER_URL"] = newest_server.url()
    site.set(verification={"server": "${OTHER_URL}"})
    before = _names(newest_server)
    assert "verification.server is the production server itself" in site.verify().expect(1).text
    assert _names(newest_server) == before


def _scratch_contents(site: Site) -> list[str]:
    base = scratch_base(site.settings().scratch_dir)
    return [path.name for path in base.iterdir() if not path.name.startswith("programs-")]


def test_the_scratch_server_and_the_fetched_dump_are_gone_afterwards(backed_up: Site) -> None:
    site = backed_up
    site.verify().expect(0)
    assert _scratch_contents(site) == []


@pytest.mark.promise(8)
def test_what_a_killed_verification_left_is_removed_by_the_next(backed_up: Site) -> None:
    site = backed_up
    run = site.start("verify_backup")
    deadline = time.monotonic() + 60
    while not any(name.startswith("server-") for name in _scratch_contents(site)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    run.kill()
    run.communicate()
    assert _scratch_contents(site) != []
    site.verify().expect(0)
    assert _scratch_contents(site) == []


@pytest.mark.promise(9)
def test_a_backup_is_verified_from_a_target_and_the_keys_alone(
    backed_up: Site, newest_server: PostgresServer, tmp_path: Path
) -> None:
    site = backed_up
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = make_site(newest_server, elsewhere)
    shutil.copytree(site.folder / "targets" / "office", other.folder / "targets" / "office")
    shutil.copyfile(site.keyring_path, other.keyring_path)
    other.database_url = "postgresql://nobody:none@127.0.0.1:1/gone"
    other.verify().expect(0)
    assert other.latest().last_verification is not None


def test_an_older_backup_is_verified_when_it_is_named(site: Site) -> None:
    site.backup(reason="older").expect(0)
    older = site.latest().backup_id
    site.backup(reason="newer").expect(0)
    site.verify(backup=older).expect(0)
    assert site.catalog().verifications(older)[0].verified
    text = site.verify(backup="20200101T000000Z-full-0000").expect(1).text
    assert "holds no backup 20200101T000000Z-full-0000" in text


# -- helpers -----------------------------------------------------------------------------------------------------------


def _names(server: PostgresServer) -> set[str]:
    with server.cluster().connect() as connection:
        rows = connection.execute("SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles").fetchall()
    return {name for (name,) in rows}


def _reseal(site: Site, **changes: Callable[[object], object]) -> None:
    """Change fields of the manifest as somebody with the key could: what was recorded is then not what restores."""
    manifest = site.manifest()
    changed = manifest.model_copy(update={name: change(getattr(manifest, name)) for name, change in changes.items()})
    (site.stored("office") / "manifest.json").write_bytes(changed.seal(site.keyring.primary))


def _replace_artifact(site: Site, name: str, content: bytes) -> None:
    """Put other bytes in an artifact's place, properly encrypted and recorded."""
    manifest: Manifest = site.manifest()
    folder = site.stored("office")
    site.stored("office", name + ".").unlink()
    data = associated_data("erp", manifest.backup_id, name)
    with ArtifactWriter(folder, name, [Form("zstd", True)], key=site.keyring.primary, data=data) as writer:
        writer.write(content)
    file, digest = writer.stored[Form("zstd", True)]
    old = manifest.artifact(name)
    assert old is not None
    new = Artifact(
        name=name,
        part=old.part,
        size=writer.plain.size,
        sha256=writer.plain.sha256,
        stored={"zstd+enc": ArtifactForm(name=file, size=digest.size, sha256=digest.sha256)},
    )
    artifacts = [new if artifact.name == name else artifact for artifact in manifest.artifacts]
    changed = manifest.model_copy(update={"artifacts": artifacts})
    (folder / "manifest.json").write_bytes(changed.seal(site.keyring.primary))
