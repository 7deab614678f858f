"""twist-dr doctor: what a person learns about a sound installation and about broken ones, each broken for real."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from urllib.parse import quote

import pytest

from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.cli.init import write_initial_files
from twist_dr.django_app.manage import DjangoApplication
from twist_dr.doctor import database as database_checks
from twist_dr.doctor import exit_status, render_findings, run_doctor
from twist_dr.doctor.database import DatabaseSeen, check_database, explain_connection
from twist_dr.doctor.files import check_configuration, check_django, check_media, look_at
from twist_dr.doctor.findings import Check, DoctorFinding, T, shown_finding
from twist_dr.doctor.keys import check_secrets
from twist_dr.doctor.machine import (
    check_dagster_home,
    check_scratch_space,
    check_staging_space,
    check_system_clock,
    check_work_folder,
)
from twist_dr.doctor.targets import TargetPlace, check_places, check_targets
from twist_dr.doctor.tools import check_client_tools, check_isolation, check_verification
from twist_dr.doctor.wal import WalSeen, check_programs, check_wal_server
from twist_dr.doctor.wal_archive import check_archiver, check_newest_base, check_positions, check_spool
from twist_dr.errors import DatabaseGone
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.unprivileged import reachable_base, unprivileged
from twist_dr.redaction import keep_secret
from twist_dr.repository.keys import Keyring, load_keyring, new_key, save_keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.secrets_file import SecretsFile
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.settings import Settings, parse_settings
from twist_dr.storage.base import Capabilities
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr.wal.spool import Spool
from twist_dr_tests.apps import application
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.erp import fixtures
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.recorded import resident
from twist_dr_tests.servers import PostgresServer, free_port
from twist_dr_tests.storage.conftest import mounted_tmpfs

PASSWORD = "correct/horse@battery"
NOBODY = 65534
ERP = Path(fixtures.__file__).parent


def drain(check: Check[T]) -> tuple[list[DoctorFinding], T]:
    """All findings of a check, and what it returns."""
    findings = []
    while True:
        try:
            findings.append(next(check))
        except StopIteration as end:
            return findings, end.value


def findings_of(check: Check[T]) -> list[DoctorFinding]:
    return drain(check)[0]


def only(findings: list[DoctorFinding], check: str) -> DoctorFinding:
    """The one finding of that name."""
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, f"{check}: {found} among {[finding.check for finding in findings]}"
    return found[0]


def as_role(server: PostgresServer, database: str, role: str) -> Cluster:
    """The database as a role whose password is :data:`PASSWORD`."""
    return Cluster(f"postgresql://{role}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/{database}")


def remedy(finding: DoctorFinding) -> str:
    """Its remedy, which a problem or warning must have."""
    assert finding.remedy, finding
    return finding.remedy


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Rights bind root only when it stops being root; others they bind anyway."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def server_folder(folder: Path) -> Iterator[Path]:
    """Where the cluster of a server made for ``folder`` lies; removed at the end, for pytest does not look there."""
    base = reachable_base(folder, unprivileged()[0])
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may get to; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="twist-dr-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def settings_for(folder: Path, url: str, more: str = "") -> Settings:
    """The settings that ``twist-dr init`` writes, and ``more``."""
    if not (folder / "twist-dr.yaml").exists():
        write_initial_files(folder, application="erp")
    text = (folder / "twist-dr.yaml").read_text() + more
    return parse_settings(text, folder / "twist-dr.yaml", {"DATABASE_URL": url})


@pytest.fixture
def small(newest_server: PostgresServer) -> Cluster:
    """A database with one table and one migration."""
    cluster = newest_server.create_database("doctor")
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE django_migrations (id serial, app text, name text)")
        connection.execute("INSERT INTO django_migrations (app, name) VALUES ('shop', '0001_initial')")
    return cluster


@pytest.fixture
def limited(newest_server: PostgresServer, small: Cluster) -> Iterator[tuple[Cluster, Cluster]]:
    """The database as a role without any rights, and as the superuser."""
    with small.connect() as connection:
        connection.execute(f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}'")
    yield as_role(newest_server, "doctor", "limited"), small
    with small.connect() as connection:
        connection.execute("DROP OWNED BY limited; DROP ROLE limited")


# -- the whole ----------------------------------------------------------------------------------------------------------


def test_a_sound_application_gets_no_problem_and_hints_about_its_only_disk_and_who_is_told(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "media").mkdir()
    url = server.url("doctor_erp")
    fixtures.create(url, tmp_path / "media")
    monkeypatch.setenv("ERP_MEDIA", str(tmp_path / "media"))
    more = f"""
media: {{attachments: media}}
django:
  manage: [{sys.executable}, manage.py]
  folder: {ERP}
  environment: {{ERP_DATABASE_URL: "${{DATABASE_URL}}"}}
"""
    settings = settings_for(tmp_path, url, more)
    lacking = [
        finding
        for finding in run_doctor(application(settings), {"DAGSTER_HOME": str(tmp_path)})
        if finding.status != "ok"
    ]
    assert [finding.check for finding in lacking] == ["targets", *["restore settings"] * 3, "schedules", "alerts"]
    assert "older backup cannot be migrated" in lacking[-3].found
    more += """  database_variable: ERP_DATABASE_URL
restore:
  maintenance: {file: maintenance}
  health: {command: ["true"]}
"""
    settings = settings_for(tmp_path, url, more)
    findings = list(run_doctor(application(settings), {"DAGSTER_HOME": str(tmp_path)}))
    text = render_findings(findings)
    assert [finding.check for finding in findings if finding.status != "ok"] == ["targets", "schedules", "alerts"], text
    assert "can be restored beside" in only(findings, "restore rights").found
    assert only(findings, "restores").found == "none was cut short"
    assert "one disk" in only(findings, "targets").found
    assert f"PostgreSQL {server.major}" in only(findings, "database").found
    assert f"pg_dump {server.major}" in only(findings, "client tools").found
    assert "a scratch PostgreSQL" in only(findings, "verification").found
    assert only(findings, "django").found == "manage.py runs and knows 31 migrations"
    assert only(findings, "media attachments").found.endswith("25 files, 1.5 MB, all readable")
    assert exit_status(findings) == 0
    assert f"warning  {'targets':<17} one disk" in text
    assert f"\n{'':<26} -> enable a second storage target" in text


def test_an_installation_where_everything_is_broken_is_told_so_without_an_exception_or_a_secret(tmp_path: Path) -> None:
    url = f"postgresql://erp:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/erp"
    tell = "import os, sys; sys.exit(' '.join(os.environ[name] for name in ('SECRET_KEY', 'DATABASE', 'HARMLESS')))"
    more = f"""
