"""Databases that restores made beside the live one to be looked at, with the media beside them: journals tell, the server has the last word."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.postgres import databases
from twist_dr.restore.cutover import Surroundings
from twist_dr.restore.journal import Journal

if TYPE_CHECKING:
    from twist_dr.postgres.cluster import Cluster


@dataclass(frozen=True)
class DatabaseSandbox:
    """What is there of one: the database bears its name still, and is no other one of that name."""

    journal: Journal
    database: str | None
    folders: tuple[Path, ...]


def database_sandboxes(around: Surroundings) -> Iterator[DatabaseSandbox]:
    """Oldest first. No connection is made where no restore left one. Raises ``DatabaseError``, ``RestoreError``."""
    for connection, journal in around.asked_about(lambda each: each.leaves):
        found = journal.left_database
        database = found[0] if found and databases.find_oid(connection, found[0]) == found[1] else None
        folders = (journal.sandbox,) if journal.sandbox is not None and journal.sandbox.is_dir() else ()
        if database or folders:
            yield DatabaseSandbox(journal, database, folders)


def how_to_reach(cluster: Cluster, database: str) -> str:
    """The command that connects to a database of a server; who calls it gives the password."""
    from psycopg.conninfo import make_conninfo

    known = cluster.parameters
    where = {key: known[key] for key in ("host", "port", "user") if key in known}
    return f"psql {shlex.quote(make_conninfo(**where, dbname=database))}"
