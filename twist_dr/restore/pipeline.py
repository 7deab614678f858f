"""The way of a backup's database into a database of a server: the same for restores, recoveries without settings and verifications.

:func:`fetch_database` brings it to our disk, :meth:`FetchedDatabase.load` restores it into an empty database. For one that is to serve, :class:`Serving` does so
and holds what came of it against what was recorded. What follows (migrations, commands, a cutover) is the caller's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from twist_dr.errors import ProcessFailed, RestoreFailed
from twist_dr.postgres.cluster import Cluster, Connection, query
from twist_dr.postgres.comparison import Comparison, compare_database
from twist_dr.postgres.databases import drop
from twist_dr.postgres.dump import restore_database, without_system_grants
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.dump_offsets import fill_in_offsets
from twist_dr.postgres.extension_restore import KeptFiles, fetch_kept
from twist_dr.postgres.making import Made
from twist_dr.postgres.own_settings import OwnSettings, own_settings_of
from twist_dr.postgres.restore_place import versions_differ
from twist_dr.postgres.tools import Tools
from twist_dr.repository.manifest import Manifest, PostgresFacts
from twist_dr.repository.sources import OneCopy
from twist_dr.storage.base import OnBytes, no_progress
from twist_dr.system.progress import LOG_EVERY_SECONDS, Report
from twist_dr.system.words import counted

T = TypeVar("T")

#: Differences that a sentence names.
_NAMED = 5


class Artifacts(Protocol):
    """Where the artifacts of one backup are read: one copy of it, or the first good one of several (:class:`~twist_dr.repository.sources.Sources`)."""

    @property
    def manifest(self) -> Manifest: ...

    def fetch(self, name: str, path: Path, progress: OnBytes = no_progress) -> None:
        """Write an artifact's plain bytes, all of them checked, to a new file that is used at once."""

    def read_small(self, name: str) -> bytes:
        """A small artifact whole, checked."""

    def stored_size(self, name: str) -> int:
        """Bytes of an artifact as it is stored, for progress."""

    def attempt(self, work: Callable[[OneCopy], T]) -> T:
        """What becomes of one copy, the first with which the work succeeds. Work that failed must have left nothing."""


@dataclass(frozen=True)
class FetchedDatabase:
    """A backup's database on our disk: plain, checked, and without what is internal to PostgreSQL. ``own``: what the database itself is set to;
    ``kept``: what the dump leaves out of extensions; ``notes``: what a person should know."""

    manifest: Manifest
    dump: Path
    roles: bytes
    own: OwnSettings
    kept: KeptFiles | None
    notes: list[str]

    @property
    def facts(self) -> PostgresFacts:
        assert self.manifest.postgres is not None
        return self.manifest.postgres

    def load(
        self,
        cluster: Cluster,
        tools: Tools,
        name: str,
        *,
        where: str,
        jobs: int,
        report: Report,
        keep_owners: bool = True,
        entries: Path | None = None,
        schema_only: bool = False,
    ) -> list[str]:
        """Restore into the empty database ``name``; returns notes. Subscriptions are left out: they would pull data at once.

        ``entries`` as for :func:`~twist_dr.postgres.dump.restore_database`. Raises ``ProcessFailed``.
        """
        doing = "trying the schema in" if schema_only else "restoring into"
        report.info(f"{doing} {where} with pg_restore {tools.version}, {counted(jobs, 'job')}")
        with restore_progress(cluster, name, self.facts.database_size, report):
            return restore_database(
                cluster, tools, name, self.dump, jobs=jobs, keep_owners=keep_owners, subscriptions=False, entries=entries,
                schema_only=schema_only, kept=self.kept, public=self.facts.public_schema,
            )  # fmt: skip


def fetch_database(artifacts: Artifacts, folder: Path, report: Report, *, members: bool = True) -> FetchedDatabase:
    """Fetch the dump, for pg_restore works in parallel only from a file, and what belongs to it, into ``folder``.

    Without ``members`` for single tables, which never are an extension's. Raises what fetching raises.
    """
    manifest, dump = artifacts.manifest, folder / "database.dump"
    with report.part("fetching database.dump", artifacts.stored_size("database.dump")) as advance:
        artifacts.fetch("database.dump", dump, advance)
    fill_in_offsets(dump, manifest.large_objects)
    return FetchedDatabase(
        manifest,
        dump,
        notes=leave_out_internals(dump),
        own=own_settings_of(dump),
        kept=fetch_kept(manifest, folder, artifacts.fetch) if members else None,
        roles=artifacts.read_small("roles.sql"),
    )


