"""A database brought back on a server that never saw it: its roles, itself, and what it was allowed and set to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from twist_dr.cli.recover.scratch import scratch_folder
from twist_dr.cli.recover.server import UNFINISHED, NewDatabase
from twist_dr.errors import RestoreFailed
from twist_dr.postgres import databases, making
from twist_dr.postgres.cluster import first_line, named_errors
from twist_dr.postgres.comparison import Comparison
from twist_dr.postgres.dumped_properties import DumpedProperties, read_properties
from twist_dr.postgres.everybodys_settings import add_everybodys_settings
from twist_dr.postgres.own_settings import OwnSettings
from twist_dr.postgres.roles import role_names
from twist_dr.postgres.surroundings import differing
from twist_dr.repository.manifest import PostgresFacts
from twist_dr.repository.sources import OneCopy
from twist_dr.restore.database import roles_as_they_were
from twist_dr.restore.dump_gate import told_differing
from twist_dr.restore.pipeline import FetchedDatabase, Serving, fetch_database
from twist_dr.restore.statistics import analyze
from twist_dr.system.progress import Report


@dataclass(frozen=True)
class RecoveredDatabase:
    """What was made."""

    found: Comparison
    seconds: float
    made_roles: list[str]


def recover_database(new: NewDatabase, copy: OneCopy, *, jobs: int, report: Report) -> RecoveredDatabase:
    """Fetch, make roles and database, restore, compare, and let people in.

    After an error the database is gone again, unless it is restored and compared: then it stays, and the error says what it lacks. Roles that
    were made stay, and were told to ``report``. Raises ``RestoreFailed``, and what reading from the target and connecting to the server raise.
    """
    manifest = copy.manifest
    facts = manifest.postgres
    assert facts is not None
    begun = time.monotonic()
    for sentence in manifest.left_out:
        report.warning(f"not in the backup: {sentence}")
    with scratch_folder() as folder:
        fetched = fetch_database(copy, folder, report)
        for line in fetched.notes:
            report.warning(line)
        if lines := differing(facts, new.cluster, new.beside):
            report.warning(told_differing(lines))
        made = _make_roles(new, fetched.roles, report)
        properties = read_properties(new.tools, fetched.dump, folder)
        serving = _serving(new, fetched, jobs, report)
        if serving.versions_differ(fetched):
            serving.try_schema(fetched)
        with serving.make() as database:
            for line in database.notes:
                report.warning(line)
            with new.maintenance() as connection:
                # Now, rather than after hours: can they be given at all?
                properties.give(connection, new.name, rehearse=True)
            for line in serving.load(fetched):
                report.warning(line)
            report.info("comparing with what was recorded")
            found = serving.compare(fetched, database)
            for note in found.notes:
                report.warning(note)
            with new.maintenance() as connection:
                making.leave_outside(connection, new.name, facts, fetched.own)
        # From here on it is what was recorded, and stays whatever comes.
        _open(new, properties, fetched.own)
        report.info("analyzing")
        for line in map(str, analyze(new.cluster, new.name, jobs)):
            report.warning(line)
    return RecoveredDatabase(found, time.monotonic() - begun, made)


def _make_roles(new: NewDatabase, roles: bytes, report: Report) -> list[str]:
    """Make the roles that the server lacks, as they were; gives their names."""
    with new.maintenance() as connection:
        remedy = "make them by hand or restore as a superuser, then run again"
        made, told = roles_as_they_were(new.cluster, connection, roles, remedy)
        if made:
            report.info(f"roles made: {', '.join(made)}")
        with named_errors("to read what is set for all roles"):
            given, more = add_everybodys_settings(connection, roles)
    if given:
        report.info(f"set for all roles (ALTER ROLE ALL SET), as the backup's server had it: {', '.join(given)}")
    for sentence in told + more:
        report.warning(sentence)
    if kept := [role for role in role_names(roles) if role not in made]:
        report.info(f"roles that were there, left as they are: {', '.join(kept)}")
    return made


def _serving(new: NewDatabase, fetched: FetchedDatabase, jobs: int, report: Report) -> Serving:
    return Serving(
        new.cluster,
        new.tools,
        new.name,
        new.major,
        make=partial(_made, new, fetched.facts, fetched.own, report),
        maintenance=new.maintenance,
        where=f"{new.cluster.place} (PostgreSQL {new.server_version})",
        jobs=jobs,
        report=report,
        after_failure="fix that on the server, then run again, or take --dump-to and restore by hand",
        after_difference="restore another backup, or take --dump-to and look for yourself",
    )


@contextmanager
def _made(new: NewDatabase, facts: PostgresFacts, own: OwnSettings, report: Report) -> Iterator[making.Made]:
    """The new empty database, closed to others, marked as unfinished; dropped again when the block raises."""
    from psycopg import sql

    with new.maintenance() as connection:
        made = making.make_to_serve(connection, new.name, facts, own)
    try:
        with new.maintenance() as connection, named_errors("to mark the new database"):
            mark = sql.SQL("COMMENT ON DATABASE {} IS {}")
            connection.execute(mark.format(sql.Identifier(new.name), sql.Literal(UNFINISHED)))
        yield made
    except BaseException:
        try:
            with new.maintenance() as connection:
                databases.drop(connection, new.name)
            report.info(f"the database {new.name} that was begun was dropped again")
        except Exception as error:
            # What went wrong first is what matters.
            report.warning(
                f"the database {new.name} that was begun could not be dropped ({first_line(error)}); drop it by hand"
            )
        raise


def _open(new: NewDatabase, properties: DumpedProperties, own: OwnSettings) -> None:
    """Let people in, as into the database that was dumped. Raises ``RestoreFailed``, and leaves what was restored."""
    from psycopg import sql

    try:
        with new.maintenance() as connection:
            # Before all else: nobody shall be asked to drop it as a recovery that was cut short.
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(sql.Identifier(new.name)))
            making.give_last(connection, new.name, own)
            properties.give(connection, new.name)
    except Exception as error:
        raise RestoreFailed(
            f"The database {new.cluster.place} is restored, compared with what was recorded, and stays. Yet nobody else may connect to it: {first_line(error)}",
            remedy="give it its owner and grants by hand",
        ) from error
