"""``twist-dr recover`` on a machine that has nothing: no settings, no catalog, no orchestrator, a server that never saw the application."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from twist_dr.cli.recover import database, server
from twist_dr.cli.recover.place import choose_application, open_target, target_settings
from twist_dr.errors import RestoreFailed
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.roles import roles_to_make, without_password
from twist_dr.recovery import fetcher
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.repository.manifest import Extension
from twist_dr.repository.sources import OneCopy
from twist_dr.restore.pipeline import Serving
from twist_dr.storage.machine import Machine as ThisMachine
from twist_dr.system.progress import Report
from twist_dr.wal.archived import ArchivedPosition
from twist_dr.wal.spool import Spool
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.erp import fixtures
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.in_process import run_alone
from twist_dr_tests.recorded import RecordedLoad, Written, resident, wait_until_archived
from twist_dr_tests.servers import PostgresServer, free_port
from twist_dr_tests.site import Outcome, Site
from twist_dr_tests.storage.servers import rclone_server, rclone_sftp_server, rclone_webdav_server

#: twist-dr where neither the orchestrator nor the catalog is installed.
ALONE = """
import sys

class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith(("dagster", "sqlalchemy", "alembic")) or name.startswith("twist_dr.catalog"):
            raise ImportError(f"{name} is not on this machine")

sys.meta_path.insert(0, Gone())
from twist_dr.__main__ import main
status = main(sys.argv[1:])
assert not [name for name in sys.modules if name.startswith(("dagster", "sqlalchemy"))]
sys.exit(status)
"""
WEB_PASSWORD = "c4me-b4ck-with-the-backup"
#: A table that refuses its rows in a database called fails..., and is slow about them in one called slow...
STUBBORN = """
    CREATE FUNCTION public.stubborn() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF current_database() LIKE 'fails%' THEN RAISE 'not in this database'; END IF;
        IF current_database() LIKE 'slow%' THEN PERFORM pg_sleep(60); END IF;
        RETURN true;
    END $$;
    CREATE TABLE public.stubborn (id int CHECK (public.stubborn()));
    INSERT INTO public.stubborn VALUES (1);
"""
#: A partition elsewhere, whose server lets nobody in: ANALYZE of the whole table fails.
FAR = """
    CREATE FOREIGN DATA WRAPPER nobody;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER nobody;
    CREATE TABLE public.measured (id int) PARTITION BY RANGE (id);
    CREATE TABLE public.measured_near PARTITION OF public.measured FOR VALUES FROM (0) TO (10);
    CREATE FOREIGN TABLE public.measured_far PARTITION OF public.measured FOR VALUES FROM (10) TO (20) SERVER elsewhere;
    INSERT INTO public.measured VALUES (1);
"""


@dataclass
class Machine:
    """A machine with nothing but this package: a new home, and in the environment only what is told."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        """A process of its own, for which neither the orchestrator nor the catalog is installed."""
        return subprocess.Popen(
            [sys.executable, "-c", ALONE, "recover", *map(str, arguments)],
            env=self._environment(variables), cwd=self.home, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def recover(self, *arguments: str | Path, **variables: str) -> Outcome:
        return Outcome(*run_alone(["recover", *map(str, arguments)], self._environment(variables), self.home))

    def recover_alone(self, *arguments: str | Path, **variables: str) -> Outcome:
        """As :meth:`start` does it."""
        process = self.start(*arguments, **variables)
        text, _ = process.communicate(timeout=120)
        return Outcome(process.returncode, text)

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        (self.home / "tmp").mkdir(exist_ok=True)
        bare = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}
        return {**bare, **self.variables, **variables}

    def left(self) -> list[str]:
        """What recoveries left in the folder for what is temporary."""
        return sorted(path.name for path in (self.home / "tmp").rglob("*")) if (self.home / "tmp").exists() else []


def new_server(major: int, factory: pytest.TempPathFactory) -> PostgresServer:
    return PostgresServer(TOOLS[major], factory.mktemp("new"), settings={"fsync": "off"})


@pytest.fixture(scope="module")
def lost(newest_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An application with one backup, whose machine is lost: the tests use its keyring and its targets, nothing more."""
    site = make_site(newest_server, tmp_path_factory.mktemp("lost"))
    name = str(Cluster(site.database_url).parameters["dbname"])
    for statement in (
        "DROP ROLE IF EXISTS recovered_owner",
        "CREATE ROLE recovered_owner NOLOGIN",
        f"ALTER ROLE erp_web PASSWORD '{WEB_PASSWORD}'",
        f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO erp_app",
        f"ALTER DATABASE {name} SET search_path TO public, pg_catalog",
        f"ALTER ROLE erp_web IN DATABASE {name} SET work_mem TO '7MB'",
        f"COMMENT ON DATABASE {name} IS 'the books'",
        f"ALTER DATABASE {name} OWNER TO recovered_owner",
        STUBBORN,
        FAR,
    ):
        site.query(statement)
    site.backup().expect(0)
    return site


@pytest.fixture(scope="module")
def empty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that has only the database postgres, and not one of the application's roles."""
    with new_server(max(TOOLS), tmp_path_factory) as server:
        yield server


@pytest.fixture
def machine(lost: Site, empty_server: PostgresServer, tmp_path: Path) -> Machine:
    """A new machine with the keyring at hand, and a new database to name."""
    home = tmp_path / "home"
    home.mkdir()
    keyring = shutil.copy(lost.keyring_path, home / "keyring.yaml")
    url = empty_server.url(f"erp_{tmp_path.name[-40:].lower()}".replace("-", "_"))
    return Machine(home, {"TWIST_DR_KEYRING": str(keyring), "TWIST_DR_DATABASE_URL": url})


@pytest.fixture
def target(lost: Site, tmp_path: Path) -> Path:
    """A copy of the storage target, to be harmed at will."""
    return Path(shutil.copytree(lost.folder / "targets" / "office", tmp_path / "target"))


def artifact(target: Path, name: str) -> Path:
    return next(target.glob(f"erp/backups/*/{name}*"))


