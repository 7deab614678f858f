"""Entries of a dump that several jobs may not restore beside the others, because the dump lacks what they depend on."""

from __future__ import annotations

from pathlib import Path

from twist_dr.postgres.dump_toc import UnknownDump, read_entries, read_header

_TRIGGER, _EVENT_TRIGGER = b"TRIGGER", b"EVENT TRIGGER"


def late_entries(dump: Path) -> set[int]:
    """Numbers of the entries that a single job must restore when all others are there; mostly none.

    A partition has its trigger from the table it belongs to. Where it is enabled otherwise there, pg_dump writes an entry with nothing
    but ``ALTER TABLE ... DISABLE TRIGGER``, and does not say that it needs the entry that makes the trigger. Event triggers follow it,
    as they follow all definitions, or they would see it.
    """
    late: set[int] = set()
    try:
        with dump.open("rb") as file:
            entries = list(read_entries(file, read_header(file), (_TRIGGER,)))
    except UnknownDump:
        return late  # pg_restore says what is wrong with it
    late |= {
        each.number for each in entries if each.kind == _TRIGGER and each.definition.lstrip().startswith(b"ALTER ")
    }
    if late:
        late |= {each.number for each in entries if each.kind == _EVENT_TRIGGER}
        late |= {each.number for each in entries if each.needs & late}
    return late