media: {{gone: no/such/folder}}
django:
  manage: [{sys.executable}, -c, "{tell}"]
  folder: .
  environment: {{SECRET_KEY: swordfish, DATABASE: "${{DATABASE_URL}}", HARMLESS: erp.settings}}
verification: {{server: "${{DATABASE_URL}}"}}
catalog: {{url: "${{DATABASE_URL}}"}}
"""
    settings = settings_for(tmp_path, url, more)
    (tmp_path / "keyring.yaml").write_text(f"primary: a\nkeys: {{a: {PASSWORD}}}\n")
    (tmp_path / "work").touch()
    (tmp_path / "backups").touch()
    findings = list(run_doctor(application(settings), {}))
    text = render_findings(findings)
    problems = {finding.check for finding in findings if finding.status == "problem"}
    assert problems >= {"database", "media gone", "django", "work folder", "target disk", "keyring", "catalog"}, text
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "swordfish", "battery"):
        assert secret not in text
    assert "because the database could not be asked" in only(findings, "not checked").found
    assert "***" in only(findings, "django").found
    assert "erp.settings" in only(findings, "django").found
    assert not any("broke" in finding.found for finding in findings), text
    for finding in findings:
        assert finding.status == "ok" or remedy(finding)
    assert exit_status(findings) == 1


def test_a_secret_is_hidden_even_where_a_long_complaint_is_cut() -> None:
    keep_secret("swordfish", "ab-1")
    for before in range(780, 805):
        told = shown_finding(DoctorFinding("django", "problem", "x" * before + " swordfish " + "y" * 50)).found
        assert "sword" not in told
        assert len(told) <= 801
    assert shown_finding(DoctorFinding("django", "ok", "ab-1 in ab-12")).found == "*** in ab-12"
    assert shown_finding(DoctorFinding("django", "ok", "as it is", "do it")) == DoctorFinding(
        "django", "ok", "as it is", "do it"
    )


# -- the database -------------------------------------------------------------------------------------------------------


def test_a_wrong_password_a_missing_database_and_a_stopped_server_are_told_apart(newest_server: PostgresServer) -> None:
    def told(cluster: Cluster) -> DoctorFinding:
        findings, seen = drain(check_database(cluster))
        assert seen is None
        assert findings[0].status == "problem"
        return only(findings, "database")

    wrong = told(Cluster(newest_server.url(password="wrong")))
    assert "password authentication failed" in wrong.found
    assert "right password into database.url" in remedy(wrong)
    missing = told(newest_server.cluster("no_such_database"))
    assert 'database "no_such_database" does not exist' in missing.found
    assert "the job restore with mode replace makes it anew" in remedy(missing)
    assert "correct its name in database.url" in remedy(missing)
    with pytest.raises(DatabaseGone) as gone:
        newest_server.cluster("no_such_database").connect()
    elsewhere = explain_connection("verification", gone.value, "verification.server")
    assert "after the last / of verification.server" in remedy(elsewhere)
    stopped = told(Cluster(f"postgresql://erp:{PASSWORD.partition('/')[0]}@127.0.0.1:{free_port()}/erp"))
    assert "refused" in stopped.found
    assert "start the server" in remedy(stopped)
    unencrypted = told(Cluster(newest_server.url() + "?sslmode=require"))
    assert "sslmode=require" in remedy(unencrypted)
    nowhere = told(Cluster("postgresql://erp@no-such-host.invalid/erp"))
    assert "name service" in remedy(nowhere)


def test_a_role_that_row_level_security_would_filter_gets_the_statement_that_repairs_it(
    limited: tuple[Cluster, Cluster],
) -> None:
    as_limited, as_superuser = limited
    with as_superuser.connect() as connection:
        connection.execute("GRANT pg_read_all_data TO limited")
        connection.execute("ALTER TABLE django_migrations ENABLE ROW LEVEL SECURITY")
    found = only(findings_of(check_database(as_limited)), "rights")
    assert found.status == "problem"
    assert "hides rows of public.django_migrations from role limited" in found.found
    with as_superuser.connect() as connection:
        connection.execute(remedy(found))
    assert only(findings_of(check_database(as_limited)), "rights").status == "ok"


def test_a_role_that_may_not_read_tables_and_sequences_gets_the_statement_that_repairs_it(
    limited: tuple[Cluster, Cluster],
) -> None:
    as_limited, as_superuser = limited
    with as_superuser.connect() as connection:
        connection.execute("CREATE TABLE years (year int) PARTITION BY LIST (year)")
    findings = findings_of(check_database(as_limited))
    assert "public.django_migrations, public.years" in only(findings, "rights").found
    assert "public.django_migrations_id_seq" in only(findings, "sequences").found
    assert "refused" in only(findings, "migrations").found
    with as_superuser.connect() as connection:
        connection.execute(remedy(only(findings, "rights")))
    again = findings_of(check_database(as_limited))
    assert {finding.status for finding in again if finding.check != "role passwords"} == {"ok"}


def test_a_role_that_may_not_read_passwords_is_warned_and_may_go_on(limited: tuple[Cluster, Cluster]) -> None:
    found = only(findings_of(check_database(limited[0])), "role passwords")
    assert found.status == "warning"
    assert "GRANT SELECT ON pg_authid TO limited" in remedy(found)


def test_large_objects_that_the_role_may_not_read_are_counted(server: PostgresServer) -> None:
    cluster = server.create_database("objects")
    with cluster.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("SELECT lo_create(0), lo_create(0)")
    as_reader = as_role(server, "objects", "reader")
    assert "large objects" not in {finding.check for finding in findings_of(check_database(cluster))}
    found = only(findings_of(check_database(as_reader)), "large objects")
    assert found.found == "role reader may not read 2 large objects"
    with cluster.connect() as connection:
        connection.execute(remedy(found))
    assert "large objects" not in {finding.check for finding in findings_of(check_database(as_reader))}


def test_a_database_without_django_migrations_is_only_a_warning(newest_server: PostgresServer) -> None:
    findings = findings_of(check_database(newest_server.create_database("empty")))
    assert only(findings, "migrations").status == "warning"
    assert only(findings, "rights").found == "this database has no tables"


def test_a_database_server_whose_clock_is_off_is_named_with_the_difference(
    small: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No clock of this machine is touched: ours is read wrongly instead.
    for seconds, status in ((1, "ok"), (20, "warning"), (-300, "problem")):
        ahead = timedelta(seconds=seconds)

        class Wrong(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None, *, ahead: timedelta = ahead) -> Wrong:
                return cls.fromtimestamp(time.time() - ahead.total_seconds(), tz)

        monkeypatch.setattr(database_checks, "datetime", Wrong)
        told = only(findings_of(check_database(small)), "server clock")
        assert told.status == status
        found = told.found
    assert "5 min 00 s behind ours" in found


def test_a_standby_is_recognised_and_its_impatience_is_told(tmp_path: Path) -> None:
    tools = TOOLS[max(TOOLS)]
    with server_folder(tmp_path / "standby") as base:
        PostgresServer(tools, tmp_path / "standby", keep=True).close()
        (base / "data" / "standby.signal").touch()
        with PostgresServer(tools, tmp_path / "standby") as standby:
            found = only(findings_of(check_database(standby.cluster())), "standby")
    assert found.status == "warning"
    assert "hot_standby_feedback = on" in remedy(found)


# -- tools and verification ---------------------------------------------------------------------------------------------


def test_tools_that_are_all_too_old_are_listed_with_the_package_to_install(small: Cluster) -> None:
    # As if the server had been upgraded to a version that nothing on this machine knows.
    found = only(findings_of(check_client_tools(small, [], 99)), "client tools")
    assert found.status == "problem"
    assert "of version 99 or newer are needed" in found.found
    for tools in TOOLS.values():
        assert str(tools.folder) in found.found
    assert "install postgresql-client-99" in remedy(found)


def test_a_folder_of_the_settings_without_tools_is_named(small: Cluster, tmp_path: Path) -> None:
    findings = findings_of(check_client_tools(small, [tmp_path], max(TOOLS)))
    assert [finding.status for finding in findings] == ["warning", "ok"]
    assert str(tmp_path) in findings[0].found


@pytest.fixture
def ssl_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A server that takes SSL. The wheel's cannot, Debian's can."""
    if 15 not in TOOLS:
        pytest.skip("needs a server that was built with SSL")
    user, group = unprivileged()
    with server_folder(tmp_path / "ssl") as base:
        key, certificate = base / "key.pem", base / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2",
             "-keyout", key, "-out", certificate], check=True, capture_output=True,
        )  # fmt: skip
        key.chmod(0o600)
        for path in (key, certificate):
            os.chown(path, -1 if user is None else user, -1 if group is None else group)
        settings = {"ssl": "on", "ssl_key_file": str(key), "ssl_cert_file": str(certificate)}
        with PostgresServer(TOOLS[15], tmp_path / "ssl", settings=settings) as running:
            yield running