def harm(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def database_names(server: PostgresServer) -> set[str]:
    with server.cluster().connect() as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """All below a folder: bytes of files, targets of links."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }  # fmt: skip


# -- everything comes back ---------------------------------------------------------------------------------------------


@pytest.mark.promise(9)
def test_on_a_machine_that_has_nothing_the_application_works_again(
    any_site: Site, server: PostgresServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = any_site
    site.query(f"ALTER ROLE erp_web PASSWORD '{WEB_PASSWORD}'")
    del site.document["app_version"]
    site.save()
    site.backup().expect(0)
    media, invoices = tree(site.media), site.query("SELECT count(*), max(number) FROM billing_invoice")
    home = tmp_path / "home"
    home.mkdir()
    machine = Machine(home, {"TWIST_DR_KEYRING": str(site.keyring_path)})
    target = site.folder / "targets" / "archive"
    before = tree(target)
    for major in sorted({server.major, max(TOOLS)}):
        with new_server(major, tmp_path_factory) as fresh:
            folder = home / f"restored-{major}"
            folder.mkdir()
            outcome = machine.recover_alone(
                "--from-target", target, "--backup", "latest", "--database", "--media-to", folder / "media",
                "--configuration-to", folder / "configuration", TWIST_DR_DATABASE_URL=fresh.url("erp"),
            ).expect(0)  # fmt: skip
            # Other tests may have left roles on the shared server.
            assert (
                re.search(r"roles made: .*\berp_app, .*\berp_web", outcome.text) and "catalog rebuild" in outcome.text
            )
            assert "its code must be that of the backup, which does not say its version, or newer: " in outcome.text
            web = fresh.url("erp", "erp_web", WEB_PASSWORD)
            assert "No planned migration operations" in fixtures.manage(web, folder / "media", "migrate", "--plan")
            with psycopg.connect(web) as connection:
                connection.execute("SELECT set_config('erp.company_id', '1', false)")
                (seen,) = connection.execute("SELECT count(*) FROM billing_invoice").fetchone() or ()
                assert 0 < seen < invoices[0][0], "row-level security shows one company's"
                connection.execute("UPDATE billing_invoice SET number = number")
            with fresh.cluster("erp").connect() as connection:
                assert connection.execute("SELECT count(*), max(number) FROM billing_invoice").fetchall() == invoices
            assert tree(folder / "media" / "attachments") == media
            restored = folder / "configuration" / str(site.folder / "site.conf").lstrip("/")
            assert restored.read_text() == "SECRET_KEY=configured\n"
    assert tree(target) == before, "a recovery writes nothing to the target"
    assert machine.left() == []


def test_the_database_comes_back_under_another_name_with_its_owner_grants_and_settings(
    lost: Site, target: Path, machine: Machine, empty_server: PostgresServer
) -> None:
    url = empty_server.url('Books "2"')
    text = machine.recover(
        "--from-target", target, "--backup", "latest", "--database", TWIST_DR_DATABASE_URL=url
    ).expect(0).text  # fmt: skip
    assert "public.measured got no statistics for the planner" in text and "then run ANALYZE" in text
    with empty_server.cluster('Books "2"').connect() as connection:
        found = connection.execute(
            """SELECT pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'), datacl::text,
                      (SELECT array_agg(setconfig::text ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid)
                 FROM pg_database d WHERE datname = current_database()"""
        ).fetchone()
        assert connection.execute(
            """SELECT count(*) FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL
                AND relname IN ('billing_invoice', 'measured_near')"""
        ).fetchone() == (2,)
    assert found is not None
    owner, comment, grants, settings = found
    assert (owner, comment) == ("recovered_owner", "the books")
    assert "erp_app=c/recovered_owner" in grants and "=c/" not in grants.replace("erp_app=c/", "")
    assert settings == ['{"search_path=public, pg_catalog"}', "{work_mem=7MB}"]


@pytest.mark.promise(6, 9)
def test_from_s3_with_credentials_of_the_environment(lost: Site, machine: Machine, tmp_path: Path) -> None:
    shutil.copytree(lost.folder / "targets" / "office", tmp_path / "store" / "vault" / "deep" / "below")
    with rclone_server(tmp_path / "store") as store:
        url = f"s3://vault/deep/below?endpoint_url={store.endpoint}&region=us-east-1"
        machine.variables |= {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
        texts = [machine.recover("--from-target", url).expect(0).text]
        texts.append(machine.recover("--from-target", url, "--check", "latest").expect(0).text)
        texts.append(machine.recover("--from-target", url, "--backup", "latest", "--database").expect(0).text)
        texts.append(machine.recover("--from-target", url, "--backup", "latest", "--media-to", "media").expect(0).text)
        described = machine.home / "target.yaml"
        document = {
            "type": "s3", "bucket": "vault", "prefix": "deep/below", "endpoint_url": store.endpoint,
            "access_key_id": "${S3_KEY}", "secret_access_key": "${S3_SECRET}",
        }  # fmt: skip
        described.write_text(yaml.safe_dump(document))
        named = {"S3_KEY": store.access_key, "S3_SECRET": store.secret_key}
        for gone in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            del machine.variables[gone]
        texts.append(machine.recover("--from-target", described, **named).expect(0).text)
        texts.append(machine.recover("--from-target", described).expect(1).text)
        texts.append(machine.recover("--from-target", url).expect(1).text)
        assert "secret_access_key: expected the environment variable S3_SECRET, found it unset" in texts[-2]
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in texts[-1]
    assert tree(machine.home / "media" / "attachments") == tree(lost.media)
    password = Cluster(machine.variables["TWIST_DR_DATABASE_URL"]).parameters["password"]
    key = yaml.safe_load(lost.keyring_path.read_text())["keys"]["k1"]
    for text in texts:
        assert not [
            secret for secret in (store.secret_key, password, key, WEB_PASSWORD, "SCRAM-SHA-256") if secret in text
        ]


@pytest.mark.promise(6, 9)
def test_from_an_ssh_server_with_the_password_of_the_environment(lost: Site, machine: Machine, tmp_path: Path) -> None:
    shutil.copytree(lost.folder / "targets" / "office", tmp_path / "store" / "deep" / "below")
    (tmp_path / "keys").mkdir()
    with rclone_sftp_server(tmp_path / "store", tmp_path / "keys") as ssh:
        url = f"sftp://{ssh.user}@127.0.0.1:{ssh.port}/deep/below?known_hosts={ssh.known_hosts}"
        machine.variables["TWIST_DR_TARGET_PASSWORD"] = ssh.password
        texts = [machine.recover("--from-target", url).expect(0).text]
        assert "whole" in texts[0] and f"sftp://{ssh.user}@127.0.0.1:{ssh.port}/deep/below" in texts[0]
        texts.append(machine.recover("--from-target", url, "--check", "latest").expect(0).text)
        texts.append(machine.recover("--from-target", url, "--backup", "latest", "--media-to", "media").expect(0).text)
        texts.append(machine.recover("--from-target", url, TWIST_DR_TARGET_PASSWORD="wrong").expect(1).text)
        assert "put the user's password into TWIST_DR_TARGET_PASSWORD" in texts[-1]
        elsewhere = machine.home / "known_hosts"
        elsewhere.write_text("")
        texts.append(
            machine.recover("--from-target", f"{url.partition('?')[0]}?known_hosts={elsewhere}").expect(1).text
        )
        assert "the host key of the server is not known" in texts[-1]
        assert "add it to known_hosts of --from-target, with: ssh-keyscan -p PORT HOST" in texts[-1]
    assert tree(machine.home / "media" / "attachments") == tree(lost.media)
    assert machine.left() == [], "the folder of the socket is gone"
    assert not [text for text in texts if ssh.password in text]


@pytest.mark.promise(6, 9)
def test_from_a_webdav_server_and_from_a_remote_of_rclone(lost: Site, machine: Machine, tmp_path: Path) -> None:
    shutil.copytree(lost.folder / "targets" / "office", tmp_path / "store" / "deep" / "below")
    with rclone_webdav_server(tmp_path / "store") as web:
        url = f"webdav:{web.url.replace('//', f'//{web.user}@')}/deep/below"
        given = {"TWIST_DR_TARGET_PASSWORD": web.password}
        texts = [machine.recover("--from-target", url, **given).expect(0).text]
        assert "whole" in texts[0]
        texts.append(machine.recover("--from-target", url, "--check", "latest", **given).expect(0).text)
        texts.append(machine.recover("--from-target", url).expect(1).text)
        assert "no password is given; put it into the environment variable TWIST_DR_TARGET_PASSWORD" in texts[-1]
        assert not [text for text in texts if web.password in text]
    (machine.home / "rclone.conf").write_text(f"[old]\ntype = alias\nremote = {tmp_path / 'store' / 'deep'}\n")
    given = {"RCLONE_CONFIG": str(machine.home / "rclone.conf")}
    assert "whole" in machine.recover("--from-target", "rclone:old:below", **given).expect(0).text
    said = machine.recover("--from-target", "rclone:new:below", **given).expect(1).text
    assert "correct remote or config_file (with a URL: RCLONE_CONFIG) of --from-target" in said
    assert machine.left() == []


def test_only_the_dump_for_those_who_restore_by_hand(
    target: Path, machine: Machine, empty_server: PostgresServer
) -> None:
    machine.recover("--from-target", target, "--backup", "latest", "--dump-to", "erp.dump").expect(0)
    dump, roles = machine.home / "erp.dump", machine.home / "roles.sql"
    assert {path.stat().st_mode & 0o777 for path in (dump, roles)} == {0o600}
    assert "CREATE ROLE erp_web;" in roles.read_text()
    # psql runs nothing on this machine that a script says: as its user would call it, with an order in the place of the roles.
    first, _, _ = roles.read_text().partition("\n")
    assert re.fullmatch(r"\\restrict [0-9a-f]{32}", first)
    script = f"{first}\n\\restrict x\n\\! touch ran\n\\unrestrict x\n\\unrestrict `touch ran`\n\\! touch ran\nSELECT 'the end';\n"
    psql = [TOOLS[max(TOOLS)].program("psql"), "-X", empty_server.url()]
    found = subprocess.run(psql, input=script, cwd=machine.home, capture_output=True, text=True, check=True)
    assert "the end" in found.stdout and not (machine.home / "ran").exists()
    listed = subprocess.run(
        [TOOLS[max(TOOLS)].program("pg_restore"), "--list", dump], capture_output=True, text=True, check=True
    )
    assert "billing_invoice" in listed.stdout


def test_roles_that_are_there_are_left_as_they_are(
    target: Path, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with new_server(max(TOOLS), tmp_path_factory) as server:
        with server.cluster().connect() as connection:
            connection.execute("CREATE ROLE erp_web LOGIN PASSWORD 'of this server'")
        text = machine.recover(
            "--from-target", target, "--backup", "latest", "--database", TWIST_DR_DATABASE_URL=server.url("erp")
        ).expect(0).text  # fmt: skip
        # The backup's server is shared, and has roles of other tests as well.
        made, there = (re.search(f"{what}: (.*)", text) for what in ("roles made", "left as they are"))
        assert made is not None and there is not None, text
        assert {"erp_app", "recovered_owner"} <= set(re.findall(r"\w+", made[1]))
        assert "erp_web" not in re.findall(r"\w+", made[1])
        assert {"erp_web", "postgres"} <= set(re.findall(r"\w+", there[1]))
        with psycopg.connect(server.url("erp", "erp_web", "of this server")) as connection:
            # A member again of the role that was made.
            assert connection.execute("SELECT count(*) > 0 FROM django_migrations").fetchone() == (True,)


def test_what_was_compared_stays_when_it_cannot_be_opened(
    lost: Site, target: Path, machine: Machine, empty_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role of the grants is renamed in the last moment."""
    keyring, repository = (
        lost.keyring,
        choose_application(open_target(target_settings(str(target)), ThisMachine(target.parent / "machine")), "erp"),
    )
    manifest = lost.manifest()
    assert manifest.postgres is not None
    new = server.look(machine.variables["TWIST_DR_DATABASE_URL"], manifest.postgres)
    compare = Serving.compare

    def compare_and_rename(*arguments: Any) -> Any:
        found = compare(*arguments)
        with empty_server.cluster().connect() as connection:
            connection.execute("ALTER ROLE erp_app RENAME TO erp_gone")
        return found

    monkeypatch.setattr(Serving, "compare", compare_and_rename)
    try:
        with pytest.raises(RestoreFailed, match=r"is restored, compared .* and stays\. .*erp_app.* by hand"):
            database.recover_database(new, OneCopy(manifest, repository, keyring), jobs=1, report=Report())
    finally:
        with empty_server.cluster().connect() as connection:
            connection.execute("ALTER ROLE erp_gone RENAME TO erp_app")
    with empty_server.cluster(new.name).connect() as connection:
        assert connection.execute(
            """SELECT count(*) > 0, (SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database())
                 FROM billing_invoice"""
        ).fetchone() == (True, None)


def test_a_part_that_fails_leaves_those_that_are_finished_and_says_so(target: Path, machine: Machine) -> None:
    harm(artifact(target, "media.tar"))
    text = machine.recover(
        "--from-target", target, "--backup", "latest", "--database", "--media-to", "media"
    ).expect(1).text  # fmt: skip
    assert "this stays: database: erp_" in text and "take the backup from another storage target" in text
    with psycopg.connect(machine.variables["TWIST_DR_DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM billing_invoice").fetchone() == (True,)


# -- listing and checking ----------------------------------------------------------------------------------------------


def test_the_list_says_of_each_backup_what_it_is_and_what_is_missing(
    lost: Site, target: Path, machine: Machine
) -> None:
    backups = target / "erp" / "backups"
    whole = next(backups.iterdir())
    (backups / "20200101T000000Z-full-aaaa").mkdir()
    (backups / "20200101T000000Z-full-aaaa" / "database.dump.zst.enc").write_bytes(b"begun")
    text = machine.recover("--from-target", target).expect(0).text
    lines = text.splitlines()
    assert lines[0] == f"erp on {target}"
    assert lines[3].split()[0] == whole.name and "1.4.1" in lines[3] and lines[3].endswith("whole")
    assert "never finished" in lines[4] and "20200101T000000Z-full-aaaa: it has no manifest" in text
    artifact(target, "media.tar").unlink()
    found = json.loads(machine.recover("--from-target", target, "--json").expect(1).text)
    assert found["application"] == "erp" and [each["whole"] for each in found["backups"]] == [False, False]
    assert "media.tar: missing, though the manifest is there" in found["backups"][0]["problem"]
    manifest = whole / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"label":"manual"', b'"label":"pre-up"'))
    text = machine.recover("--from-target", target).expect(1).text
    assert "NOT READABLE" in text and "its MAC does not fit" in text


@pytest.mark.promise(4)
@pytest.mark.parametrize("name", ["database.dump", "roles.sql", "media.tar", "media.files.jsonl", "configuration.tar"])
def test_a_check_names_the_artifact_that_is_corrupt_and_a_restore_of_it_leaves_nothing(
    target: Path, machine: Machine, empty_server: PostgresServer, name: str
) -> None:
    harm(artifact(target, name))
    before = database_names(empty_server)
    text = machine.recover("--from-target", target, "--check", "latest").expect(1).text
    bad = [line for line in text.splitlines() if line.startswith("BAD")]
    assert len(bad) == 1 and name in bad[0] and "is NOT good here" in text
    option = {"database": ("--database",), "roles": ("--database",), "media": ("--media-to", "out")}
    wanted = option.get(name.partition(".")[0], ("--configuration-to", "out"))
    text = machine.recover("--from-target", target, "--backup", "latest", *wanted).expect(1).text
    assert name in text and "take the backup from another storage target" in text
    assert not (machine.home / "out").exists() and machine.left() == []
    assert database_names(empty_server) == before


def test_a_check_of_a_backup_that_lacks_an_artifact_reads_the_others(target: Path, machine: Machine) -> None:
    artifact(target, "media.tar").unlink()
    outcome = machine.recover("--from-target", target, "--check", "latest", "--json").expect(1)
    found = json.loads(outcome.text)
    assert [each["name"] for each in found["artifacts"] if each["problem"]] == ["media.tar and media.files.jsonl"]
    assert not found["good"] and len(found["artifacts"]) == 4


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_key_that_is_wrong_or_missing_is_said_at_once(target: Path, machine: Machine) -> None:
    keyring = machine.home / "keyring.yaml"
    for key, words in ((new_key("k1"), "was written with one of check value"), (new_key("k2"), "lacks (it has k2)")):
        save_keyring(Keyring(key.id, {key.id: key}, "new"), keyring)
        assert words in machine.recover("--from-target", target, "--backup", "latest", "--database").expect(1).text
        text = machine.recover("--from-target", target).expect(1).text
        assert "NOT READABLE" in text and words in text
    keyring.unlink()
    assert "There is no keyring" in machine.recover("--from-target", target).expect(1).text
    assert "No keyring was named" in machine.recover("--from-target", target, TWIST_DR_KEYRING="").expect(1).text


def test_the_keyring_may_be_in_the_environment_itself(lost: Site, target: Path, machine: Machine) -> None:
    text = lost.keyring_path.read_text()
    machine.recover("--from-target", target, TWIST_DR_KEYRING="env:THE_KEYS", THE_KEYS=text).expect(0)
    machine.recover("--from-target", target, "--keyring", lost.keyring_path, TWIST_DR_KEYRING="/nowhere").expect(0)


def test_never_over_a_database_that_is_there(target: Path, machine: Machine, empty_server: PostgresServer) -> None:
    with empty_server.create_database("precious").connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    url = empty_server.url("precious")
    text = (
        machine.recover("--from-target", target, "--backup", "latest", "--database", TWIST_DR_DATABASE_URL=url)
        .expect(1)
        .text
    )
    assert "There is a database precious at 127.0.0.1" in text and "name a new one in TWIST_DR_DATABASE_URL" in text
    with empty_server.cluster("precious").connect() as connection:
        assert connection.execute("SELECT * FROM kept").fetchall() == [(1,)]


def test_a_server_that_is_not_said_not_there_too_old_or_closed_is_named(
    target: Path, machine: Machine, empty_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def refused(url: str) -> str:
        return (
            machine.recover("--from-target", target, "--backup", "latest", "--database", TWIST_DR_DATABASE_URL=url)
            .expect(1)
            .text
        )

    assert "set the environment variable TWIST_DR_DATABASE_URL" in refused("")
    assert "correct host and port in TWIST_DR_DATABASE_URL" in refused("postgresql://x:hidden@127.0.0.1:1/erp")
    text = refused(empty_server.url("erp", password="hidden"))
    assert "password authentication failed" in text and "in TWIST_DR_DATABASE_URL" in text and "hidden" not in text
    with empty_server.cluster().connect() as connection:
        connection.execute("DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN CREATEDB PASSWORD 'w'")
    assert "name a superuser" in refused(empty_server.url("erp", "weak", "w"))
    if min(TOOLS) < max(TOOLS):
        with new_server(min(TOOLS), tmp_path_factory) as old:
            assert f"name a server of version {max(TOOLS)} or newer" in refused(old.url("erp"))


def test_a_backup_that_is_not_there_is_said(target: Path, machine: Machine) -> None:
    def recover(backup: str) -> Outcome:
        return machine.recover("--from-target", target, "--check", backup)

    found = next((target / "erp" / "backups").iterdir()).name
    assert "holds no backup 20190101T000000Z-full-0000 of erp" in recover("20190101T000000Z-full-0000").expect(1).text
    recover(found).expect(0)
    recover(found[:12]).expect(0)
    shutil.copytree(target / "erp" / "backups" / found, target / "erp" / "backups" / f"{found[:-4]}0000")
    assert "holds 2 backups that begin with" in recover(found[:12]).expect(1).text


def test_of_several_applications_one_must_be_named(target: Path, machine: Machine) -> None:
    shutil.copytree(target / "erp", target / "shop")
    assert (
        "holds those of erp, shop; say whose with --application"
        in machine.recover("--from-target", target).expect(1).text
    )
    assert "whole" in machine.recover("--from-target", target, "--application", "erp").expect(0).text
    # Another's backups do not pass for its own.
    assert (
        "was put in the place of shop"
        in machine.recover("--from-target", target, "--application", "shop").expect(1).text
    )
    assert (
        "no backups of crm, but those of erp, shop"
        in machine.recover("--from-target", target, "--application", "crm").expect(1).text
    )
    assert "name the one above it" in machine.recover("--from-target", target / "erp").expect(1).text


@pytest.mark.promise(6)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://AKIA:hidden@vault/x", "has a user or password in its URL"),
        ("s3://vault/x?endpoint_url=http://u:hidden@127.0.0.1:1", "has a user or password in its URL"),
        ("s3://vault/x?aws_secret_access_key=hidden", "put credentials into AWS_ACCESS_KEY_ID"),
        ("s3://v?region=eu", "bucket: expected"),
        ("sftp://ada:hidden@host/x", "put it into the environment variable TWIST_DR_TARGET_PASSWORD"),
        ("webdav:https://ada:hidden@host/x", "has a password in its URL"),
        ("webdav:https://ada@host/x", "no password is given"),
        ("rclone:nothing", "remote: expected"),
        ("sftp://host/x", "name the user and the host in it"),
        ("sftp://ada@host/x?password=hidden", "takes key_file and known_hosts behind the question mark"),
        ("sftp://ada@host:hidden/x", "is not a URL like sftp://USER@HOST/PATH"),
        ("s3://vault/x?endpoint_url=hidden", "begins with http:// or https://"),
        ("https://u:hidden@example.org/x", "takes a folder, "),
        ("/nowhere/at/all", "There is no /nowhere/at/all"),
        ("file:///nowhere", "There is no /nowhere"),
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_refused_and_shows_no_secret(machine: Machine, place: str, words: str) -> None:
    text = machine.recover("--from-target", place).expect(1).text
    assert words in text and "hidden" not in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("type: local", "target.path: expected a value, found nothing"),
        ("type: tape\npath: /x", "expected one of the types"),
        ("type: local\npath: [", "is not YAML: line"),
        ("storage_targets: {office: {type: local, path: /x}}", "into a file of its own"),
        ("just text", "must describe one storage target"),
    ],
)
def test_a_description_with_a_mistake_is_explained(machine: Machine, content: str, words: str) -> None:
    (machine.home / "target.yaml").write_text(content)
    assert words in machine.recover("--from-target", "target.yaml").expect(1).text


def test_nothing_is_unpacked_over_anything_and_all_is_looked_at_before_anything_begins(
    target: Path, machine: Machine, empty_server: PostgresServer
) -> None:
    (machine.home / "full").mkdir()
    (machine.home / "full" / "mine").write_text("mine")
    (machine.home / "file").write_text("mine")
    before, databases = tree(machine.home), database_names(empty_server)
    for options, words in (
        (("--media-to", "full"), "nothing is ever unpacked over what is there"),
        (("--configuration-to", "full"), "nothing is ever unpacked over what is there"),
        (("--media-to", "file"), "nothing is ever unpacked over what is there"),
        (("--media-to", "file/below"), "There is no folder"),
        (("--media-to", "no/such/folder"), "There is no folder"),
        (("--configuration-to", "/proc/here"), "/proc"),
        (("--dump-to", "file"), "is there already and is not written over"),
        (("--dump-to", "roles.sql"), "name another file"),
    ):
        text = machine.recover("--from-target", target, "--backup", "latest", "--database", *options).expect(1).text
        assert words in text and "Traceback" not in text, text
    tmp = {"tmp": None}
    assert tree(machine.home) == {**before, **tmp} and database_names(empty_server) == databases


def test_an_empty_folder_is_good_enough(lost: Site, target: Path, machine: Machine) -> None:
    for name in ("media", "configuration"):
        (machine.home / name).mkdir()
    machine.recover(
        "--from-target", target, "--backup", "latest", "--media-to", "media", "--configuration-to", "configuration"
    ).expect(0)  # fmt: skip
    assert tree(machine.home / "media" / "attachments") == tree(lost.media)
    assert (machine.home / "configuration").stat().st_mode & 0o777 == 0o700


def test_a_part_that_the_backup_does_not_have_is_refused(newest_server: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    site = make_site(newest_server, tmp_path / "site")
    site.backup(parts="configuration").expect(0)
    machine = Machine(tmp_path, {"TWIST_DR_KEYRING": str(site.keyring_path)})
    target = site.folder / "targets" / "office"
    assert (
        "holds no media"
        in machine.recover("--from-target", target, "--backup", "latest", "--media-to", "m").expect(1).text
    )
    assert (
        "holds no database"
        in machine.recover("--from-target", target, "--backup", "latest", "--database").expect(1).text
    )
    machine.recover("--from-target", target, "--backup", "latest", "--configuration-to", "c").expect(0)


@pytest.mark.parametrize(
    "options",
    [
        ("--backup", "latest"), ("--database",), ("--check", "x", "--backup", "y"), ("--jobs", "0"), ("--to", "latest"),
        ("--to", "latest", "--plan", "--cluster-to", "x"), ("--plan",), ("--cluster-to", "x"), ("--timeline", "1"),
        ("--to", "latest", "--plan", "--timeline", "0"), ("--to", "latest", "--plan", "--database"),
        ("--to", "latest", "--plan", "--backup", "x", "--database"), ("--to", "latest", "--plan", "--json"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_together_are_wrong_usage(machine: Machine, options: tuple[str, ...]) -> None:
    assert "twist-dr recover: error: " in machine.recover("--from-target", "/", *options).expect(2).text


# -- cut short ---------------------------------------------------------------------------------------------------------


def test_when_the_restore_fails_the_database_is_dropped_again(
    target: Path, machine: Machine, empty_server: PostgresServer
) -> None:
    url = empty_server.url("fails_here")
    text = (
        machine.recover("--from-target", target, "--backup", "latest", "--database", TWIST_DR_DATABASE_URL=url)
        .expect(1)
        .text
    )
    assert "could not be restored" in text and "pg_restore" in text
    assert "the database fails_here that was begun was dropped again" in text
    assert "fails_here" not in database_names(empty_server) and machine.left() == []


def reseal(lost: Site, target: Path, **facts: object) -> None:
    """Give the backup a manifest that says something else, and is as genuine."""
    manifest = lost.manifest()
    path = target / "erp" / "backups" / manifest.backup_id / "manifest.json"
    path.write_bytes(manifest.model_copy(update=facts).seal(lost.keyring.primary))


@pytest.mark.promise(10)
def test_what_is_not_as_recorded_does_not_stay(
    lost: Site, target: Path, machine: Machine, empty_server: PostgresServer
) -> None:
    manifest, before = lost.manifest(), database_names(empty_server)
    rows = manifest.tables["public.billing_invoice"]
    reseal(lost, target, tables={**manifest.tables, "public.billing_invoice": rows + 1})
    text = machine.recover("--from-target", target, "--backup", "latest", "--database").expect(1).text
    assert f"table public.billing_invoice: {rows} rows restored where {rows + 1} were recorded" in text
    assert database_names(empty_server) == before and machine.left() == []


def test_an_extension_that_the_server_lacks_is_named_before_anything_begins(
    lost: Site, target: Path, machine: Machine, empty_server: PostgresServer
) -> None:
    facts = lost.manifest().postgres
    assert facts is not None
    reseal(lost, target, postgres=facts.model_copy(update={"extensions": [Extension(name="postgis", version="3.5")]}))
    text = machine.recover("--from-target", target, "--backup", "latest", "--database").expect(1).text
    assert "lacks the extensions postgis" in text and "roles made" not in text


@pytest.mark.promise(8)
def test_ended_or_killed_in_the_middle(target: Path, machine: Machine, empty_server: PostgresServer) -> None:
    url = empty_server.url("slow_one")
    arguments = ("--from-target", target, "--backup", "latest", "--database")

    def in_the_middle() -> subprocess.Popen[str]:
        process = machine.start(*arguments, TWIST_DR_DATABASE_URL=url)

        def is_restoring() -> bool:
            with empty_server.cluster().connect() as connection:
                statement = (
                    "SELECT 1 FROM pg_stat_activity WHERE datname = 'slow_one' AND query LIKE 'COPY public.stubborn%'"
                )
                return connection.execute(statement).fetchone() is not None

        wait_until(is_restoring, "the restore to be in the middle")
        return process

    process = in_the_middle()
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(empty_server.url("slow_one", "erp_web", WEB_PASSWORD))
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and "was dropped again" in text
    assert "slow_one" not in database_names(empty_server) and machine.left() == []

    process = in_the_middle()
    process.kill()
    process.communicate(timeout=30)
    assert machine.left(), "a dump that nobody could remove"
    time.sleep(0.1)
    text = machine.recover(*arguments, TWIST_DR_DATABASE_URL=url).expect(1).text
    assert "is what a recovery that was cut short left; drop it (DROP DATABASE slow_one WITH (FORCE))" in text
    with empty_server.cluster().connect() as connection:
        connection.execute("DROP DATABASE slow_one WITH (FORCE)")
    machine.recover(*arguments).expect(0)
    assert machine.left() == []


# -- roles -------------------------------------------------------------------------------------------------------------

ROLES = rb"""--
-- a "quote that stays open
\restrict x
SET client_encoding = 'UTF8';
CREATE ROLE "odd ""x; y";
ALTER ROLE "odd ""x; y" WITH NOSUPERUSER NOLOGIN;
CREATE ROLE web;
ALTER ROLE web WITH NOSUPERUSER INHERIT LOGIN NOREPLICATION NOBYPASSRLS PASSWORD 'a;b NOSUPERUSER';
COMMENT ON ROLE web IS 'two
lines; it''s
CREATE ROLE other;';
ALTER ROLE web_reader WITH LOGIN;
ALTER ROLE web SET search_path TO 'a', 'b';
CREATE TABLESPACE fast OWNER web LOCATION '/live';
GRANT owner TO "odd ""x; y" WITH INHERIT TRUE GRANTED BY postgres;
GRANT owner TO web WITH ADMIN OPTION GRANTED BY "who; ever";
GRANT SET ON PARAMETER work_mem TO web;
\unrestrict x
"""


def test_of_the_roles_only_those_that_are_missing_are_made_as_they_were() -> None:
    web = roles_to_make(ROLES, ["web"]).decode()
    assert web.splitlines() == [
        "SET client_encoding = 'UTF8';", "CREATE ROLE web;", "ALTER ROLE web WITH INHERIT LOGIN PASSWORD 'a;b NOSUPERUSER';",
        "COMMENT ON ROLE web IS 'two", "lines; it''s", "CREATE ROLE other;';", "ALTER ROLE web SET search_path TO 'a', 'b';",
        "GRANT owner TO web WITH ADMIN OPTION;", "GRANT SET ON PARAMETER work_mem TO web;",
    ]  # fmt: skip
    odd = roles_to_make(ROLES, ['odd "x; y']).decode()
    assert 'GRANT owner TO "odd ""x; y" WITH INHERIT TRUE;' in odd and "web" not in odd
    assert without_password(ROLES) == ["web_reader"]


# -- base backups and WAL ----------------------------------------------------------------------------------------------


@dataclass
class Archived:
    """What is left of a server whose WAL was archived: two base backups, and the record of all rows that its load wrote."""

    site: Site
    server: PostgresServer
    written: list[Written]
    at_import: int
    """The last row that the restore point before_import has."""

    @property
    def database(self) -> str:
        return str(Cluster(self.site.database_url).parameters["dbname"])


def known_until(site: Site) -> datetime:
    """Up to when every target is known to have all, by what shipping wrote down."""
    positions = Spool(site.settings().wal_spool).load_state().positions.values()
    return min(
        ArchivedPosition.from_document(each).at or datetime.min.replace(tzinfo=timezone.utc) for each in positions
    )


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def archived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archived]:
    """The second base backup is incremental where that can be; a restore point lies before it, and rows before and after."""
    major, folder = request.param, tmp_path_factory.mktemp(f"archived{request.param}")
    settings = {"fsync": "off", "track_commit_timestamp": "on", **({"summarize_wal": "on"} if major >= 17 else {})}
    with PostgresServer(TOOLS[major], folder / "server", settings=settings) as server:
        (folder / "site" / "media").mkdir(parents=True)
        server.create_database("shop")
        site = Site(folder / "site", server.url("shop"), folder / "site" / "media")
        site.set(wal={"follow_seconds": 0.2}, verification={})
        written: list[Written] = []

        def write(count: int) -> None:
            with RecordedLoad(site.database_url, seconds=0.005, first=len(written) + 1) as load:
                load.wait_for(count)
            written.extend(load.written)

        with resident(site, "wal", "receive"), resident(site, "wal", "ship", "--follow"):
            write(5)
            site.job("backup_base").expect(0)
            write(20)
            site.query("SELECT pg_create_restore_point('before_import')")
            at_import = len(written)
            write(20)
            site.job("backup_base").expect(0)
            write(20)
            wait_until_archived(site, written[-1].lsn)
            wait_until(lambda: known_until(site) > written[-1].committed_at, "the last row to be known as archived")
        yield Archived(site, server, written, at_import)


@pytest.fixture
def stored(archived: Archived, tmp_path: Path) -> Path:
    """A copy of its storage target, to be harmed at will."""
    return Path(shutil.copytree(archived.site.folder / "targets" / "office", tmp_path / "stored"))


@pytest.fixture
def bare(archived: Archived, tmp_path: Path) -> Machine:
    """A machine that has the keyring, and not even a server to restore into."""
    (tmp_path / "home").mkdir()
    return Machine(tmp_path / "home", {"TWIST_DR_KEYRING": str(archived.site.keyring_path)})


def base_ids(target: Path) -> list[str]:
    return sorted(path.name for path in (target / "erp" / "backups").iterdir() if "-base-" in path.name)


def segments(target: Path) -> list[Path]:
    """Whole segments, oldest first."""
    return sorted(path for path in target.glob("erp/wal/*/*/*") if ".partial" not in path.name)


def rows_of(archived: Archived, folder: Path, told: str) -> list[int]:
    """The rows of a recovered cluster, started with the very command that was told, on another port as its first owner's may be taken."""
    (command,) = re.findall(r"start it: (.*)", told)
    arguments, port = shlex.split(command), free_port()
    sockets = folder.parent / "sockets"
    sockets.mkdir(mode=0o777)
    sockets.chmod(0o777)
    subprocess.run(
        [*arguments, f"--options=-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={sockets}"],
        check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        known = Cluster(archived.site.database_url).parameters
        with psycopg.connect(**{**known, "port": port}) as connection:  # type: ignore[arg-type]
            assert connection.execute("SELECT pg_is_in_recovery(), current_setting('archive_mode')").fetchall() == [
                (False, "off")
            ]
            connection.execute("INSERT INTO numbered VALUES (0, 'it takes new rows')")
            return [
                number for (number,) in connection.execute("SELECT number FROM numbered WHERE number > 0 ORDER BY 1")
            ]
    finally:
        stop = [each for each in arguments if not each.startswith("--log=")]
        stop[stop.index("start")] = "stop"
        subprocess.run([*stop, "--mode=fast"], check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.mark.promise(4, 9)
def test_on_a_machine_that_has_nothing_every_moment_is_listed_checked_planned_and_recovered(
    archived: Archived, stored: Path, bare: Machine, open_folder: Path
) -> None:
    before, (first, second) = tree(stored), base_ids(stored)
    text = bare.recover_alone("--from-target", stored).expect(0).text
    assert "Full backups" not in text and re.search(rf"^{first} +- \(full\) .* whole$", text, re.MULTILINE)
    builds_on = first if archived.server.major >= 17 else r"- \(full\)"
    assert re.search(rf"^{second} +{builds_on} .* whole$", text, re.MULTILINE), text
    (found,) = json.loads(bare.recover_alone("--from-target", stored, "--json").expect(0).text)["recoverable"]
    (reach,) = found["ranges"]
    assert reach["base"] == first and found["gaps"] == [] and found["system_identifier"] in text
    last = archived.written[-1].committed_at
    assert datetime.fromisoformat(reach["from"]) < archived.written[archived.at_import - 1].committed_at < last
    assert datetime.fromisoformat(reach["until"]) > last

    checked = bare.recover_alone("--from-target", stored, "--check", second).expect(0).text
    assert "base.tar" in checked and "WAL of timeline 1" in checked and f"{second} is good" in checked
    assert (f"base.tar of {first}" in checked) == (archived.server.major >= 17)

    planned = bare.recover_alone("--from-target", stored, "--to", "name:before_import", "--plan").expect(0).text
    assert re.search(rf"^base backup +{first}, complete at", planned, re.MULTILINE) and "would be lost" in planned
    assert "Nothing was changed" in planned and "|" not in planned

    point = archived.written[-10].committed_at.isoformat()
    for to, expected in (
        ("latest", [row.number for row in archived.written]),
        (point, [row.number for row in archived.written[:-9]]),
        ("name:before_import", [row.number for row in archived.written if row.number <= archived.at_import]),
    ):
        folder = open_folder / re.sub(r"\W", "", to) / "cluster"
        folder.parent.mkdir(mode=0o755)
        told = bare.recover_alone("--from-target", stored, "--to", to, "--cluster-to", folder).expect(0).text
        assert not (folder / "data" / "postmaster.pid").exists() and "proved to be what was planned" in told
        assert (
            json.loads((folder / "server.json").read_bytes())["settings"]
            and (folder / "server.json").stat().st_mode & 0o777 == 0o600
        )
        assert rows_of(archived, folder, told) == expected, to
    assert tree(stored) == before, "a recovery writes nothing to the target"
    assert bare.left() == []


@pytest.mark.promise(10)
def test_a_missing_segment_is_named_by_the_list_and_the_check_and_nothing_leads_across(
    archived: Archived, stored: Path, bare: Machine, open_folder: Path
) -> None:
    first, second = base_ids(stored)
    site = archived.site
    start = site.repository("office").manifest(second, site.keyring).base
    assert start is not None
    gone = [path for path in segments(stored) if int(path.name[16:24], 16) < parse_lsn(start.start_lsn) >> 24][-1]
    gone.unlink()
    name = gone.name[:24]
    # Both base backups are whole all the same: it lies between them.
    found = json.loads(bare.recover("--from-target", stored, "--json").expect(0).text)
    (cluster,) = found["recoverable"]
    assert [each["base"] for each in cluster["ranges"]][-1] == second and name in cluster["gaps"][0]
    assert f"from {name} to {name}" in bare.recover("--from-target", stored).text
    text = bare.recover("--from-target", stored, "--check", first).expect(1).text
    bad = [line for line in text.splitlines() if line.startswith("BAD")]
    assert len(bad) == 1 and f"the segment {name} is missing" in bad[0] and "is NOT good here" in text
    at = archived.written[archived.at_import + 5].committed_at.isoformat()
    refused = bare.recover("--from-target", stored, "--to", at, "--cluster-to", open_folder / "c").expect(1).text
    assert name in refused and not (open_folder / "c").exists() and bare.left() == []
    assert second in bare.recover("--from-target", stored, "--to", "latest", "--plan").expect(0).text


@pytest.mark.promise(4)
def test_a_segment_that_was_altered_is_found_by_the_check_and_never_replayed(
    stored: Path, bare: Machine, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "PAUSES", (0.05,))
    (*_, second), path = base_ids(stored), segments(stored)[-1]
    harm(path)
    text = bare.recover("--from-target", stored, "--check", second, "--json").expect(1).text
    (bad,) = (each for each in json.loads(text)["artifacts"] if each["problem"])
    assert bad["name"].startswith("WAL of timeline 1") and path.name[:24] in bad["problem"]
    refused = bare.recover("--from-target", stored, "--to", "latest", "--cluster-to", open_folder / "c").expect(1).text
    assert path.name[:24] in refused and not (open_folder / "c").exists() and bare.left() == []


def test_a_base_backup_that_lacks_its_own_wal_or_what_it_builds_on_is_not_whole(
    archived: Archived, stored: Path, bare: Machine
) -> None:
    first, second = base_ids(stored)
    for path in stored.glob("erp/wal/*/*/*"):
        path.unlink()
    text = bare.recover("--from-target", stored).expect(1).text
    assert "without which it does not become consistent" in text and "nothing can be recovered to a point" in text
    assert "No base backup has" in bare.recover("--from-target", stored, "--to", "latest", "--plan").expect(1).text
    shutil.rmtree(stored / "erp" / "backups" / first)
    text = bare.recover("--from-target", stored).expect(1).text
    if archived.server.major >= 17:
        assert f"{first}, on which it builds, is not whole here" in text
        text = bare.recover("--from-target", stored, "--check", second).expect(1).text
        assert f"BAD  {first}" in text and f"{second} builds on it" in text


def test_a_base_backup_is_not_taken_for_a_full_one_and_refusals_speak_of_this_command(
    archived: Archived, stored: Path, bare: Machine, open_folder: Path
) -> None:
    first, _ = base_ids(stored)

    def refused(*options: str | Path) -> str:
        text = bare.recover("--from-target", stored, *options).expect(1).text
        assert "job " not in text and "wal status" not in text and "Traceback" not in text
        return text

    assert "recover from it with --to POINT --cluster-to FOLDER" in refused("--backup", first, "--media-to", "m")
    assert "recover with --to" in refused("--check", "latest")
    assert "says no time zone" in refused("--to", "2026-01-31T12:00:00", "--plan")
    assert "in the future" in refused("--to", "2999-01-31T12:00:00Z", "--plan")
    assert "What can be recovered: from" in refused("--to", "2020-01-31T12:00:00Z", "--plan")
    assert "no_such_point" in refused("--to", "name:no_such_point", "--plan")
    assert "There is no timeline 7" in refused("--to", "latest", "--plan", "--timeline", "7")
    assert "leave --base out" in refused("--to", "latest", "--plan", "--base", "20200101T000000Z-base-0000")
    (open_folder / "full").mkdir()
    (open_folder / "full" / "mine").write_text("mine")
    assert "name a new folder in --cluster-to" in refused("--to", "latest", "--cluster-to", open_folder / "full")
    assert first in bare.recover("--from-target", stored, "--to", "latest", "--plan", "--base", first).expect(0).text


@pytest.mark.promise(8)
def test_a_recovery_that_is_asked_to_end_leaves_neither_folder_nor_server(
    stored: Path, bare: Machine, open_folder: Path
) -> None:
    folder = open_folder / "cluster"
    process = bare.start("--from-target", stored, "--to", "latest", "--cluster-to", folder)
    wait_until(lambda: (folder / "data" / "PG_VERSION").exists(), "the files to be unpacked")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not folder.exists() and bare.left() == []
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _bytes(each)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
