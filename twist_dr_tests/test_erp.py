"""The sample ERP is only worth protecting if it behaves like an application: its data, its rules, its answers."""

import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer

PASSWORD = "only-for-tests"
MEGABYTE = 2**20

Url = Callable[[str], str]


@pytest.fixture(scope="module")
def fresh(newest_server: PostgresServer) -> Iterator[Url]:
    """Gives the URL of a database that does not exist yet, and drops it in the end."""
    names: list[str] = []

    def drop(name: str) -> None:
        with psycopg.connect(newest_server.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(name: str) -> str:
        names.append(f"test_erp_{name}")
        drop(names[-1])
        return newest_server.url(names[-1])

    yield url
    for name in names:
        drop(name)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def erp(fresh: Url, media: Path) -> str:
    """A small ERP that the tests below share; none of them may leave it changed in a way that others notice."""
    url = fresh("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERP_WEB_PASSWORD", PASSWORD)
        fixtures.create(url, media)
    return url


def as_web(url: str) -> str:
    """The same database as the application's own role."""
    return make_conninfo(url, user="erp_web", password=PASSWORD)


def tables(url: str) -> dict[str, str]:
    """A digest of the rows of each table, except of those that say when something ran."""
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'django_migrations'"
        ).fetchall()
        digests: dict[str, str] = {}
        for (name,) in names:
            query = sql.SQL("SELECT md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM {} t")
            row = connection.execute(query.format(sql.Identifier(name))).fetchone()
            digests[name] = str(row and row[0])
    return digests


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder: a file with its digest and time, a folder with nothing."""
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime}"
        if path.is_file()
        else ""
        for path in folder.rglob("*")
    }


def count(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row
    return int(row[0])


def size(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row
    return int(row[0])


class Site:
    """The running application, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.base + path, data, named)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), dict(error.headers)

    def json(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, content, _ = self.ask(path, body, **headers)
        return status, json.loads(content)


@contextmanager
def running(url: str, media: Path, flag: Path) -> Iterator[Site]:
    """The application under runserver, until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = flag.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(fixtures.MANAGE), "runserver", "--noreload", f"127.0.0.1:{port}"],
            env={**fixtures.environment(url, media), "ERP_MAINTENANCE_FILE": str(flag)},
            stdout=output,
            stderr=output,
        )
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            else:
                pytest.fail(f"the application did not start:\n{log.read_text()}")
            yield Site(port)
        finally:
            process.terminate()
            process.wait(timeout=20)


def test_row_level_security_hides_other_companies(erp: str) -> None:
    with psycopg.connect(erp) as connection:
        names = connection.execute(
            "SELECT DISTINCT c.oid::regclass::text, c.relispartition, c.relrowsecurity AND c.relforcerowsecurity "
            "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attname = 'company_id' "
            "AND c.relkind IN ('r', 'p') AND c.relname <> 'companies_user'"
        ).fetchall()
    assert len(names) == 15
    assert [name for name, _, forced in names if not forced] == []

    with psycopg.connect(as_web(erp), autocommit=True) as web:
        for name, partition, _ in names:
            if partition:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    web.execute(f"SELECT 1 FROM {name}")
                continue
            for company, seen in ((None, []), ("", []), ("2", [(2,)])):
                web.execute("SELECT set_config('erp.company_id', %s, false)", [company])
                assert web.execute(f"SELECT DISTINCT company_id FROM {name}").fetchall() == seen, name
        assert web.execute("SELECT id FROM companies_company").fetchall() == [(2,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            web.execute("INSERT INTO ledger_ledgeraccount (company_id, code, name) VALUES (1, '9', 'foreign')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            web.execute("DELETE FROM audit_auditevent")


def test_an_older_release_and_back_keeps_the_rows(fresh: Url, tmp_path: Path) -> None:
    url = fresh("migrate")
    fixtures.create(url, tmp_path)
    before = tables(url)
    invoices = count(url, "billing_invoice")
    with psycopg.connect(url) as connection:
        assert len(connection.execute("SELECT DISTINCT currency FROM billing_invoice").fetchall()) == 2

    fixtures.manage(url, tmp_path, "migrate", "billing", "0003")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("SELECT currency FROM billing_invoice")
    assert count(url, "billing_invoice") == invoices
    fixtures.manage(url, tmp_path, "migrate")
    assert tables(url) == before

    for app in ("billing", "audit"):
        fixtures.manage(url, tmp_path, "migrate", app, "0001")
    fixtures.manage(url, tmp_path, "migrate")
    assert tables(url) == before


def test_the_same_seed_gives_the_same_rows_and_files(fresh: Url, tmp_path: Path) -> None:
    def made(name: str, seed: int) -> tuple[dict[str, str], dict[str, str]]:
        url, folder = fresh(name), tmp_path / name
        fixtures.create(url, folder, seed=seed)
        return tables(url), tree(folder)

    first, other = made("first", 7), made("other", 8)
    assert made("again", 7) == first
    assert [name for name in ("billing_customer", "billing_invoice") if first[0][name] == other[0][name]] == []
    assert first[1] != other[1]


def test_size_and_sense_of_the_data(fresh: Url, tmp_path: Path) -> None:
    url = fresh("size")
    fixtures.create_database(url)
    fixtures.manage(url, tmp_path, "migrate")
    empty = size(url)
    fixtures.create(url, tmp_path, megabytes=10)
    assert 8 * MEGABYTE < size(url) - empty < 12 * MEGABYTE

    with psycopg.connect(url) as connection:
        # The bulk load switches the checks of foreign keys off; all of them must hold nevertheless.
        keys = connection.execute(
            "SELECT conrelid::regclass::text, a.attname, confrelid::regclass::text FROM pg_constraint c "
            "JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[1] "
            "WHERE contype = 'f' AND conparentid = 0 AND cardinality(conkey) = 1"
        ).fetchall()
        assert len(keys) > 15
        for table, column, target in keys:
            orphans = connection.execute(
                f"SELECT count(*) FROM {table} t WHERE {column} IS NOT NULL "
                f"AND NOT EXISTS (SELECT FROM {target} o WHERE o.id = t.{column})"
            ).fetchone()
            assert orphans == (0,), (table, column)

        for what, query in {
            "vouchers that do not balance": "SELECT voucher FROM ledger_ledgerentry GROUP BY company_id, voucher "
            "HAVING sum(debit) <> sum(credit)",
            "invoices that are not the sum of their lines": "SELECT 1 FROM billing_invoice i WHERE net <> "
            "(SELECT sum(amount) FROM billing_invoiceline WHERE invoice_id = i.id)",
            "companies with a wrong counter": "SELECT 1 FROM companies_company c WHERE last_invoice_number <> "
            "(SELECT max(substr(number, 2)::bigint) FROM billing_invoice WHERE company_id = c.id)",
            "invoices for a customer of another company": "SELECT 1 FROM billing_invoice i "
            "JOIN billing_customer c ON c.id = customer_id WHERE c.company_id <> i.company_id",
            "attachments of another company": "SELECT 1 FROM attachments_attachment a "
            "JOIN billing_invoice i ON i.id = invoice_id WHERE a.company_id <> i.company_id",
        }.items():
            assert connection.execute(query).fetchall() == [], what


def test_seeding_twice_does_nothing_unless_more_is_asked_for(fresh: Url, tmp_path: Path) -> None:
    url = fresh("twice")
    fixtures.create(url, tmp_path)
    before = tables(url)
    assert "already seeded" in fixtures.create(url, tmp_path, seed=2)
    assert tables(url) == before
    fixtures.manage(url, tmp_path, "seed", "--more", "--megabytes", "1", "--companies", "3", "--media-files", "5")
    assert count(url, "companies_company") == 7


def test_media_hold_what_backups_stumble_over(erp: str, media: Path) -> None:
    files = [path for path in media.rglob("*") if path.is_file()]
    sizes = {path.stat().st_size for path in files}
    assert len(files) == 25
    assert {0, 1, MEGABYTE} <= sizes
    assert any(100 < len(path.name.encode()) < 255 for path in files)
    assert any(" " in path.name and "ä" in path.name for path in files)
    assert any(path.is_dir() and not list(path.iterdir()) for path in media.rglob("*"))
    with psycopg.connect(erp) as connection:
        for name, length, digest in connection.execute("SELECT file, size, sha256 FROM attachments_attachment"):
            content = (media / name).read_bytes()
            assert (len(content), hashlib.sha256(content).digest()) == (length, digest)


def test_a_failed_command_says_why(erp: str, media: Path) -> None:
    with pytest.raises(RuntimeError, match="must be from 1 to 1024"):
        fixtures.manage(erp, media, "seed", "--more", "--megabytes", "0")


def test_the_application_answers_as_its_own_role(erp: str, media: Path, tmp_path: Path) -> None:
    flag = tmp_path / "maintenance"
    seeded = count(erp, "billing_invoice") // 4  # evenly over the four companies
    with running(as_web(erp), media, flag) as site:
        status, health = site.json("/health")
        assert (status, health["status"], health["version"]) == (200, "ok", "1.4.1")

        assert site.ask("/invoices")[0] == 403
        status, listed = site.json("/invoices", X_Company="1")
        assert (status, listed["count"]) == (200, seeded)

        status, made = site.json("/invoices", {}, X_Company="1")
        assert (status, made["number"], made["gross"]) == (201, f"R{seeded + 1:07d}", "142.80")
        assert site.json("/invoices", X_Company="1")[1]["count"] == seeded + 1
        assert site.ask("/invoices", {"lines": [{}]}, X_Company="1")[0] == 400
        assert site.ask("/invoices", {"customer": 2}, X_Company="1")[0] == 400  # of another company
        # What was refused has used up no number.
        assert site.json("/invoices", {}, X_Company="1")[1]["number"] == f"R{seeded + 2:07d}"

        with psycopg.connect(erp) as connection:
            found = connection.execute("SELECT id, company_id, sha256 FROM attachments_attachment ORDER BY id")
            for number, company, digest in found.fetchall()[:5]:
                status, content, _ = site.ask(f"/attachments/{number}", X_Company=str(company))
                assert (status, hashlib.sha256(content).digest()) == (200, digest)
        assert site.ask("/attachments/1", X_Company="2")[0] == 404

        assert site.ask("/login", {"username": "user2", "password": "wrong"})[0] == 403
        status, _, headers = site.ask("/login", {"username": "user2", "password": "erp"})
        cookie = headers["Set-Cookie"].partition(";")[0]
        # The user's own company counts, whatever the header says.
        assert (status, site.json("/invoices", Cookie=cookie, X_Company="1")[1]["company"]) == (200, 2)

        flag.touch()
        assert site.ask("/invoices", X_Company="1")[0] == 503
        assert site.ask("/health")[0] == 200
        flag.unlink()
        assert site.ask("/invoices", X_Company="1")[0] == 200


def test_health_notices_an_unfit_database(fresh: Url, tmp_path: Path) -> None:
    url = fresh("health")
    fixtures.create(url, tmp_path / "media", media_files=0)
    with running(url, tmp_path / "media", tmp_path / "maintenance") as site:
        assert site.ask("/health")[0] == 200
        fixtures.manage(url, tmp_path, "migrate", "billing", "0003")
        status, answer = site.json("/health")
        assert (status, answer["database"], answer["pending"]) == (503, True, ["billing.0004_currency"])
        with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
            connection.execute("DROP DATABASE test_erp_health WITH (FORCE)")
        status, answer = site.json("/health")
        assert (status, answer["database"]) == (503, False)
