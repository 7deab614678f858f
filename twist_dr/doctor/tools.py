"""PostgreSQL's programs: can they dump this database, and is there a server to verify its backups in."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.backup.tools_proof import CANNOT_BE_TRIED, ToolsProof, what_they_cannot
from twist_dr.doctor.database import DatabaseSeen, explain_connection
from twist_dr.doctor.findings import Check, from_error, ok, problem, said, warning
from twist_dr.errors import BackupError, ClientToolsMissing, DatabaseError, ProcessFailed
from twist_dr.postgres.cluster import Cluster, Snapshot, named_errors, query, read_system_identifier
from twist_dr.postgres.confinement import Isolation, is_kept_away, way, what_is_missing
from twist_dr.postgres.restore_place import available_extensions
from twist_dr.postgres.scratch import ScratchServer
from twist_dr.postgres.tools import Tools, choose_tools, find_tools, serves
from twist_dr.redaction import one_line
from twist_dr.system.commands import run_command
from twist_dr.system.progress import human_seconds
from twist_dr.system.words import few

if TYPE_CHECKING:
    pass

_PSQL_SECONDS = 30.0

#: Debian's and Ubuntu's package of an extension that is not named after it.
_PACKAGES = {
    "pg_cron": "postgresql-{major}-cron",
    "pg_partman": "postgresql-{major}-partman",
    "pg_repack": "postgresql-{major}-repack",
    "plperl": "postgresql-plperl-{major}",
    "plpython3u": "postgresql-plpython3-{major}",
    "pltcl": "postgresql-pltcl-{major}",
    "postgis": "postgresql-{major}-postgis-3",
    "timescaledb": "timescaledb-2-postgresql-{major}",
    "vector": "postgresql-{major}-pgvector",
}
#: Those that come with PostgreSQL itself; Debian has them in the server's package, Red Hat in one of their own.
_CONTRIB = frozenset(
    [
        "amcheck",
        "bloom",
        "btree_gin",
        "btree_gist",
        "citext",
        "cube",
        "dblink",
        "dict_int",
        "dict_xsyn",
        "earthdistance",
        "file_fdw",
        "fuzzystrmatch",
        "hstore",
        "intarray",
        "isn",
        "lo",
        "ltree",
        "pageinspect",
        "pg_buffercache",
        "pg_freespacemap",
        "pg_stat_statements",
        "pg_trgm",
        "pg_visibility",
        "pgcrypto",
        "pgrowlocks",
        "pgstattuple",
        "postgres_fdw",
        "seg",
        "sslinfo",
        "tablefunc",
        "tcn",
        "tsm_system_rows",
        "tsm_system_time",
        "unaccent",
        "uuid-ossp",
        "xml2",
    ]
)


def check_client_tools(cluster: Cluster, folders: Sequence[Path], major: int) -> Check[None]:
    """The tools that a backup would choose, proven by a connection with them. ``folders`` are those of the settings."""
    tools = find_tools(folders)
    for folder in folders:
        if folder.resolve() not in {each.folder for each in tools}:
            yield warning(
                "client tools",
                f"{folder} has no pg_dump, pg_dumpall, pg_restore and psql that run",
                "correct database.client_tools",
            )
    try:
        chosen = choose_tools(tools, major)
    except ClientToolsMissing as error:
        yield from_error("client tools", error)
        return
    others = [f"{each.version} in {each.folder}" for each in tools if each is not chosen]
    also = f"; also found: {few(others)}" if others else ""
    if (refusal := _refusal(chosen, cluster)) is None:
        yield ok("client tools", f"pg_dump {chosen.version} in {chosen.folder} connects{also}")
        return
    found = f"psql {chosen.version} in {chosen.folder} cannot connect, though we can: {refusal}"
    better = [each for each in tools if each.major >= major and each is not chosen and _refusal(each, cluster) is None]
    if better:
        remedy = f"database: {{client_tools: [{better[0].folder}]}}  # in twist-dr.yaml"
    elif "SSL" in refusal:
        remedy = f"these tools were built without SSL; install others: apt-get install postgresql-client-{major}"
    else:
        remedy = "name the folder of other tools in database.client_tools"
    yield problem("client tools", found + also, remedy)


def check_dumps(cluster: Cluster, folders: Sequence[Path], major: int, proof: ToolsProof) -> Check[None]:
    """Where only tools of other major versions are at hand: does what they dump come back? Proven by the schema, in a scratch server."""
    try:
        chosen = choose_tools(find_tools(folders), major)
    except ClientToolsMissing:
        return  # told already
    if chosen.major == major:
        return
    remedy = f"apt-get install postgresql-client-{major}  # the server's own version; the package's name may differ on your system"
    with Snapshot(cluster) as snapshot:
        try:
            found = f"the schema that pg_dump {chosen.version} writes came back in PostgreSQL {proof.prove(cluster, chosen, snapshot)}"
        except BackupError as error:
            yield problem("dumps", said(error), remedy)
            return
        except CANNOT_BE_TRIED as error:
            found = f"whether the dumps of pg_dump {chosen.version} come back could not be tried: {said(error)}"
    if serves(chosen, major):
        yield warning("dumps", f"{found}; a server is best dumped by tools of its own version {major}", remedy)
    else:
        yield problem("dumps", f"{found}; {what_they_cannot(chosen, major)}", remedy)


def _refusal(tools: Tools, cluster: Cluster) -> str | None:
    """Why these tools cannot connect; ``None`` when they can. The libpq of each folder is a build of its own."""
    arguments: list[str | Path] = [tools.program("psql"), "-X", "-A", "-t", "-w", "-c", "select 1"]
    try:
        run_command(arguments, seconds=_PSQL_SECONDS, environment=cluster.environment())
    except ProcessFailed as error:
        return said(error)
    return None


def check_isolation(isolation: Isolation) -> Check[None]:
    """Can a server with the database's own code be kept away from all else here? ``isolation`` as in the settings."""
    if is_kept_away():
        what = "files" if way().startswith("bubblewrap") else "processes"
        yield ok(
            "isolation", f"code of the database runs where it reaches no network, and no {what} but its own ({way()})"
        )
        return
    remedy = "apt install bubblewrap  # or, in a container, name a server of its own in verification.server (deploy/compose/scratch.yaml)"
    if isolation == "required":
        found = (
            f"{what_is_missing()}; so no scratch server and no recovery is started (verification.isolation: required)"
        )
        yield problem("isolation", found, f"{remedy}, or accept it: verification.isolation: where-possible")
    else:
        yield warning("isolation", f"{what_is_missing()}; verification.isolation: where-possible accepts that", remedy)