def test_tools_without_ssl_are_found_out_before_the_first_backup(ssl_server: PostgresServer) -> None:
    wheel = TOOLS[max(TOOLS)].folder
    cluster = Cluster(ssl_server.url() + "?sslmode=require")
    assert only(findings_of(check_client_tools(cluster, [], 15)), "client tools").status == "ok"
    # 16 keeps the tools of 15 from being chosen, which could do it.
    found = only(findings_of(check_client_tools(cluster, [wheel], 16)), "client tools")
    assert found.status == "problem"
    assert "SSL" in found.found
    assert "cannot connect, though we can" in found.found
    assert "postgresql-client-16" in remedy(found) or "client_tools" in remedy(found)


def test_a_machine_that_cannot_run_a_server_of_that_version_is_told_what_to_install(
    small: Cluster, tmp_path: Path
) -> None:
    _, seen = drain(check_database(small))
    assert seen is not None
    found = only(findings_of(check_verification([], tmp_path, None, replace(seen, major=99))), "verification")
    assert found.status == "problem"
    assert remedy(found).startswith("apt-get install postgresql-99, or set verification.server")


def test_an_extension_that_the_verifying_server_lacks_is_named_with_its_package(small: Cluster, tmp_path: Path) -> None:
    _, seen = drain(check_database(small))
    assert seen is not None
    odd = "x; $(id) {y}\n'z'"
    findings = findings_of(
        check_verification([], tmp_path, None, replace(seen, extensions=("plpgsql", "postgis", odd)))
    )
    found, other = (finding for finding in findings if finding.check == "extensions")
    assert found.status == "warning"
    assert "uses postgis" in found.found
    assert f"postgresql-{seen.major}-postgis-3" in remedy(found)
    # Whoever pastes what doctor says runs nothing that a name says.
    assert other.found.startswith("the database uses x; $(id) {y}\\n'z', which")
    assert shlex.split(remedy(other), comments=True) == ["apt-get", "install", f"postgresql-{seen.major}-{odd}"]


def test_no_scratch_server_is_left_over(small: Cluster, tmp_path: Path) -> None:
    _, seen = drain(check_database(small))
    assert seen is not None
    list(check_verification([], tmp_path, None, seen))
    user, _ = unprivileged()
    assert not list(reachable_base(tmp_path, user).glob("server-*"))


def test_the_production_server_is_refused_as_the_place_to_verify(newest_server: PostgresServer, small: Cluster) -> None:
    _, seen = drain(check_database(small))
    assert seen is not None
    findings = findings_of(check_verification([], Path("/nowhere"), newest_server.cluster(), seen))
    assert "the production server itself" in only(findings, "verification").found


@pytest.fixture(params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PostgresServer]:
    """A server of each version found that is not the one of the production."""
    with PostgresServer(TOOLS[request.param], tmp_path / "other", settings={"fsync": "off"}) as running:
        yield running


def test_another_server_may_verify_unless_it_is_older_or_lacks_rights(other: PostgresServer, small: Cluster) -> None:
    _, seen = drain(check_database(small))
    assert seen is not None

    def told(cluster: Cluster, seen: DatabaseSeen) -> DoctorFinding:
        return only(findings_of(check_verification([], Path("/nowhere"), cluster, seen)), "verification")

    assert told(other.cluster(), replace(seen, major=other.major)).status == "ok"
    assert "older than the database's 99" in told(other.cluster(), replace(seen, major=99)).found
    with other.cluster().connect() as connection:
        connection.execute("DROP ROLE IF EXISTS visitor")
        connection.execute(f"CREATE ROLE visitor LOGIN PASSWORD '{PASSWORD}'")
    visitor = as_role(other, "postgres", "visitor")
    found = told(visitor, replace(seen, major=other.major))
    assert remedy(found).startswith("ALTER ROLE visitor CREATEDB CREATEROLE")
    gone = told(Cluster(f"postgresql://x@127.0.0.1:{free_port()}/x"), seen)
    assert "verification.server" in remedy(gone)


