"""What a dump says of its database as a whole: owner, grants, limit, comment. pg_restore passes it over unless it makes the database itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from twist_dr.errors import RestoreFailed
from twist_dr.postgres.cluster import Connection, first_line
from twist_dr.postgres.dump_toc import read_entries, read_header
from twist_dr.postgres.statements import statements
from twist_dr.postgres.tools import Tools
from twist_dr.system.processes import run

#: Entries of a dump that speak of the database as a whole; pg_restore leaves them out unless it makes the database itself.
_OF_DATABASE = re.compile(r"^\d+; \d+ \d+ (?:DATABASE|DATABASE PROPERTIES|(?:ACL|COMMENT) - DATABASE) ")
#: Statements about the database, split where its name stands; not what it is set to, which comes before its rows.
_NAMED = re.compile(
    rb"""^((?:ALTER|COMMENT\ ON)\ DATABASE\ |(?:GRANT|REVOKE)\ [A-Z, ]+\ ON\ DATABASE\ )(?:"(?:[^"]|"")*"|[^" ]+)(\ (?!SET\ ).*)$""",
    re.DOTALL | re.VERBOSE,
)
_ENCODING = re.compile(rb"^SET client_encoding = '(\w+)';$")


@dataclass(frozen=True)
class DumpedProperties:
    """``_statements``: SQL about the database, in two pieces between which its name belongs."""

    encoding: str
    _statements: tuple[tuple[bytes, bytes], ...]

    def give(self, connection: Connection, name: str, *, rehearse: bool = False) -> None:
        """Give them to a database, all or nothing; or see whether that can be. Raises ``RestoreFailed``."""
        import psycopg
        from psycopg import sql

        quoted = sql.Identifier(name).as_bytes(connection)
        # Everybody may connect to a database until that is revoked; whoever made this one did, the backup's own REVOKE may follow.
        first = [
            b"COMMENT ON DATABASE %s IS NULL;" % quoted,
            b"GRANT CONNECT, TEMPORARY ON DATABASE %s TO PUBLIC;" % quoted,
        ]
        script = b"\n".join([*first, *(before + quoted + after for before, after in self._statements)])
        try:
            with connection.transaction(force_rollback=rehearse):
                connection.execute(sql.SQL("SET LOCAL client_encoding TO {}").format(sql.Literal(self.encoding)))
                connection.execute(script)
        except psycopg.Error as error:
            raise RestoreFailed(
                f"The owner and grants of the database could not be given to {name}: {first_line(error)}",
                remedy="fix that, or restore as a superuser",
            ) from error


def read_properties(tools: Tools, dump: Path, folder: Path) -> DumpedProperties:
    """Those of a dump on our disk; ``folder`` takes a list. Raises ``ProcessFailed``."""
    program, environment = tools.program("pg_restore"), {"LC_ALL": "C"}
    listed = run([program, "--create", "--list", dump], environment=environment).decode(errors="surrogateescape")
    chosen = folder / "database.list"
    lines = [line for line in listed.splitlines() if _OF_DATABASE.match(line)]
    chosen.write_text("\n".join([*lines, ""]), errors="surrogateescape")
    script = run([program, "--create", f"--use-list={chosen}", "--file=-", dump], environment=environment)
    wanted = [(match[1], match[2]) for each in statements(script) if (match := _NAMED.match(each))]
    # Who gave a database away may not change it any more, so that comes last.
    wanted.sort(key=lambda each: each[0] == b"ALTER DATABASE " and each[1].startswith(b" OWNER TO "))
    encoding = next(match[1] for each in statements(script) if (match := _ENCODING.match(each)))
    return DumpedProperties(encoding.decode(), tuple(wanted))


def read_owner(dump: BinaryIO) -> str | None:
    """The owner of the database that was dumped, of which the head is enough. Raises ``UnknownDump``."""
    for entry in read_entries(dump, read_header(dump)):
        if entry.kind == b"DATABASE":
            return entry.owner.decode(errors="surrogateescape")
    return None
