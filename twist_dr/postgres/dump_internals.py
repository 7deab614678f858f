"""What a dump holds of PostgreSQL's own inner workings, which no server is to be told, left out before a restore.

pg_dump leaves out what its own version knows to be internal. One of another major version need not know it, writes it down like
anything else, and a server that does not know it refuses the whole restore.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

from twist_dr.postgres.dump_toc import UnknownDump, read_entries, read_header
from twist_dr.postgres.statements import NAME, spans
from twist_dr.system.words import counted

#: Options that servers keep on columns for themselves, and what a person is told of them.
INTERNAL_COLUMN_OPTIONS = {
    b"pg_attver": "servers from 15.20 on keep it on every column, their own pg_dump leaves it out, and other servers refuse it",
}
#: Kinds of entries whose definition gives options to columns.
_WITH_COLUMNS = (b"TABLE", b"FOREIGN TABLE", b"MATERIALIZED VIEW", b"VIEW")
#: As pg_dump writes it (pg_dump.c, ``dumpTableSchema``), the only statement that gives options to a column.
_COLUMN_OPTIONS = re.compile(
    rb"ALTER (?:FOREIGN )?TABLE ONLY "
    + NAME
    + rb"(?:\."
    + NAME
    + rb")? ALTER COLUMN "
    + NAME
    + rb" SET \(([^()'\"]*)\);"
)


def leave_out_internals(dump: Path) -> list[str]:
    """Blank what is internal out of the definitions of a custom-format dump; returns a warning for each kind of it.

    ``dump`` is a file of our own that was already verified: it is changed in place, each definition keeps its length, and the
    file no longer has the recorded SHA-256. A dump of a format that we do not know is left as it is.
    """
    found: Counter[bytes] = Counter()
    edits: list[tuple[int, bytes]] = []
    try:
        with dump.open("rb") as file:
            for entry in read_entries(file, read_header(file), _WITH_COLUMNS):
                blanked = _without_internals(entry.definition, found)
                if blanked != entry.definition:
                    edits.append((entry.definition_at, blanked))
    except UnknownDump:
        return []
    if edits:
        _write(dump, edits)
    return [
        f"the internal column option {option.decode()} was left out of {counted(count, 'column')}: {INTERNAL_COLUMN_OPTIONS[option]}"
        for option, count in found.items()
    ]


def without_internals(definition: bytes) -> bytes:
    """The definition with what is internal blanked."""
    return _without_internals(definition, Counter())


def _without_internals(definition: bytes, found: Counter[bytes]) -> bytes:
    if not any(option in definition for option in INTERNAL_COLUMN_OPTIONS):
        return definition
    pieces, place = [], 0
    for begin, end in spans(definition):
        pieces.append(definition[place:begin])
        pieces.append(_blanked(definition[begin:end], found))
        place = end
    return b"".join([*pieces, definition[place:]])


def _blanked(statement: bytes, found: Counter[bytes]) -> bytes:
    """The statement without internal options, as long as before: white space takes their place."""
    match = _COLUMN_OPTIONS.fullmatch(statement)
    if match is None:
        return statement
    options = match[1].split(b", ")
    kept = [option for option in options if option.partition(b"=")[0] not in INTERNAL_COLUMN_OPTIONS]
    if kept == options:
        return statement
    found.update(option.partition(b"=")[0] for option in options if option not in kept)
    if not kept:
        return b" " * len(statement)
    return statement[: match.start(1)] + b", ".join(kept).ljust(len(match[1])) + statement[match.end(1) :]


def _write(dump: Path, edits: list[tuple[int, bytes]]) -> None:
    if dump.stat().st_nlink != 1:
        # A storage target may hold a link to the file, and what a target holds is never changed.
        copy = dump.with_name(f"{dump.name}.copy")
        shutil.copyfile(dump, copy)
        copy.replace(dump)
    with dump.open("r+b") as file:
        for place, definition in edits:
            os.pwrite(file.fileno(), definition, place)
