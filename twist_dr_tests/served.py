"""The sample ERP as people use it: a real server process, a client that writes all through, and a judge of what is served.

A database is known by the *epochs* whose writes it holds. What divides time (a backup, a restore, an undo) is named in a
:class:`History`; the epoch after it bears its name, and the first is called ``start``::

    with ServedErp(...) as erp, WritingClient(erp.url) as client:
        history = History(client)
        with history.during("backup"):
            ...
        then = erp.state()
        ...                                                       # other changes
        now = erp.state()
        with history.during("restore"):
            ...
        which(erp.state(), {
            "then": history.expect(then, "start", "restore"),            # what was written after the backup is gone
            "now": history.expect(now, "start", "backup", "restore"),    # nothing is gone
        })  # fmt: skip
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from twist_dr_tests.erp import fixtures
from twist_dr_tests.erp.releases import newer_code, older_code

__all__ = [
    "Expected",
    "History",
    "ServedErp",
    "ServedState",
    "Write",
    "WritingClient",
    "newer_code",
    "older_code",
    "state_of",
    "which",
]

#: The same as in test_erp.py: a role belongs to the server, which tests share.
WEB_PASSWORD = "only-for-tests"
#: What all markers begin with, in the description of an invoice's line and in the name of an attachment's file.
WRITTEN = "written-"
UPLOADS = "uploads"


# -- the server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the application said: the HTTP status and the body."""

    status: int
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def ask(
    url: str, method: str, path: str, body: bytes | None = None, *, company: int | None = None, timeout: float = 10
) -> Answer:
    """One request. Raises ``OSError`` or ``http.client.HTTPException`` when no whole answer comes."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        connection.request(method, path, body, {} if company is None else {"X-Company": str(company)})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        connection.close()


class ServedErp:
    """The ERP in a process of its own, as the role ``erp_web``, with connections that its workers keep.

    ``database_url`` is a superuser's. ``folder`` takes the log and, unless one is given, the flag file of the maintenance.
    A context manager; leaving it by an error prints the end of the log.
    """

    def __init__(
        self, database_url: str, media: Path, folder: Path, *, flag: Path | None = None, code: Path = fixtures.CODE
    ) -> None:
        self.database_url, self.media = database_url, media
        self.flag = flag or folder / "maintenance"
        self.log = folder / "served-erp.log"
        self._port = 0
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER ROLE erp_web PASSWORD {}").format(sql.Literal(WEB_PASSWORD)))
        self._process = self._start(code)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def health(self) -> tuple[int, dict[str, Any]]:
        """The status of /health and what it says."""
        answer = ask(self.url, "GET", "/health")
        return answer.status, answer.json()

    def state(self) -> ServedState:
        """What is served now; see :func:`state_of`."""
        return state_of(self.url, self.database_url, self.media)

    def restart(self, code: Path = fixtures.CODE) -> None:
        """End the server, and start it at the same address with this code."""
        self.close()
        self._process = self._start(code)

    def close(self) -> None:
        """End the server; what it was doing is cut off."""
        _end(self._process)

    def tail(self) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-4000:]

    def __enter__(self) -> ServedErp:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close()
        if kind is not None:
            print(f"-- the end of {self.log}:\n{self.tail()}")

    def _start(self, code: Path) -> subprocess.Popen[bytes]:
        web = make_conninfo(self.database_url, user="erp_web", password=WEB_PASSWORD)
        environment = {
            **fixtures.environment(web, self.media),
            "ERP_MAINTENANCE_FILE": str(self.flag),
            "ERP_CONN_MAX_AGE": "600",
        }
        with self.log.open("ab") as log:
            # It ends when its input does, so that it outlives no test run however that ends.
            process = subprocess.Popen(
                [sys.executable, str(code / "serve.py"), str(self._port)],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.strip().isdigit():
            _end(process)
            raise AssertionError(f"the ERP did not start:\n{self.tail()}")
        self._port = int(said)
        return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(20)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


# -- the client -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    """One request that writes. Times are ``time.monotonic``; ``ended`` is infinite while there was no answer, as the server may still be at it.

    ``status`` is None without an answer, and ``error`` then says why. ``identifier`` is the invoice's or the attachment's.
    """

    marker: str
    kind: str
    company: int
    begun: float
    ended: float = math.inf
    gave_up: float = math.inf
    status: int | None = None
    error: str = ""
    identifier: int | None = None
    number: str | None = None

    @property
    def acknowledged(self) -> bool:
        return self.status == 201

    def __str__(self) -> str:
        took = f"{(min(self.ended, self.gave_up) - self.begun) * 1000:.0f} ms"
        return f"{self.marker} at {self.begun:.3f}: {self.status or self.error or 'on its way'} after {took}"


class WritingClient:
    """Someone who writes invoices without a pause, and a file with every few of them, over all companies in turn.

    A context manager; its thread writes from entering to leaving. ``timeout`` in seconds is for one request.
    """

    _serial = count(1)

    def __init__(
        self, url: str, *, companies: tuple[int, ...] = (1, 2, 3, 4), file_every: int = 5, timeout: float = 10
    ) -> None:
        self._url, self._companies, self._file_every, self._timeout = url, companies, file_every, timeout
        self._name = f"{WRITTEN}{next(self._serial)}-{time.time_ns() // 1_000_000 % 10**8}"
        self._log: list[Write] = []
        self._pending: Write | None = None
        self._stopping, self._may_write = threading.Event(), threading.Event()
        self._writing = threading.Lock()
        self._may_write.set()
        self._thread = threading.Thread(target=self._write_on, name=self._name, daemon=True)

    # -- what happened ---------------------------------------------------------------------------------------------

    def writes(self) -> list[Write]:
        """All that was asked until now, with the request that is on its way."""
        pending = self._pending  # first: what is answered meanwhile is in the log then
        log = list(self._log)
        known = pending is None or any(write.marker == pending.marker for write in log[-100:])
        return log if known or pending is None else [*log, pending]

    def acknowledged(self) -> list[Write]:
        """What the application said it has kept."""
        return [write for write in self._log if write.acknowledged]

    def refusals(self) -> list[Write]:
        """What the application refused, or never answered."""
        return [write for write in self._log if not write.acknowledged]

    def longest_gap(self) -> float:
        """The longest outage as the client saw it, in seconds: from the last success before failures to the beginning of the
        next success; to the present when there was none. 0 without failures. See also :meth:`slowest`."""
        gaps, last, failing = [0.0], None, False
        for write in list(self._log):
            if not write.acknowledged:
                last, failing = last if last is not None else write.begun, True
                continue
            if failing and last is not None:
                gaps.append(write.begun - last)
            last, failing = write.ended, False
        if failing and last is not None:
            gaps.append(time.monotonic() - last)
        return max(gaps)

    def slowest(self) -> float:
        """The longest that a write which succeeded took, in seconds: an outage that only made people wait shows here."""
        return max((write.ended - write.begun for write in self.acknowledged()), default=0.0)

    # -- what to do ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Write no more; returns when the request on its way has ended."""
        self._may_write.clear()
        with self._writing:
            pass

    def resume(self) -> None:
        """Write again."""
        self._may_write.set()

    def wait_for(self, writes: int = 10, *, seconds: float = 30) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted, deadline = len(self.acknowledged()) + writes, time.monotonic() + seconds
        while (got := len(self.acknowledged())) < wanted:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{wanted - got} of {writes} writes did not succeed in {seconds} s:\n{self.tail()}"
                )
            time.sleep(0.005)

    def tail(self) -> str:
        """The latest requests, a line each."""
        return "\n".join(str(write) for write in self.writes()[-15:])

    def __enter__(self) -> WritingClient:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stopping.set()
        self._may_write.set()
        self._thread.join(self._timeout + 10)
        if kind is not None:
            print(f"-- the client's latest requests:\n{self.tail()}")

    # -- the thread ------------------------------------------------------------------------------------------------

    def _write_on(self) -> None:
        for serial in count(1):
            self._may_write.wait()
            with self._writing:
                if self._stopping.is_set():
                    return
                if not self._may_write.is_set():
                    continue
                done = self._write(f"{self._name}-{serial:06d}", serial)
            if not done.acknowledged:
                time.sleep(0.002)  # as a browser: not a storm against a server that refuses

    def _write(self, marker: str, serial: int) -> Write:
        company = self._companies[serial % len(self._companies)]
        if is_file := serial % self._file_every == 0:
            path, body = f"/attachments?name={quote(marker)}.txt", f"{marker}\n".encode() * 50
        else:
            line = {"description": marker, "quantity": "1", "unit_price": "10.00"}
            path, body = "/invoices", json.dumps({"lines": [line]}).encode()
        asked = Write(marker, "attachment" if is_file else "invoice", company, begun=time.monotonic())
        self._pending = asked
        try:
            answer = ask(self._url, "POST", path, body, company=company, timeout=self._timeout)
            said = answer.json() if answer.status == 201 else {}
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
        ) as error:  # the last: a server that is restarted cuts its answer
            done = replace(asked, gave_up=time.monotonic(), error=type(error).__name__)
        else:
            ended = time.monotonic()
            done = replace(
                asked, ended=ended, status=answer.status, identifier=said.get("id"), number=said.get("number")
            )
        self._log.append(done)
        self._pending = None
        return done


