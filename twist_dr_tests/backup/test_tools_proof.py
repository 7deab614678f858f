"""Client tools of another major version than the server's are proven before a backup rests on them, and by the doctor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from twist_dr.backup import take as backup
from twist_dr.backup.from_settings import plan_backup
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.backup.tools_proof import ToolsProof
from twist_dr.cli.init import write_initial_files
from twist_dr.doctor import run_doctor
from twist_dr.doctor import tools as doctor_tools
from twist_dr.doctor.findings import DoctorFinding
from twist_dr.doctor.tools import check_dumps
from twist_dr.errors import BackupError
from twist_dr.postgres import verification_place
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.verification_place import VerificationPlan
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.settings import parse_settings
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.apps import application
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer

OLDEST, NEWEST = TOOLS[min(TOOLS)], TOOLS[max(TOOLS)]
#: Version 17 took this column away.
LOST_COLUMN = "CREATE VIEW written AS SELECT buffers_checkpoint FROM pg_stat_bgwriter"


@pytest.fixture
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of an older version, on a machine that has the newest tools alone."""
    if OLDEST.major == NEWEST.major:
        pytest.skip("needs PostgreSQL of two versions")
    with PostgresServer(OLDEST, tmp_path_factory.mktemp("older"), settings={"fsync": "off"}) as running:
        yield running


@pytest.fixture
def newest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(folders: Sequence[Path] = ()) -> list[Tools]:
        return [NEWEST]

    for module in (backup, verification_place, doctor_tools):
        monkeypatch.setattr(module, "find_tools", found)


def database(server: PostgresServer, *more: str) -> Cluster:
    cluster = server.create_database("proven")
    with cluster.connect() as connection:
        for statement in ("CREATE TABLE t (id int PRIMARY KEY, name text)", *more):
            connection.execute(statement)
    return cluster


def proof_for(folder: Path, cluster: Cluster) -> ToolsProof:
    return ToolsProof(VerificationPlan(folder / "scratch", cluster), folder / "work" / "proven-tools" / "erp")


def taken(cluster: Cluster, folder: Path) -> tuple[Manifest, list[str]]:
    """A backup, and what was told meanwhile."""
    lines: list[str] = []
    plan = BackupPlan("erp", parts=("database",), targets={"x": Form("zstd", True)}, proof=proof_for(folder, cluster))
    report = Report(Lines(lines.append, lines.append))
    return take_full_backup(plan, cluster, KEYRING, StagingArea(folder / "staging"), report), lines


def proven(lines: list[str]) -> bool:
    return any(
        re.fullmatch(rf"the schema that pg_dump {NEWEST.version} writes came back in .*", line) for line in lines
    )


def examined(cluster: Cluster, folder: Path) -> list[DoctorFinding]:
    return list(check_dumps(cluster, [], OLDEST.major, proof_for(folder, cluster)))


