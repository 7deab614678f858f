"""The notes that parts of twist-dr leave in the catalog: what earlier versions wrote is read, and written again it is the same."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select

from twist_dr.catalog import Catalog, notes
from twist_dr.catalog.models import Marks
from twist_dr.catalog.notes import Note

_AT = "2026-11-21T02:00:00.123456+00:00"
_REPAIR = {"backup_id": "wal/7/00000001/x", "target": "office", "at": _AT, "what": "other bytes", "source": "archive"}
_WAY = {"backup_id": "20261121T020000Z-full-3f9a", "phases": {"fetch": 0.1}, "seconds": 0.1}

#: By the name under which it lies in the catalog, each kind of note as the version before its type was known wrote it.
_WRITTEN: dict[str, tuple[type[Note], dict[str, Any]]] = {
    "alerts": (
        notes.Watched,
        {
            "since": _AT,
            "schedules": {"full": {"cron": "0 2 * * *", "time_zone": "UTC", "since": _AT}},
            "targets": {"office": _AT},
        },
    ),
    "daemon": (
        notes.DaemonTick,
        {"at": _AT, "file": None, "settings": "salt:digest", "version": "1.0", "stopped": ["full_schedule"]},
    ),
    "settings:0123456789ab": (notes.Fingerprints, {"database.url": "5e88", "storage_targets.office.path": "a1"}),
    "rebuilt": (notes.Rebuilt, {"at": _AT}),
    "wal window:office": (notes.WalWindow, {"seconds": None}),
    "scrub": (notes.Scrubbed, {"targets": {"office": _AT}}),
    "archived:office": (notes.ArchivedCopies, {"copies": {"20251121T020000Z-full-3f9a": "GLACIER"}}),
    "scrub:wal:office": (notes.WalScrubbed, {"after": None, "bad": {"key": "why"}, "at": _AT}),
    "repairs": (notes.Repairs, {"repairs": [_REPAIR]}),
    "drill": (
        notes.Drilled,
        {
            "at": _AT,
            "target": "office",
            "ok": False,
            "error": "it took too long",
            "objective_seconds": 3600.0,
            "ways": {"restore": _WAY},
            "run_id": "run-1",
        },
    ),
    "history": (notes.HistorySize, {"at": _AT, "bytes": 4096, "bytes_per_day": 12.5}),
}


def test_each_kind_of_note_is_known_by_what_was_written_of_it() -> None:
    assert {kind for kind, _ in _WRITTEN.values()} == set(Note.__subclasses__())


@pytest.mark.parametrize("name", _WRITTEN)
def test_a_note_of_an_earlier_version_is_read_and_stays_as_it_was_written(catalog: Catalog, name: str) -> None:
    kind, document = _WRITTEN[name]
    assert catalog.note("erp", kind) is None
    with catalog._database.writing() as connection:
        connection.execute(insert(Marks.table).values({"application": "erp", "name": name, "document": document}))
    of = name.removeprefix(kind.mark).removeprefix(":") or None
    found = catalog.note("erp", kind, of)
    assert found is not None and catalog.note("shop", kind, of) is None
    catalog.leave_note("erp", found, of)
    with catalog._database.reading() as connection:
        assert connection.execute(select(Marks.name, Marks.document)).all() == [(name, document)]
