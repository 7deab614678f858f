"""What belongs to an extension and a dump therefore leaves out: rows, values of sequences, and what was added to it by hand.

pg_dump writes CREATE EXTENSION in the place of all members, on the ground that its script makes them (PostgreSQL, "Packaging Related
Objects into an Extension"). Rows that came later are not in that script, but for those that it declared as configuration; nor is what
``ALTER EXTENSION ... ADD`` made a member, of which a dump has not even the definition.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from twist_dr.errors import ArchiveInvalid
from twist_dr.postgres.cluster import Connection, query
from twist_dr.repository.manifest import ExtensionMembers
from twist_dr.repository.table_names import TableName
from twist_dr.system.documents import DocumentInvalid, Limits, read_mapping

#: Artifacts: rows and values as SQL, the definitions of members as a dump, and what is where in them.
ROWS, MEMBERS, KEPT = "extension-rows.sql", "extension-members.dump", "extension-rows.json"
#: Of the document: far more members than any extension has.
LIMITS = Limits(size=32 << 20, values=500_000)

#: All members with what tells whether a dump has them. ``made``: the transaction that made it a member. What pg_dump holds of a table that
#: its extension declared as configuration: all rows, or those of a condition.
_MEMBERS = """
    SELECT e.extname, d.classid::bigint, d.objid::bigint, d.xmin::text,
           CASE WHEN c.oid IS NOT NULL THEN c.relkind::text
                WHEN t.typtype IN ('e', 'c', 'd', 'r') THEN 'type'
                WHEN l.lanname NOT IN ('c', 'internal') THEN 'routine' ELSE '' END,
           e.extcondition[array_position(e.extconfig, c.oid)],
           coalesce(c.relpersistence <> 't' AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery()), false)
      FROM pg_extension e
      JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
      LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
      LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
      LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
      LEFT JOIN pg_language l ON l.oid = p.prolang
     ORDER BY 1, 2, 3
"""
_COLUMNS = """ARRAY(SELECT a.attname::text FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum)"""
_RELATIONS = f"""
    SELECT c.oid::bigint, n.nspname, c.relname, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
           row_security_active(c.oid), {_COLUMNS}
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%(oids)s::oid[]) ORDER BY 2, 3
"""
#: Those of identity columns are no members themselves, and left out with their table.
_SEQUENCES = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') END
       AND (c.oid = ANY (%(oids)s::oid[])
            OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i'
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY (%(oids)s::oid[])))
     ORDER BY 1, 2
"""
_IDENTITIES = """
    SELECT i.type || ' ' || i.identity
      FROM unnest(%(classes)s::oid[], %(oids)s::oid[]) WITH ORDINALITY AS wanted (class, oid, place),
           LATERAL pg_identify_object(class, oid, 0) i ORDER BY place
"""
_IDENTIFIED = """
    SELECT e.extname, i.type || ' ' || i.identity, d.xmin::text
      FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e',
           LATERAL pg_identify_object(d.classid, d.objid, 0) i
     WHERE i.identity IS NOT NULL
"""
#: What cannot be made before these are there, and what owns such a thing from within (a view its rule).
_NEEDING = """
    WITH RECURSIVE needing (class, oid) AS (
        SELECT class, oid FROM unnest(%(classes)s::oid[], %(oids)s::oid[]) AS wanted (class, oid)
        UNION
        SELECT more.class, more.oid FROM needing n, LATERAL (
            SELECT d.classid, d.objid FROM pg_depend d WHERE d.refclassid = n.class AND d.refobjid = n.oid AND d.deptype NOT IN ('e', 'x')
            UNION ALL
            SELECT d.refclassid, d.refobjid FROM pg_depend d WHERE d.classid = n.class AND d.objid = n.oid AND d.deptype = 'i'
        ) AS more (class, oid))
    SELECT class::bigint, oid::bigint FROM needing
"""


@dataclass(frozen=True)
class Member:
    """What a dump leaves out. ``catalog`` and ``oid`` as digits, as a dump's table of contents has them; ``identity`` as servers write it."""

    extension: str
    catalog: str
    oid: str
    identity: str


@dataclass(frozen=True)
class MemberTable:
    """A table whose rows are kept: ``rows`` of them, ``size`` bytes from ``at`` on in the artifact. ``content``: see ``extension_rows``."""

    extension: str
    schema: str
    name: str
    oid: str
    columns: list[str]
    rows: int = 0
    content: str = ""
    at: int = 0
    size: int = 0

    @property
    def key(self) -> TableName:
        return TableName(self.schema, self.name)


@dataclass(frozen=True)
class MemberSequence:
    """The value of a sequence."""

    schema: str
    name: str
    last_value: int
    is_called: bool


