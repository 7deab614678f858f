"""From a side database into a new schema of the live one, in one transaction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from twist_dr.errors import ProcessFailed, RestoreFailed
from twist_dr.postgres.cluster import Cluster, Connection, query
from twist_dr.postgres.sessions import FILLING, LOOKING
from twist_dr.postgres.tools import Tools, choose_serving, find_tools
from twist_dr.repository.table_names import in_quotes
from twist_dr.system.processes import Child
from twist_dr.system.progress import Report
from twist_dr.system.words import counted

#: Amounts are written and read with the same point and comma, whatever either database has.
_MONEY = {"lc_monetary": "C"}
#: The head of a plain dump alone is larger than this.
_LEAST_DUMP = 256


def check_live(cluster: Cluster, live: str, schema: str) -> None:
    """What would keep the schema out, or lead its rows elsewhere, before anything is done."""
    with cluster.connect(live) as connection:
        if query(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %(schema)s", {"schema": schema}):
            raise RestoreFailed(
                f"The schema {schema} is in {live} already", remedy="drop or rename it, or restore into a sandbox"
            )
        # Rows of a table that a subscriber lacks stop its replication (PostgreSQL, "Logical Replication: Restrictions").
        every = query(connection, "SELECT pubname FROM pg_publication WHERE puballtables ORDER BY 1")
    if every:
        raise RestoreFailed(
            f"The publication {every[0][0]} of {live} is FOR ALL TABLES, so restored tables would be sent to its subscribers, which lack them",
            remedy="restore into a sandbox",
        )


def copy_into_live(
    cluster: Cluster,
    tools: Tools,
    side: str,
    live: str,
    schema: str,
    rows: dict[str, int],
    *,
    backup_id: str,
    report: Report,
) -> str:
    """Copy the schema from the database ``side`` into ``live``; ``rows`` by table are counted there before the commit.

    Returns the role that owns the schema now. Raises ``RestoreFailed``, ``ClientToolsMissing`` and ``Cancelled``; nothing is left in
    ``live`` then.
    """
    with cluster.connect(live) as connection:
        dumping_tools = _dumping_tools(tools, connection.info.server_version // 10000)
        closing = _closing(connection, schema, rows)
        role = str(query(connection, "SELECT current_user")[0][0])
    dumping: list[str | Path] = [
        dumping_tools.program("pg_dump"), "--format=plain", f"--schema={in_quotes(schema)}", "--strict-names", "--no-owner", "--no-privileges",
        "--no-tablespaces", "--no-security-labels", "--no-password",
    ]  # fmt: skip
    try:
        with (
            Child(dumping, environment=cluster.environment(side, {**LOOKING, **_MONEY})) as child,
            report.part(f"copying into {live}") as advance,
            _transaction(cluster, dumping_tools, live, closing) as write,
        ):
            wrote = 0
            for chunk in child.bulk_output():
                wrote += len(chunk)
                write(chunk)
                advance(len(chunk))
            child.finish(_LEAST_DUMP, wrote)
    except ProcessFailed as error:
        reason = error.said.partition("ERROR:")[2].strip() or error.what
        raise RestoreFailed(
            f"{live} does not take the tables of {backup_id}: {reason.rstrip('.')}. Nothing was changed in it",
            remedy="make there what the tables need (types, functions, extensions) as it was at the time of the backup, or restore into a sandbox",
        ) from error
    return role


def _dumping_tools(tools: Tools, major: int) -> Tools:
    """pg_dump must be as new as the server, pg_restore need not be."""
    if tools.major >= major:
        return tools
    return choose_serving(find_tools((tools.folder,)), major, major, purpose="copy tables into")


def _closing(connection: Connection, schema: str, rows: dict[str, int]) -> bytes:
    """The end of the transaction: default privileges taken back, rows counted, and only then COMMIT."""
    from psycopg import sql

    revoke = sql.SQL(
        """DECLARE grantee text; BEGIN FOR grantee IN
               SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                 FROM (SELECT nspacl, nspowner FROM pg_namespace WHERE nspname = {name}
                       UNION ALL SELECT c.relacl, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE n.nspname = {name}) AS made (acl, owner), aclexplode(acl) AS a
                WHERE a.grantee <> owner
           LOOP EXECUTE 'REVOKE ALL ON SCHEMA ' || {quoted} || ' FROM ' || grantee;
                EXECUTE 'REVOKE ALL ON ALL TABLES IN SCHEMA ' || {quoted} || ' FROM ' || grantee;
                EXECUTE 'REVOKE ALL ON ALL SEQUENCES IN SCHEMA ' || {quoted} || ' FROM ' || grantee;
           END LOOP; END"""
    ).format(name=sql.Literal(schema), quoted=sql.Literal(sql.Identifier(schema).as_string(connection)))
    blocks = [revoke]
    for table, count in rows.items():
        blocks.append(
            sql.SQL(
                "BEGIN IF (SELECT count(*) FROM ONLY {}) <> {} THEN RAISE EXCEPTION USING MESSAGE = {}; END IF; END"
            ).format(
                sql.Identifier(schema, table),
                sql.Literal(count),
                sql.Literal(f"table {table} did not arrive with all of its {counted(count, 'row')}"),
            )
        )
    statements = [f"DO {sql.Literal(block.as_string(connection)).as_string(connection)};" for block in blocks]
    return "\n".join(["SET client_encoding = 'UTF8';", *statements, "COMMIT;", ""]).encode()


@contextmanager
def _transaction(cluster: Cluster, tools: Tools, database: str, closing: bytes) -> Iterator[Callable[[bytes], None]]:
    """A transaction in psql that takes a script piece by piece. It is committed when the block ends well, by ``closing``.

    psql would commit what a broken pipe left of a script by itself, were it told to make the transaction: so the COMMIT is ours.
    """
    arguments: list[str | Path] = [
        tools.program("psql"), "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null",
    ]  # fmt: skip
    environment = cluster.environment(database, {**FILLING, **_MONEY})
    read_end, write_end = os.pipe()
    try:
        try:
            child = Child(arguments, environment=environment, stdin=read_end)
        finally:
            os.close(read_end)

        def write(data: bytes) -> None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(write_end, rest) :]

        with child:
            try:
                write(b"BEGIN;\n")
                yield write
                write(closing + b"\\quit\n")
            except BrokenPipeError:
                child.finish()
                raise ProcessFailed("psql ended before the end of its script", remedy="run twist-dr doctor") from None
            child.finish()
    finally:
        os.close(write_end)
