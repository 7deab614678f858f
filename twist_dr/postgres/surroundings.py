"""What is set outside a database (postgresql.conf, ALTER ROLE, ALTER ROLE ALL) and changes how its rows read, or what it needs to work at all.

No dump of one database holds it: it is recorded in the manifest as a fresh session sees it, and counts in every restore until the rows are
in. Only parameters of PostgreSQL's own: those of the application (``app.key``) may be secrets, and a manifest holds none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from twist_dr.postgres.cluster import Cluster, Connection, named_errors, query
from twist_dr.postgres.sessions import APPLYING
from twist_dr.repository.manifest import PostgresFacts

#: Parameters that change what the text of a value means, or what an expression of a view, a check or a function gives.
_READING = {
    "lc_monetary", "lc_numeric", "lc_time", "DateStyle", "IntervalStyle", "TimeZone", "timezone_abbreviations",
    "default_text_search_config", "xmloption", "xmlbinary", "bytea_output", "extra_float_digits", "standard_conforming_strings",
    "backslash_quote", "array_nulls", "transform_null_equals",
}  # fmt: skip
#: Where a value comes from that is not outside the database, or is ours alone (pg_settings.source).
_NOT_OUTSIDE = {"database", "client", "session"}
_PRELOADED = "shared_preload_libraries"
#: A library of the installation's own folder. No path: whoever reads a manifest loads it.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: Extensions whose views and functions refuse to work where their library was not preloaded.
_WANT_PRELOADING = {
    "pg_stat_statements",
    "pg_stat_kcache",
    "pg_wait_sampling",
    "pg_qualstats",
    "pgaudit",
    "timescaledb",
    "citus",
}


def with_surroundings(facts: PostgresFacts, cluster: Cluster) -> PostgresFacts:
    """The facts with what is set outside the database. One more session. Raises what connecting raises."""
    seen = _seen(cluster)
    libraries = seen.get(_PRELOADED)
    return facts.model_copy(
        update={
            "session": {name: value for name, value in seen.items() if name != _PRELOADED},
            # Hidden from roles that are not told of all settings.
            "preloaded": None if libraries is None else [each.strip(' "') for each in libraries.split(",") if each],
        }
    )


def differing(facts: PostgresFacts, cluster: Cluster, database: str | None = None) -> list[str]:
    """How the server to which ``cluster`` leads is set otherwise than the backup's, each as ``DateStyle is ... and was ...``.

    ``database``: one that has no settings of its own. Nothing where nothing was recorded. Raises what connecting raises.
    """
    if not facts.session:
        return []
    here = _seen(cluster, database)
    return [
        f"{name} is {here[name]} and was {value}"
        for name, value in sorted(facts.session.items())
        if name in here and here[name] != value
    ]


def _seen(cluster: Cluster, database: str | None = None) -> dict[str, str]:
    # As the application has it: nothing but names of PostgreSQL's own is called, whatever the search path.
    with cluster.connect(database, settings=APPLYING) as connection, named_errors("to say how it is set"):
        rows = query(connection, "SELECT name, setting, source FROM pg_catalog.pg_settings")
    return {
        name: setting
        for name, setting, source in rows
        if name == _PRELOADED or (name in _READING and source not in _NOT_OUTSIDE)
    }


def libraries_to_preload(facts: PostgresFacts) -> tuple[list[str], list[str]]:
    """Libraries that a server with the backup's database should preload, and those of the backup's server that are never loaded here."""
    wanted = facts.preloaded
    if wanted is None:
        wanted = [extension.name for extension in facts.extensions if extension.name in _WANT_PRELOADING]
    plain = [name for name in wanted if _PLAIN.fullmatch(name)]
    return plain, [name for name in wanted if name not in plain]


def money_is_kept(connection: Connection) -> bool:
    """Whether a column of the database holds amounts of the type ``money``, whose text is lc_monetary's."""
    return bool(
        query(
            connection,
            """SELECT EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                               WHERE a.attrelid >= 16384 AND 'money'::regtype IN (t.oid, t.typelem, t.typbasetype))""",
        )[0][0]
    )


def outside(facts: PostgresFacts) -> Mapping[str, str]:
    """Recorded parameters that are given to a database while its rows come; names that are none of ours are never given."""
    return {name: value for name, value in facts.session.items() if name in _READING}