@dataclass(frozen=True)
class Serving:
    """A database that is made to serve. ``make``: the new empty one; if the context ends with an error, the caller sees to it that it goes.
    ``maintenance``: a connection to another database of its server. ``where`` it is, in words.

    ``unchanged``: what a failure has left as it was, as a clause to end a sentence with; the other two: what to do when it cannot be restored, and
    when what comes out is not what was recorded.
    """

    cluster: Cluster
    tools: Tools
    name: str
    server_major: int
    make: Callable[[], AbstractContextManager[Made]]
    maintenance: Callable[[], AbstractContextManager[Connection]]
    where: str
    jobs: int
    report: Report
    key_tables: Sequence[str] = ()
    unchanged: str = ""
    after_failure: str | None = None
    after_difference: str | None = None

    def versions_differ(self, fetched: FetchedDatabase) -> bool:
        return versions_differ(fetched.facts, self.server_major)

    def try_schema(self, fetched: FetchedDatabase) -> None:
        """Where versions differ: now, rather than after hours, does this server take every statement? Raises ``RestoreFailed``."""
        with self.make():
            self._load(fetched, jobs=1, schema_only=True)
        with self.maintenance() as connection:
            drop(connection, self.name)

    def load(self, fetched: FetchedDatabase) -> list[str]:
        """Restore; returns what a person should know. Raises ``RestoreFailed``."""
        return self._load(fetched, jobs=self.jobs, schema_only=False)

    def compare(self, fetched: FetchedDatabase, made: Made) -> Comparison:
        """Hold what was restored against what was recorded. Raises ``RestoreFailed`` naming the differences."""
        refuse_misread(self.cluster, self.name, made)
        with self.cluster.connect(self.name) as connection:
            found = compare_database(connection, fetched.manifest, self.report, key_tables=self.key_tables)
        if found.differences:
            more = len(found.differences) - _NAMED
            raise RestoreFailed(
                f"{fetched.manifest.backup_id} was restored and is not what was recorded: {'; '.join(found.differences[:_NAMED])}"
                f"{f'; and {more} more' if more > 0 else ''}{self.unchanged and f'. {self.unchanged}'}",
                remedy=self.after_difference,
            )
        return found

    def _load(self, fetched: FetchedDatabase, *, jobs: int, schema_only: bool) -> list[str]:
        """Grants on PostgreSQL's own functions are left out where an ordinary role restores, which could not give them."""
        grants: list[str] = []
        entries = fetched.dump.with_name("schema.list" if schema_only else "entries.list")
        with self.cluster.connect(self.name) as connection:
            [[superuser]] = query(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        try:
            if not superuser:
                grants = without_system_grants(self.tools, fetched.dump, entries)
            notes = fetched.load(
                self.cluster, self.tools, self.name, where=self.where, jobs=jobs, report=self.report,
                entries=entries if grants else None, schema_only=schema_only,
            )  # fmt: skip
        except ProcessFailed as error:
            raise RestoreFailed(
                f"{fetched.manifest.backup_id} could not be restored: {error}{self.unchanged and f' {self.unchanged}'}",
                remedy=self.after_failure,
            ) from error
        return notes + [
            f"grants on {grant} were left out, for only a superuser can give them; give them again if they are wanted"
            for grant in grants
        ]


def refuse_misread(cluster: Cluster, name: str, made: Made) -> None:
    """Raises ``RestoreFailed`` where amounts of money in a restored database may not be those that were written."""
    with cluster.connect(name) as connection:
        why = made.misreads(connection)
    if why is not None:
        raise RestoreFailed(
            f"The restored database may not be used: {why}",
            remedy="install the locale on the database server, then restore again",
        )


_JOIN_SECONDS = 15.0


@contextmanager
def restore_progress(
    cluster: Cluster, database: str, expected: int, report: Report, every: float = LOG_EVERY_SECONDS
) -> Iterator[None]:
    """While the block runs, the report has a part of the database's size in bytes, of about ``expected``."""
    ended = threading.Event()

    def tell() -> None:
        # Only told, never needed: a restore does not fail for it.
        with suppress(Exception), report.part("restoring", expected) as advance:
            known = 0
            while not ended.wait(every):
                with cluster.connect(database) as connection:
                    size = int(query(connection, "SELECT pg_database_size(current_database())")[0][0])
                advance(size - known)
                known = size

    thread = threading.Thread(target=tell, name="restore progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_SECONDS)
