"""Long lists are written as they are read: lists of backups and of files that differ take no more memory for being long."""

from __future__ import annotations

import contextlib
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twist_dr.backup import diff_files
from twist_dr.backup.diff_files import Names
from twist_dr.catalog import Catalog
from twist_dr.catalog import catalog as catalog_module
from twist_dr.cli import listing
from twist_dr.cli.backups import write_csv
from twist_dr.cli.output import json_pieces
from twist_dr.errors import ArtifactInvalid, BackupError
from twist_dr.repository.archive_index import ArchiveEntry
from twist_dr_tests.bench.retention import fill_catalog, many_backups
from twist_dr_tests.catalog.examples import NIGHT, record


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python held at most meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Nowhere(io.TextIOBase):
    """Counts the characters that are written to it."""

    written = 0

    def write(self, text: str) -> int:
        self.written += len(text)
        return len(text)


@pytest.mark.parametrize(
    "value", [[], {}, {"a": []}, [1, "a\nb", {"b": [2, {}]}], {"a": {"b": [1], "c": None}, "d": "ü"}], ids=repr
)
def test_what_is_written_in_pieces_is_what_json_writes_whole(value: Any) -> None:
    pieces = iter(value) if isinstance(value, list) else value
    assert "".join(json_pieces(pieces)) == json.dumps(value, indent=2)


def test_arrays_within_a_document_are_written_in_pieces_too() -> None:
    names = Names()
    text = "".join(json_pieces({"files": {"none": Names(), "some": names}}))
    assert text == json.dumps({"files": {"none": [], "some": []}}, indent=2)
    for name in ("a\n", "\udcff"):
        names.add(name)
    assert json.loads("".join(json_pieces({"some": names}))) == {"some": ["a\n", "\udcff"]} and len(names) == 2


def test_backups_come_one_by_one_as_they_do_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    for number in range(7):
        # Several of one moment, across the border between two portions.
        record(catalog, number, started_at=NIGHT, label="manual" if number % 3 else "scheduled")
    catalog.record_copy(record(catalog, 9), "nas", state="checked", form="zstd")
    monkeypatch.setattr(catalog_module, "_PORTION", 2)
    for wanted in ({}, {"label": "manual"}, {"target": "nas"}, {"search": "nothing like it"}, {"until": NIGHT}):
        for limit in (None, 0, 1, 2, 3, 100):
            wanted = {"application": "erp", **wanted}
            assert list(catalog.each_backup(limit=limit, **wanted)) == catalog.backups(limit=limit, **wanted)


def test_somebody_who_reads_slowly_keeps_nobody_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    for number in range(3):
        record(catalog, number)
    monkeypatch.setattr(catalog_module, "_PORTION", 1)
    monkeypatch.setattr("twist_dr.catalog.database.LOCK_SECONDS", 0.0)
    rows = catalog.each_backup(application="erp")
    next(rows)
    record(Catalog(f"sqlite:///{tmp_path / 'catalog.db'}"), 5)
    assert len(list(rows)) == 2


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_list_of_many_backups_takes_no_memory_for_its_length(tmp_path: Path, form: str) -> None:
    count = 2500
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    fill_catalog(catalog, many_backups(count))
    out = Nowhere()

    def write() -> None:
        rows = catalog.each_backup(application="erp")
        if form == "csv":
            write_csv(rows, out)
        else:
            for piece in json_pieces(map(listing.backup_document, rows)):
                out.write(piece)

    # All at once they took 13 KB each: 32 MB.
    assert peak(write) < 14 << 20
    assert out.written > count * 200


# -- files that differ ------------------------------------------------------------------------------------------------


def entries(count: int, content: str, **more: Any) -> Iterator[ArchiveEntry]:
    yield ArchiveEntry("media", "folder", 0, None, 1.0, **more)
    for number in range(count):
        yield ArchiveEntry(f"media/{number:07}/file.jpg", "file", 7, content, 1.0)


def test_a_difference_of_many_files_takes_no_memory_for_its_length() -> None:
    count = 10_000
    found = []
    assert peak(lambda: found.append(diff_files._merge(entries(count, "a" * 64), entries(count, "b" * 64)))) < 2 << 20
    assert len(found[0].changed) == count and not found[0].added and not found[0].removed
    assert [*found[0].changed][-1] == f"media/{count - 1:07}/file.jpg"


def paths(changes: diff_files.FileChanges) -> tuple[list[str], list[str], list[str]]:
    return list(changes.added), list(changes.removed), list(changes.changed)


def of(*names: str, content: str = "a", **more: Any) -> Iterator[ArchiveEntry]:
    return iter([ArchiveEntry(name, "file", 1, content, 1.0, **more) for name in names])


def test_files_are_found_whatever_sorts_where() -> None:
    # In the archive's order a folder's content comes before its neighbours, though "-" and "." sort before "/".
    before, after = of("m/a", "m/a/x", "m/a-b", "m/c"), of("m/a", "m/a/y", "m/a-b", "m/a.b", "m/c")
    assert paths(diff_files._merge(before, after)) == (["m/a/y", "m/a.b"], ["m/a/x"], [])


def test_other_attributes_are_a_difference_where_both_backups_recorded_them() -> None:
    def index(file: str | None, top: str | None) -> Iterator[ArchiveEntry]:
        yield ArchiveEntry("m", "folder", 0, None, 1.0, top)
        yield from of("m/a", attributes=file)

    changed = lambda old, new: paths(diff_files._merge(index(*old), index(*new)))[2]  # noqa: E731
    assert changed(("x", "none"), ("y", "none")) == ["m/a"] and changed((None, "none"), ("y", "none")) == ["m/a"]
    assert changed((None, None), ("y", "none")) == [], "an earlier version said nothing of them"
    # A further name says nothing of them either: they stand where the file first does.
    further = of("m/b", same_as="m/a")
    assert paths(diff_files._merge(further, of("m/b", attributes="y", names=2)))[2] == []


class Stored:
    """A repository whose target gives an index, or breaks off in it."""

    def __init__(self, target: Any, application: str) -> None:
        self.target = target

    def manifest(self, backup_id: str, keyring: object) -> str:
        return backup_id

    def read(self, backup_id: str, name: str, keyring: object) -> Iterator[bytes]:
        for line in self.target[backup_id]:
            if line is None:
                raise ArtifactInvalid("It breaks off.")
            yield line.line()


class Backup:
    application = "erp"

    def __init__(self, backup_id: str) -> None:
        self.backup_id, self.manifest = backup_id, self

    def artifact(self, name: str) -> object:
        return "configuration" not in name or None


def test_another_target_is_asked_when_one_breaks_off_and_an_old_index_in_another_order_is_sorted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diff_files, "Repository", Stored)
    monkeypatch.setattr(diff_files, "buffered", lambda lines: contextlib.closing(io.BytesIO(b"".join(lines))))
    old, new = list(of("m/a", "m/b", "m/c")), list(of("m/a", "m/d"))
    good: Any = {"old": [old[2], old[0], old[1]], "new": new}
    bad: Any = {"old": [*old[:2], None], "new": new}
    compared = diff_files.compare_files(Backup("old"), Backup("new"), {"bad": bad, "good": good}, None)  # type: ignore[arg-type]
    assert paths(compared["media"]) == (["m/d"], ["m/b", "m/c"], []) and list(compared) == ["media"]
    with pytest.raises(BackupError, match=r"media\.files\.jsonl of old.*bad: It breaks off\."):
        diff_files.compare_files(Backup("old"), Backup("new"), {"bad": bad}, None)  # type: ignore[arg-type]