# -- what is served ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServedState:
    """What the application serves. ``begun`` and ``ended`` bound the reading (``time.monotonic``).

    ``tables``: a digest of each table's rows but those of writing clients, blind to columns that are null everywhere, so
    that a migration which adds one changes nothing. ``media``: every file but the clients' with its SHA-256, every empty
    folder with nothing. ``markers`` are in the database, ``files`` are the markers of the clients' files in the media
    folder. ``flaws``: what no state that ever was can show, as sentences.
    """

    begun: float
    ended: float
    markers: frozenset[str]
    files: frozenset[str]
    tables: Mapping[str, str] = field(repr=False)
    media: Mapping[str, str] = field(repr=False)
    migrations: frozenset[str] = field(repr=False)
    flaws: tuple[str, ...]


def state_of(url: str | None, database_url: str, media: Path) -> ServedState:
    """What the application at ``url`` serves, asked over HTTP before and after the database and the media are read themselves.

    Without ``url`` a database that nobody serves: one that was kept, or a sandbox. ``database_url`` is a superuser's.
    Raises ``AssertionError`` when the application does not answer, or serves something else than that database.
    """
    begun = time.monotonic()
    with psycopg.connect(database_url) as connection:
        companies = [company for (company,) in connection.execute("SELECT id FROM companies_company ORDER BY 1")]
    before = _asked_markers(url, companies) if url else frozenset()
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        flaws = [*_flaws(connection)]
        invoices = _column(
            connection, f"SELECT description FROM billing_invoiceline WHERE description LIKE '{WRITTEN}%'"
        )
        rows = connection.execute(
            "SELECT id, company_id, file, sha256 FROM attachments_attachment ORDER BY id DESC"
        ).fetchall()
        tables = _tables(connection)
        migrations = _column(connection, "SELECT app || '.' || name FROM django_migrations")
    # After the database, as a file comes before its row; nothing is ever deleted.
    content = _tree(media)
    if url:
        after = _asked_markers(url, companies)
        assert before <= invoices, f"served, and not in the database: {_some(before - invoices)}"
        assert invoices <= after, f"in the database, and not served: {_some(invoices - after)}"
    for number, (identifier, company, file, digest) in enumerate(rows):
        if digest is not None and content.get(file) != digest.hex():
            flaws.append(
                f"the file of attachment {identifier} is {'another' if file in content else 'missing'}: {file}"
            )
        elif url and (number < 20 or number % 10 == 0):
            answer = ask(url, "GET", f"/attachments/{identifier}", company=company)
            if answer.status != 200 or (digest and hashlib.sha256(answer.content).digest() != digest):
                flaws.append(f"attachment {identifier} is served as {answer.status} with {len(answer.content)} bytes")
    return ServedState(
        begun=begun,
        ended=time.monotonic(),
        markers=invoices | {Path(file).stem for _, _, file, _ in rows if file.startswith(f"{UPLOADS}/")},
        files=frozenset(Path(name).stem for name in content if name.startswith(f"{UPLOADS}/") and content[name]),
        tables=tables,
        media={name: digest for name, digest in content.items() if name.partition("/")[0] != UPLOADS},
        migrations=migrations,
        flaws=tuple(flaws),
    )