# -- files and Django ---------------------------------------------------------------------------------------------------


def test_an_unreadable_upload_is_named_with_the_command_that_opens_it(open_folder: Path) -> None:
    (open_folder / "public.pdf").write_text("x")
    (open_folder / "private.pdf").write_text("x")
    (open_folder / "private.pdf").chmod(0o000)
    with ordinary_user():
        found = only(findings_of(check_media({"uploads": open_folder})), "media uploads")
    assert found.status == "problem"
    assert found.found == f"cannot read {open_folder / 'private.pdf'}"
    assert remedy(found).startswith("sudo setfacl -R -m u:")


def test_a_missing_or_empty_media_folder_is_noticed(tmp_path: Path) -> None:
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.mkdir()
    findings = findings_of(check_media({"gone": gone, "empty": empty}))
    assert [finding.status for finding in findings] == ["problem", "warning"]
    assert remedy(findings[0]) == "mount it, or correct media.gone"


def test_a_media_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("12345")
    (tmp_path / "link").symlink_to("real")
    findings, seen = drain(check_media({"uploads": tmp_path / "link"}))
    assert findings[0].status == "ok"
    assert (seen.files, seen.bytes) == (1, 5)


def test_a_huge_folder_is_looked_at_in_part_and_that_is_said(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).touch()
    seen = look_at([tmp_path], most_entries=10)
    assert not seen.whole
    assert seen.files < 20
    assert look_at([tmp_path]).whole
    assert not look_at([tmp_path], most_seconds=0).whole


def test_a_configuration_pattern_that_finds_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").touch()
    findings = findings_of(check_configuration([str(tmp_path / "*.conf"), str(tmp_path / "*.service")]))
    assert [finding.status for finding in findings] == ["warning", "ok"]
    assert "*.service finds no file" in findings[0].found
    assert findings_of(check_configuration([]))[0].status == "warning"


def test_unreadable_configuration_is_a_problem(open_folder: Path) -> None:
    (open_folder / "secret.env").touch(0o600)
    (open_folder / "secret.env").chmod(0o000)
    with ordinary_user():
        found = only(findings_of(check_configuration([f"{open_folder}/*"])), "configuration")
    assert found.status == "problem"


def manage_py(folder: Path, body: str) -> list[str]:
    (folder / "manage.py").write_text(body)
    return [sys.executable, "manage.py"]


def test_migrations_that_wait_are_counted_with_the_command_that_applies_them(tmp_path: Path) -> None:
    manage = manage_py(tmp_path, "print('[X]  shop.0001_initial\\n[ ]  shop.0002_price\\n[ ]  shop.0003_tax')")
    findings = findings_of(
        check_django(DjangoApplication(manage, tmp_path, {}, None), frozenset({"shop.0001_initial"}))
    )
    assert [finding.status for finding in findings] == ["ok", "warning"]
    assert findings[1].found == "2 migrations not applied: shop.0002_price, shop.0003_tax"
    assert remedy(findings[1]) == f"cd {tmp_path} && {sys.executable} manage.py migrate"


def test_a_manage_py_that_works_on_another_database_is_found_out(
    server: PostgresServer, tmp_path: Path, small: Cluster
) -> None:
    url = server.url("doctor_erp")
    fixtures.create(url, tmp_path)
    _, seen = drain(check_database(small))
    assert seen is not None
    environment = {"ERP_DATABASE_URL": url}
    application = DjangoApplication([sys.executable, "manage.py"], ERP, environment, None)
    findings = findings_of(check_django(application, seen.migrations))
    assert "it uses another database" in findings[-1].found


def test_a_manage_py_that_fails_hangs_or_is_missing_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(manage: list[str], folder: Path = tmp_path) -> DoctorFinding:
        found = only(findings_of(check_django(DjangoApplication(manage, folder, {}, None), None)), "django")
        assert found.status == "problem"
        assert remedy(found)
        return found

    assert "ModuleNotFoundError" in told(manage_py(tmp_path, "import no_such_module_at_all")).found
    assert "cannot be run" in told([str(tmp_path / "no-python"), "manage.py"]).found
    assert "there is no folder" in told([sys.executable], tmp_path / "gone").found
    monkeypatch.setattr("twist_dr.doctor.files._MANAGE_SECONDS", 0.3)
    assert "not done after" in told(manage_py(tmp_path, "import time; time.sleep(60)")).found


def test_a_manage_py_that_relied_on_our_environment_is_told_which_variable_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SETTINGS", "shop.settings")
    manage = manage_py(tmp_path, "import os; os.environ['SHOP_SETTINGS']")
    found = only(findings_of(check_django(DjangoApplication(manage, tmp_path, {}, None), None)), "django")
    assert "SHOP_SETTINGS is set here but not passed on" in found.found
    assert "django.environment" in found.found
    named = DjangoApplication(manage, tmp_path, {"SHOP_SETTINGS": "shop.settings"}, None)
    assert only(findings_of(check_django(named, None)), "django").status == "ok"


@pytest.mark.parametrize(("way", "meaning"), [("user", "can reach the network"), ("nothing", "keys and settings too")])
def test_a_machine_that_cannot_keep_code_of_the_database_away_says_what_that_means_and_what_accepts_it(
    monkeypatch: pytest.MonkeyPatch, way: str, meaning: str
) -> None:
    assert only(findings_of(check_isolation("required")), "isolation").status == "ok"
    monkeypatch.setattr("twist_dr.postgres.confinement.way", lambda: way)
    refused = only(findings_of(check_isolation("required")), "isolation")
    assert refused.status == "problem" and meaning in refused.found
    assert "apt install bubblewrap" in remedy(refused) and "verification.isolation: where-possible" in remedy(refused)
    accepted = only(findings_of(check_isolation("where-possible")), "isolation")
    assert accepted.status == "warning" and meaning in accepted.found


# -- the machine --------------------------------------------------------------------------------------------------------


def test_a_clock_that_was_never_set_is_a_problem() -> None:
    found = only(findings_of(check_system_clock(now=0)), "system clock")
    assert found.status == "problem"
    assert "1970" in found.found
    assert findings_of(check_system_clock())[0].status == "ok"