@dataclass(frozen=True)
class KeptMembers:
    """What is kept of members. ``needing``: what is restored after them, as ``catalog oid``. ``closed``: tables that our
    role may not read, and whose they are."""

    members: list[Member] = field(default_factory=list)
    tables: list[MemberTable] = field(default_factory=list)
    sequences: list[MemberSequence] = field(default_factory=list)
    needing: list[str] = field(default_factory=list)
    closed: dict[TableName, str] = field(default_factory=dict)

    @property
    def extensions(self) -> list[str]:
        """Those with members that somebody may have added."""
        return sorted({member.extension for member in self.members})

    def to_json(self) -> bytes:
        document = {name: getattr(self, name) for name in ("members", "tables", "sequences", "needing")}
        return json.dumps(document, default=vars).encode()

    @staticmethod
    def from_json(data: bytes) -> KeptMembers:
        """Raises ``ArchiveInvalid``."""
        try:
            document = read_mapping(data, LIMITS)
            return KeptMembers(
                [Member(**each) for each in document["members"]],
                [MemberTable(**each) for each in document["tables"]],
                [MemberSequence(**each) for each in document["sequences"]],
                list(map(str, document["needing"])),
            )
        except (DocumentInvalid, KeyError, TypeError) as error:
            raise ArchiveInvalid(
                f"extension-rows.json cannot be read ({error})",
                remedy="take another backup, or one of a version that wrote it",
            ) from None


def read_kept(connection: Connection) -> KeptMembers:
    """What is to be kept of the connection's database; of tables, no rows yet. Raises psycopg's errors."""
    members = query(connection, _MEMBERS)
    usual = {name: Counter(each[3] for each in some).most_common(1)[0][0] for name, some in _by_extension(members)}
    # Made a member later than most others: by an update's script, or by hand.
    added = [
        each
        for each in members
        if each[5] is None and (each[4] in ("r", "p", "S") or (each[4] in ("v", "f", "type", "routine") and each[3] != usual[each[0]]))
    ]  # fmt: skip
    with_rows = {each[2]: each[0] for each in members if each[4] == "r" and each[6] and each[5] != ""}
    relations = with_rows | {each[2]: each[0] for each in added if each[4] in ("r", "p", "S")}
    tables, closed = [], {}
    for oid, schema, name, readable, filtered, columns in query(connection, _RELATIONS, {"oids": list(relations)}):
        table = MemberTable(relations[oid], schema, name, str(oid), columns)
        if not readable or filtered:
            closed[table.key] = table.extension
        elif oid in with_rows:
            tables.append(table)
    # pg_dump locks all of them, which takes the right to read.
    added = [each for each in added if each[0] not in closed.values()]
    own = [each[2] for each in added if each[4] in ("r", "S")]
    sequences = [_value_of(connection, TableName(*row)) for row in query(connection, _SEQUENCES, {"oids": own})]
    wanted = {"classes": [each[1] for each in added], "oids": [each[2] for each in added]}
    identities = query(connection, _IDENTITIES, wanted)
    described = [
        Member(each[0], str(each[1]), str(each[2]), identity)
        for each, (identity,) in zip(added, identities, strict=True)
        if identity is not None
    ]
    needing = [f"{catalog} {oid}" for catalog, oid in query(connection, _NEEDING, wanted)] if added else []
    return KeptMembers(described, tables, sequences, needing, closed)


def columns_of(connection: Connection, table: TableName) -> list[str] | None:
    """The columns that rows of a table are kept with; None where there is no such table. Raises psycopg's errors."""
    rows = query(
        connection,
        f"SELECT {_COLUMNS} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND n.nspname = %(schema)s AND c.relname = %(name)s",
        table._asdict(),
    )
    return list(rows[0][0]) if rows else None


def read_members(connection: Connection) -> dict[str, ExtensionMembers]:
    """What belongs to each extension of the connection's database. Raises psycopg's errors."""
    found = {}
    for extension, some in _by_extension(query(connection, _IDENTIFIED)):
        identities = sorted(each[1] for each in some)
        [(usual, many)] = Counter(each[2] for each in some).most_common(1)
        # After pg_upgrade each has a transaction of its own.
        added = sorted(each[1] for each in some if each[2] != usual) if 2 * many > len(some) else []
        digest = hashlib.sha256("\n".join(identities).encode(errors="surrogateescape")).hexdigest()
        found[extension] = ExtensionMembers(count=len(some), sha256=digest, added=added)
    return found


def member_identities(connection: Connection) -> set[tuple[str, str]]:
    """Extension and identity of all members of the connection's database."""
    return {(extension, identity) for extension, identity, _ in query(connection, _IDENTIFIED)}


def _by_extension(members: Iterable[tuple[Any, ...]]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for each in members:
        found.setdefault(each[0], []).append(each)
    return list(found.items())


def _value_of(connection: Connection, sequence: TableName) -> MemberSequence:
    from psycopg import sql

    statement = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(*sequence))
    [(last_value, is_called)] = connection.execute(statement).fetchall()
    return MemberSequence(sequence.schema, sequence.name, last_value, is_called)