def _asked_markers(url: str, companies: Iterable[int]) -> frozenset[str]:
    found: set[str] = set()
    for company in companies:
        answer = ask(url, "GET", f"/lines?text={WRITTEN}", company=company)
        assert answer.status == 200, f"the application answers {answer.status}: {answer.content[:300]!r}"
        found.update(line["description"] for line in answer.json()["lines"])
    return frozenset(found)


def _column(connection: psycopg.Connection, statement: str) -> frozenset[str]:
    return frozenset(str(value) for (value,) in connection.execute(sql.SQL(statement)))


_BY_CLIENTS = f"(SELECT invoice_id FROM billing_invoiceline WHERE description LIKE '{WRITTEN}%')"
#: The rows that writing clients made.
_WRITTEN_ROWS = {
    "billing_invoice": f"id IN {_BY_CLIENTS}",
    "billing_invoiceline": f"description LIKE '{WRITTEN}%'",
    "ledger_ledgerentry": f"invoice_id IS NOT NULL AND invoice_id IN {_BY_CLIENTS}",
    "outbox_outboxmessage": f"(company_id, subject) IN (SELECT company_id, 'Rechnung ' || number FROM billing_invoice WHERE id IN {_BY_CLIENTS})",
    "audit_auditevent": f"action = 'invoice.created' AND object_id IN {_BY_CLIENTS}",
    "attachments_attachment": f"file LIKE '{UPLOADS}/%'",
}


