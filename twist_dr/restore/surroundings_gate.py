"""The gate's look at what a database is set to, by itself and from outside: what the live one has otherwise than the backup's is said.

The restored database gets the backup's own settings, under which its rows were written; the server's stay as they are.
"""

from __future__ import annotations

import io
from contextlib import closing
from typing import TYPE_CHECKING

from twist_dr.errors import BackupError, RestoreFailed
from twist_dr.postgres import databases
from twist_dr.postgres.own_settings import differing_settings, read_own_settings
from twist_dr.postgres.surroundings import differing
from twist_dr.redaction import one_line
from twist_dr.repository.sources import Sources
from twist_dr.restore.dump_head import Head
from twist_dr.restore.gate import Gate
from twist_dr.restore.plan import RestorePlace, RestoreRequest
from twist_dr.system.words import few

if TYPE_CHECKING:
    from twist_dr.postgres.cluster import Connection

#: Names of settings in one sentence.
_MOST = 12


def look_at_surroundings(
    gate: Gate, request: RestoreRequest, place: RestorePlace, sources: Sources, head: Head
) -> None:
    """Add to the gate's warnings what it finds. Raises what connecting raises."""
    facts = sources.manifest.postgres
    if "database" not in request.parts or request.tables or facts is None or not gate.live:
        return
    cluster = place.around.cluster
    with closing(databases.connect_for_maintenance(cluster)) as connection:
        beside = connection.info.dbname
        if databases.find_oid(connection, gate.live) is not None:
            _look_at_own(gate, head, connection)
    if lines := differing(facts, cluster, beside):
        gate.warnings.append(told_differing(lines))


def _look_at_own(gate: Gate, head: Head, connection: Connection) -> None:
    try:
        own = read_own_settings(io.BytesIO(head()))
    except (BackupError, RestoreFailed) as error:
        gate.warnings.append(
            f"what the backup's database is set to cannot be read before all of it is: {error}".rstrip(".")
        )
    else:
        if names := differing_settings(connection, gate.live, own):
            gate.warnings.append(
                f"the live database is set otherwise than the backup's ({few(names, _MOST)}): what is restored has the backup's settings; "
                "write down those of the live one (psql: \\drds), if they are to stay"
            )


def told_differing(lines: list[str]) -> str:
    """A sentence about how a server is set otherwise than the backup's."""
    return one_line(
        f"the server is set otherwise than the backup's: {'; '.join(lines)}. Rows are read as they were written; what the application relies "
        "on must be set here: ALTER DATABASE ... SET"
    )