def check_verification(
    folders: Sequence[Path],
    scratch: Path,
    server: Cluster | None,
    seen: DatabaseSeen,
    isolation: Isolation = "required",
) -> Check[None]:
    """A server to verify in: start a scratch one, or look at the one of the settings. And has it the extensions?"""
    if server is not None:
        available = yield from _existing_server(server, seen)
    else:
        available = yield from _scratch_server(folders, scratch, seen.major, isolation)
    if available is not None:
        yield from _extensions(available, seen)


def _scratch_server(
    folders: Sequence[Path], scratch: Path, major: int, isolation: Isolation
) -> Check[frozenset[str] | None]:
    try:
        tools = choose_tools(find_tools(folders), major, server=True, purpose="verify")
    except ClientToolsMissing as error:
        yield problem(
            "verification",
            said(error),
            f"apt-get install postgresql-{major}, or set verification.server to the URL of a server that is not production",
        )
        return None
    begun = time.monotonic()
    with ScratchServer(tools, scratch, isolation=isolation) as started, started.cluster().connect() as connection:
        available = available_extensions(connection)
        yield ok(
            "verification",
            f"a scratch PostgreSQL {tools.version} started in {human_seconds(time.monotonic() - begun)} in {started.folder.parent}",
        )
    return available


def _existing_server(server: Cluster, seen: DatabaseSeen) -> Check[frozenset[str] | None]:
    try:
        connection = server.connect()
    except DatabaseError as error:
        yield explain_connection("verification", error, "verification.server")
        return None
    with connection, named_errors("to look at the verification server"):
        version, role, may_create, may_make_roles = query(
            connection,
            """SELECT current_setting('server_version'), quote_ident(current_user), rolsuper OR rolcreatedb,
                      rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user""",
        )[0]
        identifier = read_system_identifier(connection)
        major = connection.info.server_version // 10000
        if identifier is None or identifier == seen.system_identifier:
            yield problem(
                "verification",
                "verification.server is the production server itself, or does not let us see that it is another one",
                "name a server of its own, or leave verification.server out and install server programs here",
            )
        elif major < seen.major:
            yield problem(
                "verification",
                f"verification.server runs PostgreSQL {version}, older than the database's {seen.major}",
                f"name a server of version {seen.major} or newer",
            )
        elif not (may_create and may_make_roles):
            yield problem(
                "verification",
                f"role {role} may not make databases and roles on verification.server",
                f"ALTER ROLE {role} CREATEDB CREATEROLE;  -- as a superuser, on that server",
            )
        else:
            yield ok("verification", f"PostgreSQL {version}, {server.place}, is another server than production")
        return available_extensions(connection)


def _extensions(available: frozenset[str], seen: DatabaseSeen) -> Check[None]:
    missing = [name for name in seen.extensions if name not in available]
    for name in missing:
        yield warning(
            "extensions",
            f"the database uses {one_line(name)}, which the server that verifies lacks: backups hold it, but cannot be verified",
            f"apt-get install {shlex.quote(_package(name, seen.major))}  # the package's name may differ on your system",
        )
    if not missing:
        yield ok("extensions", f"{few(seen.extensions)} can be restored here" if seen.extensions else "none are used")


def _package(extension: str, major: int) -> str:
    if extension in _CONTRIB:
        return f"postgresql-{major}"
    known = _PACKAGES.get(extension)
    return known.format(major=major) if known else f"postgresql-{major}-{extension.replace('_', '-')}"