def _tables(connection: psycopg.Connection) -> dict[str, str]:
    names = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'django_migrations'"
    ).fetchall()
    digests = {}
    for (name,) in names:
        # The counter of a company moves with every invoice; _flaws holds it against them.
        statement = sql.SQL(
            """SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(row, '|' ORDER BY row COLLATE "C")), 'none')
                 FROM (SELECT (jsonb_strip_nulls(to_jsonb(t)) - 'last_invoice_number')::text AS row FROM {} t WHERE NOT ({})) rows"""
        ).format(sql.Identifier(name), sql.SQL(_WRITTEN_ROWS.get(name, "false")))
        ((digest,),) = connection.execute(statement).fetchall()
        digests[name] = str(digest)
    return digests


#: What holds in every state that the application ever committed: the statement finds what breaks it.
_RULES = {
    "a company's counter is not its last invoice's number": "SELECT id FROM companies_company c WHERE last_invoice_number <> "
    "(SELECT max(substr(number, 2)::bigint) FROM billing_invoice WHERE company_id = c.id)",
    "a voucher does not balance": "SELECT min(voucher) FROM ledger_ledgerentry GROUP BY company_id, voucher HAVING sum(debit) <> sum(credit)",
    "an invoice is not the sum of its lines": "SELECT i.id FROM billing_invoice i LEFT JOIN "
    "(SELECT invoice_id, sum(amount) AS net FROM billing_invoiceline GROUP BY 1) l ON l.invoice_id = i.id WHERE i.net IS DISTINCT FROM l.net",
    "an invoice is not in the books": "SELECT id FROM billing_invoice WHERE id NOT IN "
    "(SELECT invoice_id FROM ledger_ledgerentry WHERE invoice_id IS NOT NULL)",
    "an invoice is not in the audit trail": f"SELECT invoice_id FROM {_BY_CLIENTS} AS i WHERE invoice_id NOT IN "
    "(SELECT object_id FROM audit_auditevent WHERE action = 'invoice.created')",
    "something was written twice": f"SELECT description FROM billing_invoiceline WHERE description LIKE '{WRITTEN}%' "
    "GROUP BY 1 HAVING count(*) > 1",
}


def _flaws(connection: psycopg.Connection) -> Iterator[str]:
    for flaw, statement in _RULES.items():
        if found := _column(connection, statement):
            yield f"{flaw}: {_some(found)}"


