"""``server.json``: what a cluster's files do not tell, or tell only a server that runs.

Settings with where they come from, the configuration files that lie outside the data directory (``/etc/postgresql`` on Debian,
which a base backup does not hold), extensions of every database, and the versions of the collations that indexes were built with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from twist_dr.errors import DatabaseError
from twist_dr.postgres.cluster import Cluster, Connection, first_line, named_errors, query, read_extensions
from twist_dr.repository.manifest import Tablespace

Warn = Callable[[str], None]

_FILES = ("config_file", "hba_file", "ident_file")


def server_document(cluster: Cluster, connection: Connection, tablespaces: list[Tablespace], warn: Warn) -> bytes:
    """The document as JSON. What the role may not see is named through ``warn``."""
    with named_errors("to read its settings"):
        return json.dumps(_document(cluster, connection, tablespaces, warn), indent=1, ensure_ascii=False).encode()


def _document(cluster: Cluster, connection: Connection, tablespaces: list[Tablespace], warn: Warn) -> dict[str, Any]:
    settings = query(connection, _SETTINGS)
    values = {row[0]: row[1] for row in settings}
    return {
        "format": 1,
        "settings": [dict(zip(("name", "setting", "unit", "source"), row, strict=True)) for row in settings],
        "shared_preload_libraries": values.get("shared_preload_libraries", ""),
        "files": _files(connection, warn),
        "tablespaces": [tablespace.model_dump(mode="json") for tablespace in tablespaces],
        "databases": [
            {
                "name": name,
                "locale_provider": provider,
                "collation_version": version,
                **(_inside(cluster, name, warn) if may_connect else {}),
            }
            for name, provider, version, may_connect in query(connection, _DATABASES)
        ],
    }


_SETTINGS = """
    SELECT name, setting, unit, source FROM pg_settings WHERE source NOT IN ('default', 'override') ORDER BY 1
"""

#: Columns of pg_database differ from 13 to 18.
_DATABASES = """
    SELECT datname, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), to_jsonb(d) ->> 'datcollversion',
           datallowconn AND has_database_privilege(oid, 'CONNECT')
      FROM pg_database d ORDER BY 1
"""

#: Those that a column uses, or that somebody made; the hundreds that initdb puts there say nothing.
_COLLATIONS = """
    SELECT n.nspname || '.' || c.collname, c.collprovider::text, c.collversion
      FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
     WHERE c.collversion IS NOT NULL
       AND (n.nspname <> 'pg_catalog' OR EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = c.oid))
     ORDER BY 1
"""


def _inside(cluster: Cluster, database: str, warn: Warn) -> dict[str, Any]:
    import psycopg

    try:
        with cluster.connect(database) as connection:
            return {
                "extensions": [each.model_dump(mode="json") for each in read_extensions(connection)],
                "collations": [
                    dict(zip(("name", "provider", "version"), row, strict=True))
                    for row in query(connection, _COLLATIONS)
                ],
            }
    except (DatabaseError, psycopg.Error) as error:
        warn(f"cluster: the extensions of the database {database} are not recorded: {first_line(error)}")
        return {}


def _files(connection: Connection, warn: Warn) -> list[dict[str, str]]:
    """Configuration files that a base backup does not hold, as text."""
    names = (*_FILES, "data_directory")
    rows: dict[str, str] = dict(
        query(connection, "SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)", {"names": list(names)})
    )
    if "data_directory" not in rows:
        warn(
            "cluster: the role may not see where the server's configuration files lie, so they are not recorded; as a superuser "
            "grant it pg_read_all_settings and pg_read_server_files if they lie outside the data directory"
        )
        return []
    included = query(
        connection, "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL ORDER BY sourcefile"
    )
    data = PurePosixPath(rows["data_directory"])
    paths = dict.fromkeys([rows[name] for name in _FILES if rows.get(name)] + [row[0] for row in included])
    return [
        {"path": path, "text": text}
        for path in paths
        if data not in PurePosixPath(path).parents and (text := _read_file(connection, path, warn)) is not None
    ]


def _read_file(connection: Connection, path: str, warn: Warn) -> str | None:
    import psycopg

    try:
        return str(query(connection, "SELECT pg_read_file(%(path)s)", {"path": path})[0][0])
    except psycopg.Error as error:
        warn(
            f"cluster: {path} lies outside the data directory and could not be read ({first_line(error)}), so it is not in the backup; "
            "grant the role pg_read_server_files and EXECUTE on pg_read_file(text), or name the file in configuration"
        )
        return None