def test_a_work_folder_on_a_read_only_disk_or_open_to_others_is_noticed(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", "ro") as folder:
        found = only(findings_of(check_work_folder(folder)), "work folder")
    assert found.status == "problem"
    assert "Read-only file system" in found.found
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    found = only(findings_of(check_work_folder(shared)), "work folder")
    assert found.status == "warning"
    assert remedy(found) == f"chmod go-w {shared}"
    assert list(shared.iterdir()) == []


def test_a_disk_too_small_to_stage_a_backup_or_to_verify_one_is_noticed(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", "size=80m,mode=0711") as folder:
        assert findings_of(check_staging_space(folder / "new" / "erp", 0, 0, 1, whole=True))[0].status == "ok"
        found = findings_of(check_staging_space(folder / "new" / "erp", 0, 50_000_000, 2, whole=False))[0]
        assert found.status == "problem"
        assert "at least 167.1 MB needed" in found.found
        assert "same encrypt and compression" in remedy(found)
        findings = findings_of(check_scratch_space(folder, 60_000_000, server_here=False))
        assert [finding.status for finding in findings] == ["ok"]
        findings = findings_of(check_scratch_space(folder, 100_000_000, server_here=False))
        assert [finding.status for finding in findings] == ["problem"]


def test_a_missing_dagster_home_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").touch()
    homes: tuple[dict[str, str], ...] = (
        {},
        {"DAGSTER_HOME": "relative"},
        {"DAGSTER_HOME": str(tmp_path / "x")},
        {"DAGSTER_HOME": str(tmp_path)},
    )
    assert [findings_of(check_dagster_home(home))[0].status for home in homes] == ["warning"] * 3 + ["ok"]


# -- storage targets ----------------------------------------------------------------------------------------------------


def test_a_read_only_target_is_a_problem_and_the_others_are_tried_all_the_same(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", "ro") as folder:
        targets = {"locked": LocalTarget("locked", folder), "good": LocalTarget("good", tmp_path / "good")}
        findings, working = drain(check_targets(targets, 1))
    assert [target.name for target in working] == ["good"]
    found = only(findings, "target locked")
    assert found.status == "problem"
    assert "remount it for writing" in found.found + remedy(found)
    assert only(findings, "target good").status == "ok"


def test_a_target_whose_settings_contradict_each_other_is_named(tmp_path: Path) -> None:
    more = "\n".join(["storage_targets:", "  nas: {type: nas, path: /mnt/a/backups, mount_point: /mnt/b}"])
    write_initial_files(tmp_path, application="erp")
    text = (tmp_path / "twist-dr.yaml").read_text().replace("storage_targets:", more)
    settings = parse_settings(
        text, tmp_path / "twist-dr.yaml", {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x"}
    )
    findings = list(run_doctor(application(settings), {}))
    assert "does not lie below its mount_point /mnt/b" in only(findings, "target nas").found
    assert only(findings, "target disk").status == "ok"


def test_a_target_that_lies_inside_media_by_a_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "media" / "backups").mkdir(parents=True)
    (tmp_path / "disk").symlink_to(tmp_path / "media" / "backups")
    places = {"disk": TargetPlace("local", True, tmp_path / "disk")}
    found = findings_of(check_places(places, tmp_path, {"uploads": tmp_path / "media"}))
    assert any("disk lies inside media.uploads" in each.found and each.status == "problem" for each in found)


def test_what_others_put_on_a_target_is_named_and_so_are_two_targets_that_are_one(tmp_path: Path) -> None:
    more = "\n".join(["storage_targets:", "  again: {type: local, path: again}", "  other: {type: local, path: other}"])
    write_initial_files(tmp_path, application="erp")
    text = (tmp_path / "twist-dr.yaml").read_text().replace("storage_targets:", more)
    settings = parse_settings(
        text, tmp_path / "twist-dr.yaml", {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/x"}
    )
    local = settings.storage_targets["disk"]
    assert local.type == "local"
    disk = local.path
    disk.mkdir(parents=True)
    (tmp_path / "again").symlink_to(disk)
    (tmp_path / "other" / "erp").mkdir(parents=True)
    (tmp_path / "other" / "erp" / "backups").symlink_to("/etc")
    findings = list(run_doctor(application(settings), {}))
    for name, twin in (("disk", "again"), ("again", "disk")):
        found = only(findings, f"target {name}")
        assert found.status == "problem" and f"same folder as {tmp_path}" in found.found and twin in found.found
    (stranger,) = [each for each in findings if each.check == "target other" and each.status == "problem"]
    assert "'erp/backups' is a symbolic link" in stranger.found and "find out who put it there" in remedy(stranger)


def test_a_target_without_space_for_one_backup_is_a_problem(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", "size=1m") as folder:
        findings, _ = drain(check_targets({"tiny": LocalTarget("tiny", folder)}, 50_000_000))
    assert [finding.status for finding in findings] == ["ok", "problem"]
    assert "one backup may take 50.0 MB" in findings[1].found


def test_a_target_whose_clock_is_off_is_named_with_the_difference(tmp_path: Path) -> None:
    class Late(LocalTarget):
        """A disk has no clock of its own; this one tells what a server would."""

        skew = 0.0

        def probe(self) -> Capabilities:
            return replace(super().probe(), clock_skew_seconds=self.skew)

    target = Late("remote", tmp_path / "remote")
    for target.skew, status in ((5.0, "ok"), (-90.0, "warning"), (1200.0, "problem")):
        assert findings_of(check_targets({"remote": target}, 1))[-1].status == status
    assert "20 min 00 s ahead of ours" in findings_of(check_targets({"remote": target}, 1))[-1].found


def test_copies_that_one_disaster_takes_together_are_pointed_out(tmp_path: Path) -> None:
    here = TargetPlace("local", True, tmp_path / "backups")
    cloud, nas = TargetPlace("s3", True, None), TargetPlace("nas", False, Path("/mnt/nas/backups"))

    def told(places: dict[str, TargetPlace], media: dict[str, Path] | None = None) -> list[tuple[str, str]]:
        findings = findings_of(check_places(places, tmp_path / "work", media or {}))
        return [(finding.status, finding.found) for finding in findings]

    assert told({})[0][0] == "problem"
    assert told({"a": here, "b": here})[0][1].startswith("one disk: a, b")
    assert told({"cloud": cloud}) == [("warning", "cloud is the only storage target")]
    assert told({"a": here, "cloud": cloud}) == [("ok", "2 enabled: a, cloud")]
    assert [status for status, _ in told({"a": here, "nas": nas})] == ["ok", "warning"]
    inside = told({"a": here, "cloud": cloud}, {"uploads": tmp_path})
    assert inside[1][0] == "problem"
    assert "each backup would hold all backups before it" in inside[1][1]


# -- keys, backups and what is left over --------------------------------------------------------------------------------


def test_a_keyring_that_others_may_read_or_that_travels_with_the_backups_is_noticed(
    tmp_path: Path, small: Cluster
) -> None:
    (tmp_path / "files").mkdir()
    settings = settings_for(tmp_path, small.url, "media: {all: files}\n")
    keyring = tmp_path / "files" / "keyring.yaml"
    (tmp_path / "keyring.yaml").rename(keyring)
    settings = settings.model_copy(
        update={"encryption": settings.encryption.model_copy(update={"keyring": str(keyring)})}
    )
    keyring.chmod(0o640)
    found = [finding for finding in run_doctor(application(settings), {}) if finding.check == "keyring"]
    assert [finding.status for finding in found] == ["problem", "warning"]
    assert remedy(found[0]) == f"chmod 600 {keyring}"
    assert "part of media.all" in found[1].found


def make_backup(cluster: Cluster, settings: Settings) -> Manifest:
    """A real backup in staging."""
    forms = {"disk": Form("zstd", True)}
    keyring = load_keyring(settings.encryption.keyring)
    plan = BackupPlan(application="erp", targets=forms, parts=("database",))
    return take_full_backup(plan, cluster, keyring, StagingArea(settings.staging_dir), Report())


def test_the_newest_backup_is_opened_and_a_wrong_or_missing_key_is_a_problem(tmp_path: Path, small: Cluster) -> None:
    settings = settings_for(tmp_path, small.url)
    manifest = make_backup(small, settings)
    target = LocalTarget("disk", tmp_path / "backups")
    folder = StagingArea(settings.staging_dir).folder(manifest.backup_id)
    store_copy(manifest, folder, Repository(target, "erp"), Form("zstd", True), Report())

    def told() -> DoctorFinding:
        return only(list(run_doctor(application(settings), {})), "newest on disk")

    assert told().found == f"{manifest.backup_id} opens with key {manifest.key.id} and is all there"
    right, path = load_keyring(settings.encryption.keyring), Path(settings.encryption.keyring)
    for wrong in (new_key(manifest.key.id), new_key("other")):
        save_keyring(Keyring(wrong.id, {wrong.id: wrong}, "new"), path)
        assert told().status == "problem"
        assert manifest.key.id in told().found
    save_keyring(right, path)
    artifact = manifest.artifact("database.dump")
    assert artifact is not None
    (
        tmp_path / "backups" / "erp" / "backups" / manifest.backup_id / artifact.stored[Form("zstd", True).name].name
    ).unlink()
    assert "missing, though the manifest is there" in told().found


def test_a_backup_that_lies_in_staging_only_is_pointed_out_and_incomplete_backups_of_killed_runs_are_named(
    tmp_path: Path, small: Cluster
) -> None:
    settings = settings_for(tmp_path, small.url)
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    killed = settings.staging_dir / f"{yesterday:%Y%m%dT%H%M%SZ}-full-0000"
    manifest = make_backup(small, settings)
    killed.mkdir()
    (killed / ".lock").touch()
    found = [finding for finding in run_doctor(application(settings), {}) if finding.check == "incomplete backups"]
    assert [finding.status for finding in found] == ["ok", "warning"]
    assert killed.name in found[0].found
    assert manifest.backup_id in found[1].found
    assert "twist-dr backup" in remedy(found[1])
    assert killed.exists()


# -- write-ahead log and base backups -----------------------------------------------------------------------------------

SOON = timedelta(minutes=15)


def wal_findings(cluster: Cluster, source: str, spool: Path) -> list[DoctorFinding]:
    """What is said of a server and of its archiver."""
    findings, seen = drain(check_wal_server(cluster, source, "twist_dr_erp", [], "database.url"))
    return findings + (findings_of(check_archiver(cluster, seen, source, spool, SOON)) if seen else [])


def named(findings: list[DoctorFinding], check: str, words: str) -> DoctorFinding:
    """The one finding of that name which says so."""
    return only([finding for finding in findings if words in finding.found], check)


def test_an_installation_that_archives_is_sound_and_told_when_its_receiver_is_gone(tmp_path: Path) -> None:
    settings = {"fsync": "off", "summarize_wal": "on"}
    with PostgresServer(
        TOOLS[max(TOOLS)], tmp_path / "server", settings=settings, options=["--data-checksums"]
    ) as server:
        (tmp_path / "site").mkdir()
        site = make_site(server, tmp_path / "site")
        site.set(wal={"slot": "twist_dr_erp"})

        def told(now: datetime | None = None) -> list[DoctorFinding]:
            found = list(run_doctor(site.app(), site.environment))
            names = (
                "wal",
                "replication",
                "wal senders",
                "slot",
                "base backups",
                "recovery",
                "archiver",
                "spool",
                "newest base",
            )
            return [each for each in found if each.check in names or each.check.startswith("archived position")]

        before = {each.check: each for each in told()}
        assert [name for name, each in before.items() if each.status != "ok"] == [
            "slot", "newest base", "archived position office", "archived position archive",
        ]  # fmt: skip
        assert "twist-dr wal receive" in remedy(before["slot"]) and "twist-dr backup-base" in remedy(
            before["newest base"]
        )
        with resident(site, "wal", "receive"):
            site.job("backup_base").expect(0)
            site.job("ship_wal").expect(0)
            after = told()
            assert [each for each in after if each.status != "ok"] == [], render_findings(after)
            assert "twist_dr_erp is in use" in only(after, "slot").found
            assert only(after, "base backups").found == "can be incremental"
            assert (
                " old" in only(after, "archived position office").found and "-base-" in only(after, "newest base").found
            )
        alone = only(told(), "slot")
        assert alone.status == "problem" and "nobody receives from the replication slot" in alone.found

        # The same installation, looked at later.
        newest, rows = site.catalog().latest("erp", kind="base"), site.catalog().wal_positions("erp")
        _, seen = drain(check_wal_server(server.cluster(), "receive", "twist_dr_erp", [], "database.url"))
        assert seen is not None
        later = datetime.now(timezone.utc) + timedelta(days=9)
        assert "replays everything" in only(findings_of(check_newest_base(newest, seen, later)), "newest base").found
        short = replace(seen, settings={**seen.settings, "wal_summary_keep_time": "60"})
        soon = datetime.now(timezone.utc) + timedelta(hours=2)
        assert "the next is full" in only(findings_of(check_newest_base(newest, short, soon)), "newest base").found
        assert only(findings_of(check_newest_base(newest, seen, soon)), "newest base").status == "ok"
        # A differential one needs the summaries since the full one, however new the newest is.
        assert newest is not None and newest.manifest.base is not None
        base = newest.manifest.base.model_copy(update={"stopped_at": soon})
        newer = replace(newest, sealed=newest.manifest.model_copy(update={"base": base}).seal(site.keyring.primary))
        assert only(findings_of(check_newest_base(newer, short, soon)), "newest base").status == "ok"
        found = only(findings_of(check_newest_base(newer, short, soon, full=newest)), "newest base")
        assert f"a differential one upon {newest.backup_id}" in found.found
        other = replace(seen, sample=replace(seen.sample, system_identifier="1"))
        found = only(findings_of(check_newest_base(newest, other)), "newest base")
        assert found.status == "problem" and "the server is another one now (1)" in found.found
        found = only(findings_of(check_positions(rows, {"office": SOON * 0}, SOON, soon)), "archived position office")
        assert found.status == "problem" and "2 h" in found.found and "twist-dr wal status" in remedy(found)
        failed = [replace(row, error="there is no such folder") for row in rows]
        assert "there is no such folder" in findings_of(check_positions(failed, {"office": SOON * 0}, SOON))[0].found
        (found,) = findings_of(check_positions(rows, {"office": timedelta(minutes=5)}, timedelta(days=1)))
        assert found.status == "ok" and "goes there every 5 min" in found.found


def test_a_server_that_writes_too_little_and_lets_nobody_replicate_is_told_what_to_set(
    server: PostgresServer, tmp_path: Path
) -> None:
    settings = {"fsync": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    with PostgresServer(server.tools, tmp_path / "server", settings=settings) as minimal:
        findings = wal_findings(minimal.cluster(), "receive", tmp_path)
        assert "wal_level is minimal" in named(findings, "wal", "minimal").found
        assert "0 of 0 WAL senders are free, 2 needed" in only(findings, "wal senders").found
        assert only(findings, "replication").status == "problem"
        if minimal.major < 18:
            assert "pg_checksums --enable" in remedy(named(findings, "base backups", "data checksums are off"))
        with minimal.cluster().connect() as connection:
            for name in ("wal", "wal senders"):
                for statement in remedy(only(findings, name)).partition("--")[0].strip().rstrip(";").split(";"):
                    connection.execute(statement.encode())
        minimal.stop()
        minimal.start({"fsync": "off"})
        repaired = wal_findings(minimal.cluster(), "receive", tmp_path)
        assert {only(repaired, name).status for name in ("wal", "wal senders", "replication")} == {"ok"}


def test_a_role_that_may_not_replicate_gets_the_statements_that_repair_it(
    server: PostgresServer, tmp_path: Path
) -> None:
    with server.cluster().connect() as connection:
        connection.execute(f"DROP ROLE IF EXISTS replicator; CREATE ROLE replicator LOGIN PASSWORD '{PASSWORD}'")
        cluster = as_role(server, "postgres", "replicator")
        try:
            found = wal_findings(cluster, "archive", tmp_path)
            assert only(found, "replication").status == "problem"
            lacking = [each for each in found if "may not" in each.found]
            assert len(lacking) == 3, render_findings(found)
            for finding in lacking:
                connection.execute(remedy(finding).partition(";")[0].encode())
            repaired = wal_findings(cluster, "archive", tmp_path)
            assert not [each for each in repaired if "may not" in each.found]
            assert "a replication connection was let in" in only(repaired, "replication").found
        finally:
            connection.execute("DROP OWNED BY replicator; DROP ROLE replicator")


def test_a_pg_hba_conf_without_a_line_for_replication_is_found_out_by_connecting(tmp_path: Path) -> None:
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings={"fsync": "off"}) as closed:
        hba = closed.base / "data" / "pg_hba.conf"
        whole = hba.read_text()
        hba.write_text("".join(line for line in whole.splitlines(keepends=True) if " replication " not in line))
        with closed.cluster().connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("SELECT pg_sleep(0.3)")
        found = only(wal_findings(closed.cluster(), "receive", tmp_path), "replication")
        assert found.status == "problem" and "no pg_hba.conf entry for replication connection" in found.found
        assert remedy(found).startswith("add to pg_hba.conf: host replication postgres ")


def test_slots_that_are_lost_unused_taken_or_of_another_kind_are_told_apart(tmp_path: Path) -> None:
    settings = {
        "fsync": "off", "max_slot_wal_keep_size": "1MB", "max_replication_slots": "1", "wal_level": "logical",
        "min_wal_size": "32MB", "max_wal_size": "32MB",
    }  # fmt: skip
    with (
        PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings=settings) as server,
        server.cluster().connect() as connection,
    ):

        def slot(source: str = "receive") -> DoctorFinding:
            return only(wal_findings(server.cluster(), source, tmp_path), "slot")

        connection.execute("SELECT pg_create_physical_replication_slot('other', true)")
        assert "all 1 replication slots are in use" in slot().found
        connection.execute("SELECT pg_drop_replication_slot('other')")
        connection.execute("SELECT pg_create_logical_replication_slot('twist_dr_erp', 'pgoutput')")
        assert "a logical replication slot" in slot().found
        connection.execute("SELECT pg_drop_replication_slot('twist_dr_erp')")
        connection.execute("SELECT pg_create_physical_replication_slot('twist_dr_erp', true)")
        assert "nobody receives" in slot().found
        unused = slot("archive")
        assert "nobody uses it" in unused.found
        for _ in range(4):
            connection.execute("SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal(); CHECKPOINT")
        assert "is lost" in slot().found
        connection.execute(remedy(unused).encode())
        assert not [each for each in wal_findings(server.cluster(), "archive", tmp_path) if each.check == "slot"]


def test_an_archiver_that_is_off_aimless_or_failing_is_found(tmp_path: Path, open_folder: Path) -> None:
    tools, spool = TOOLS[max(TOOLS)], Spool(open_folder / "spool")
    with PostgresServer(tools, open_folder / "server", settings={"fsync": "off"}, keep=True) as server:

        def told(source: str = "archive") -> list[DoctorFinding]:
            return [
                each
                for each in wal_findings(server.cluster(), source, spool.root)
                if each.check in ("archiver", "spool")
            ]

        def restart(**settings: str) -> None:
            server.stop()
            server.start({"fsync": "off", "archive_mode": "on", **settings})

        (off,) = told()
        assert "archive_mode is off" in off.found and told("receive") == []
        restart()
        found = told()
        assert "neither archive_library nor archive_command is set" in named(found, "archiver", "neither").found
        assert "'60s'" in remedy(named(found, "archiver", "archive_timeout is 0"))
        assert "there is no folder" in only(found, "spool").found

        spool.prepare()
        spool.root.chmod(0o711)
        if unprivileged()[0] is not None:
            closed = only(told(), "spool")
            assert "may not write into" in closed.found
            subprocess.run(remedy(closed).partition("#")[0].replace("sudo ", ""), shell=True, check=True)
        library = {"archive_library": "basic_archive", "archive_timeout": "60s"}
        restart(**library)
        assert "archive_directory is not set" in named(told(), "archiver", "basic_archive").found
        restart(**library, **{"basic_archive.archive_directory": str(open_folder)})
        assert "twist-dr ships from" in named(told(), "archiver", "the server archives into").found
        for way in (
            {**library, "basic_archive.archive_directory": str(spool.archived)},
            {"archive_command": f"cp %p {spool.archived}/%f", "archive_timeout": "60s"},
        ):
            restart(**way)
            assert {each.status for each in told()} == {"ok"}, told()

        restart(archive_command="false", archive_timeout="60s")
        with server.cluster().connect() as connection:
            connection.execute("SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal()")
            wait_until(
                lambda: connection.execute("SELECT failed_count FROM pg_stat_archiver").fetchall() != [(0,)],
                "a failure",
            )
        for source in ("archive", "receive"):
            failing = named(told(source), "archiver", "the server cannot archive")
            assert failing.status == "problem" and "base backups wait for it" in failing.found
        assert "does not name" in named(told(), "archiver", "archive_command").found
        _, seen = drain(check_wal_server(server.cluster(), "archive", "s", [], "database.url"))
        assert seen is not None
        late = findings_of(check_archiver(server.cluster(), seen, "receive", spool.root, timedelta(0)))
        assert (
            "for the server's archiver, the oldest since" in named(late, "archiver", "for the server's archiver").found
        )


def test_a_standby_as_the_source_is_named_for_what_it_cannot(tmp_path: Path) -> None:
    with server_folder(tmp_path / "standby") as base:
        PostgresServer(TOOLS[max(TOOLS)], tmp_path / "standby", keep=True).close()
        (base / "data" / "standby.signal").touch()
        with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "standby", settings={"archive_mode": "on"}) as standby:
            findings = wal_findings(standby.cluster(), "archive", tmp_path)
    found = named(findings, "wal", "this is a standby")
    assert found.status == "warning" and "count no rows" in found.found and "the primary" in remedy(found)
    assert "archive_mode = always" in remedy(named(findings, "archiver", "archive_mode is on"))
    assert only(findings, "replication").status == "ok"


def test_programs_of_another_version_are_no_help_for_a_recovery(
    newest_server: PostgresServer,
) -> None:
    _, seen = drain(check_wal_server(newest_server.cluster(), "receive", "s", [], "database.url"))
    assert seen is not None
    # As if the server had been upgraded to a version that nothing on this machine knows.
    findings = findings_of(check_programs([], replace(seen, major=99), "receive"))
    here = only(findings, "recovery")
    assert here.status == "warning" and "must take place on another machine" in here.found
    assert "postgresql-99" in remedy(here) and "postgresql-client-99" in remedy(only(findings, "slot"))
    assert "of version 99 or newer are needed" in only(findings, "base backups").found


def test_a_spool_without_space_or_with_wal_that_nobody_takes_is_a_finding(
    newest_server: PostgresServer, tmp_path: Path
) -> None:
    spool, staging = Spool(tmp_path / "spool"), tmp_path / "staging"

    def told(
        warn_bytes: int = 1 << 20, warn_after: timedelta = SOON, seen: WalSeen | None = None
    ) -> list[DoctorFinding]:
        return findings_of(check_spool(spool.root, staging, seen, warn_bytes, warn_after))

    (sound,) = told()
    assert sound.status == "ok" and "staged on the same disk" in sound.found and not spool.root.exists()
    (full_before,) = told(1 << 60)
    assert full_before.status == "warning" and "wal.warn_bytes" in remedy(full_before)
    _, seen = drain(check_wal_server(newest_server.cluster(), "receive", "s", [], "database.url"))
    assert seen is not None
    bound = replace(seen, settings={**seen.settings, "max_slot_wal_keep_size": str(1 << 40)})
    assert "all come at once" in only(told(seen=bound), "spool").found
    received = spool.received("7000000000000000001")
    received.mkdir(parents=True)
    (received / "000000010000000000000001").write_bytes(b"w" * (2 << 20))
    old, large = told(warn_after=timedelta(0))
    assert "1 WAL file waits" in old.found and "more than wal.warn_bytes" in large.found
    assert {old.status, large.status} == {"problem"}


def test_the_password_of_the_replication_role_is_never_shown(tmp_path: Path) -> None:
    url = f"postgresql://replicator:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/erp"
    settings = settings_for(
        tmp_path, f"postgresql://erp:x@127.0.0.1:{free_port()}/erp", f"wal: {{replication_url: '{url}'}}\n"
    )
    findings = list(run_doctor(application(settings), {}))
    found = only(findings, "wal")
    assert found.status == "problem" and "wal.replication_url" in remedy(found)
    assert only(findings, "newest base").status == "warning" and only(findings, "spool").status == "ok"
    text = render_findings(
        [*findings, shown_finding(DoctorFinding("wal", "problem", f"complains of {PASSWORD}", "fix it"))]
    )
    assert PASSWORD not in text and quote(PASSWORD, safe="") not in text


def test_secrets_that_do_not_open_or_lie_under_an_old_key_are_noticed(tmp_path: Path) -> None:
    save_keyring(Keyring("k1", {"k1": (first := new_key("k1"))}, "new"), tmp_path / "keyring.yaml")
    file = SecretsFile(tmp_path / "secrets.yaml", "erp", str(tmp_path / "keyring.yaml"))
    assert list(check_secrets(file)) == []
    file.set("MAIL", "the-value-of-it")
    assert [(each.status, each.found) for each in check_secrets(file)] == [
        ("ok", f"1 secret and 0 grants in {file.path} can be opened")
    ]
    save_keyring(Keyring("k2", {"k1": first, "k2": new_key("k2")}, "new"), tmp_path / "keyring.yaml")
    (old,) = check_secrets(file)
    assert (old.status, remedy(old)) == ("warning", "twist-dr secrets rotate")
    save_keyring(Keyring("k2", {"k2": new_key("k2")}, "new"), tmp_path / "keyring.yaml")
    (gone,) = check_secrets(file)
    assert gone.status == "problem" and "needs key 'k1'" in gone.found