def _tree(media: Path) -> dict[str, str]:
    return {
        path.relative_to(media).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in media.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


def _some(values: Iterable[str]) -> str:
    ordered = sorted(values)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


# -- what is to be served ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boundary:
    """What divides time: somewhere between ``begun`` and ``ended`` one epoch ends, and the one of this name begins."""

    name: str
    begun: float
    ended: float


class History:
    """What clients wrote, and what divided it. Boundaries do not overlap, and come in order."""

    def __init__(self, *clients: WritingClient) -> None:
        self._clients = clients
        self.boundaries: list[Boundary] = []

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """The block is a boundary, also when it fails; the epoch after it bears this name."""
        assert name not in self.epochs, f"there is an epoch {name} already"
        begun = time.monotonic()
        try:
            yield
        finally:
            self.boundaries.append(Boundary(name, begun, time.monotonic()))

    @property
    def epochs(self) -> list[str]:
        return ["start", *(boundary.name for boundary in self.boundaries)]

    def writes(self) -> list[Write]:
        """All that the clients asked, with what is on its way."""
        return [write for client in self._clients for write in client.writes()]

    def expect(self, base: ServedState, *epochs: str, ignoring: Iterable[str] = ()) -> Expected:
        """A state that holds what was written in these epochs, and else the tables and media of ``base`` (``ignoring`` some tables)."""
        assert set(epochs) <= set(self.epochs), f"no such epochs: {set(epochs) - set(self.epochs)}"
        return Expected(self, base, frozenset(epochs), frozenset(ignoring))

    def lost(self, *states: ServedState) -> list[Write]:
        """What was acknowledged before these states were read, and is in none of them."""
        found = frozenset[str]().union(*(state.markers for state in states))
        until = min(state.begun for state in states)
        return [
            write for write in self.writes() if write.acknowledged and write.ended < until and write.marker not in found
        ]


@dataclass(frozen=True)
class Expected:
    """A state that may be served, to be held against what is. Made by :meth:`History.expect`.

    A write whose epoch is sure and which was acknowledged is there when its epoch is held, and is not there otherwise. One
    that overlaps a boundary, or was not acknowledged, is there or not; but the acknowledged ones around a boundary where
    the state begins or ends to hold them are on either side of one instant.
    """

    history: History
    base: ServedState
    epochs: frozenset[str]
    ignoring: frozenset[str] = frozenset()

    def differences(self, served: ServedState) -> list[str]:
        """What in ``served`` contradicts this state, as sentences; none when it is this state."""
        return [*self._base_differences(served), *self._write_differences(served)]

    def _base_differences(self, served: ServedState) -> Iterator[str]:
        for what, wanted, found in (
            ("table", self.base.tables, served.tables),
            ("media", self.base.media, served.media),
        ):
            for name in sorted({*wanted, *found} - self.ignoring):
                if wanted.get(name) != found.get(name):
                    yield f"{what} {name}: {found.get(name, 'not there')}, not {wanted.get(name, 'not there')}"

    def _write_differences(self, served: ServedState) -> Iterator[str]:
        writes = [write for write in self.history.writes() if write.begun < served.ended]
        must, must_not, around = set(), set(), dict[int, list[Write]]()
        for write in writes:
            first, last = self._span(write, served)
            held = {self.holds[epoch] for epoch in range(first, last + 1)}
            if held == {False}:
                must_not.add(write.marker)
            elif held == {True} and write.acknowledged and write.ended < served.begun:
                must.add(write.marker)
            elif write.acknowledged and last == first + 1 and write.ended < served.begun:
                around.setdefault(last, []).append(write)
        files = {write.marker for write in writes if write.kind == "attachment"}
        for place, markers, wanted in (("database", served.markers, must), ("media", served.files, must & files)):
            known = {write.marker for write in writes}
            if missing := wanted - markers:
                yield f"{len(missing)} writes are missing in the {place}: {_some(missing)}"
            if wrong := markers & must_not:
                yield f"{len(wrong)} writes should not be in the {place}: {_some(wrong)}"
            if strange := markers - known:
                yield f"nobody wrote what is in the {place}: {_some(strange)}"
        for epoch, crossing in around.items():
            yield from self._order_differences(epoch, crossing, served)

    @property
    def holds(self) -> list[bool]:
        """For each epoch in order, whether this state holds it."""
        return [epoch in self.epochs for epoch in self.history.epochs]

    def _span(self, write: Write, served: ServedState) -> tuple[int, int]:
        """The numbers of the first and last epoch that the write may belong to. What is done after the reading is not seen in it."""
        ended = min(write.ended, served.ended)
        boundaries = self.history.boundaries
        return (
            sum(boundary.ended <= write.begun for boundary in boundaries),
            sum(boundary.begun < ended for boundary in boundaries),
        )

    def _order_differences(self, epoch: int, crossing: list[Write], served: ServedState) -> Iterator[str]:
        """Before the instant, writes are there when the state holds the epoch that ends, and after it when it holds the one that begins."""
        there = [write for write in crossing if write.marker in served.markers]
        gone = [write for write in crossing if write.marker not in served.markers]
        early, late = (there, gone) if self.holds[epoch - 1] else (gone, there)
        if early and late:
            first_late, last_early = min(late, key=lambda w: w.ended), max(early, key=lambda w: w.begun)
            if first_late.ended <= last_early.begun:
                name = self.history.epochs[epoch]
                yield f"no instant of {name} divides the writes during it: {first_late} against the later {last_early}"


def which(served: ServedState, states: Mapping[str, Expected]) -> str:
    """The name of the one state that is served. Raises ``AssertionError`` when it is none of them, a mixture, or more than one."""
    assert not served.flaws, "what is served never was: " + "; ".join(served.flaws)
    contradictions = {name: state.differences(served) for name, state in states.items()}
    fitting = [name for name, found in contradictions.items() if not found]
    if len(fitting) > 1:
        raise AssertionError(f"{' and '.join(fitting)} cannot be told apart by what is served; write more between them")
    if not fitting:
        parts = [f"not {name}:\n  " + "\n  ".join(found[:12]) for name, found in contradictions.items()]
        raise AssertionError("none of the states is served\n" + "\n".join(parts))
    return fitting[0]