@pytest.mark.usefixtures("newest_alone")
def test_a_first_backup_proves_newer_tools_and_again_when_a_version_changed(
    older: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = database(older)
    manifest, lines = taken(cluster, tmp_path)
    assert proven(lines)
    (warning,) = (line for line in manifest.warnings if NEWEST.version in line)
    assert f"cannot be restored into the server's own version {older.major}" in warning
    assert warning.endswith(f"install postgresql-client-{older.major}")
    manifest, lines = taken(cluster, tmp_path)
    assert not proven(lines)
    assert warning in manifest.warnings
    # As if the package had been upgraded since.
    (mark,) = (tmp_path / "work" / "proven-tools" / "erp").iterdir()
    mark.rename(mark.with_name(mark.name.replace(NEWEST.version, "18.0")))
    assert proven(taken(cluster, tmp_path)[1])
    assert list((tmp_path / "scratch").glob("*")) == []


@pytest.mark.usefixtures("newest_alone")
def test_a_schema_that_nobody_could_restore_fails_the_backup_and_the_doctor_with_what_postgresql_said(
    older: PostgresServer, tmp_path: Path
) -> None:
    cluster = database(older, LOST_COLUMN)
    with pytest.raises(BackupError) as caught:
        taken(cluster, tmp_path)
    (finding,) = examined(cluster, tmp_path)
    assert finding.status == "problem" and finding.remedy
    for told in (str(caught.value), f"{finding.found} {finding.remedy}"):
        assert "does not take the schema back" in told
        assert "buffers_checkpoint does not exist" in told
        assert f"postgresql-client-{older.major}" in told
    assert StagingArea(tmp_path / "staging").sealed() == []
    assert not (tmp_path / "work").exists()


@pytest.mark.usefixtures("newest_alone")
def test_what_leans_on_a_table_that_was_given_to_an_extension_is_no_complaint(
    older: PostgresServer, tmp_path: Path
) -> None:
    given = "CREATE TABLE tariff (id int PRIMARY KEY)", "CREATE VIEW cheap AS SELECT id FROM tariff"
    cluster = database(older, "CREATE EXTENSION hstore", *given, "ALTER EXTENSION hstore ADD TABLE tariff")
    assert proven(taken(cluster, tmp_path)[1])


@pytest.mark.usefixtures("newest_alone")
def test_the_doctor_asks_for_the_tools_of_the_servers_own_version(older: PostgresServer, tmp_path: Path) -> None:
    (finding,) = examined(database(older), tmp_path)
    assert finding.status == "problem"
    assert f"the schema that pg_dump {NEWEST.version} writes came back in PostgreSQL {NEWEST.major}" in finding.found
    assert f"cannot be restored into the server's own version {older.major}" in finding.found
    assert finding.remedy is not None and finding.remedy.startswith(f"apt-get install postgresql-client-{older.major} ")


@pytest.mark.usefixtures("newest_alone")
def test_what_cannot_be_tried_is_a_warning_of_the_backup(
    older: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = database(older)
    client_only = [Tools(NEWEST.folder, NEWEST.major, NEWEST.version, server=False)]
    monkeypatch.setattr(verification_place, "find_tools", lambda folders: client_only)
    manifest, lines = taken(cluster, tmp_path)
    assert not proven(lines)
    assert [line for line in manifest.warnings if "could not be tried" in line]
    assert not (tmp_path / "work").exists()


def test_tools_of_the_servers_own_version_cost_nothing(
    older: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = database(older, LOST_COLUMN)

    def never(*arguments: object) -> str:
        raise AssertionError("proved")

    monkeypatch.setattr(ToolsProof, "prove", never)
    manifest, _ = taken(cluster, tmp_path)
    assert manifest.postgres is not None and manifest.postgres.client_version == OLDEST.version
    assert [line for line in manifest.warnings if "pg_dump" in line] == []
    assert examined(cluster, tmp_path) == []


@pytest.mark.usefixtures("newest_alone")
def test_the_doctor_and_the_backup_use_the_settings_place_for_the_proof(older: PostgresServer, tmp_path: Path) -> None:
    write_initial_files(tmp_path, application="erp")
    file = tmp_path / "twist-dr.yaml"
    settings = parse_settings(file.read_text(), file, {"DATABASE_URL": database(older).url})
    found = [finding for finding in run_doctor(application(settings), {}) if finding.check == "dumps"]
    assert [finding.status for finding in found] == ["problem"] and "came back in PostgreSQL" in found[0].found
    plan = plan_backup(application(settings), label="manual", reason="", parts=("database",), targets={})
    assert plan.proof is not None and plan.proof.plan.scratch == settings.scratch_dir
    assert plan.proof.proven.is_relative_to(settings.work_dir)


def test_tools_that_serve_the_server_are_a_warning_when_what_they_write_comes_back(
    older: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = database(older)
    # As if these programs were of the version that follows the server's.
    next_version = Tools(NEWEST.folder, OLDEST.major + 1, f"{OLDEST.major + 1}.3", server=True)
    for module in (verification_place, doctor_tools):
        monkeypatch.setattr(module, "find_tools", lambda folders: [next_version])
    (finding,) = examined(cluster, tmp_path)
    assert finding.status == "warning"
    assert f"a server is best dumped by tools of its own version {older.major}" in finding.found
    assert finding.remedy is not None and f"postgresql-client-{older.major}" in finding.remedy
