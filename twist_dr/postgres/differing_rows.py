"""Which rows of a table are not the same in a dump and in the restored database, in memory that does not grow with the table.

PostgreSQL promises no order of rows: a table that is filled by one COPY nearly always keeps the dump's, but a row that fits into a gap on
an earlier page goes there. So rows are compared as a bag. Each falls into one of some thousand buckets by its hash, and a bucket is the
sum of its rows' hashes: only the rows of those buckets whose sums differ are kept and looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

#: Of a table of 1 GB a bucket holds 256 KB.
_BUCKETS = 4096
#: Of more that are unequal only so many are looked at, and of their rows only so many are kept.
_FEW = 16
_MOST = 20_000
#: An identifier as pg_dump writes it: quoted wherever it is not plain.
_NAME = rb'(?:"(?:[^"]|"")*"|[^" ;,().]+)'
_LOADED = re.compile(
    rb"COPY (" + _NAME + rb"\." + _NAME + rb") (?:\((" + _NAME + rb"(?:, " + _NAME + rb")*)\))? FROM stdin;\s*"
)
_COLUMN = re.compile(_NAME + rb"(?=, |\Z)")
#: As PostgreSQL writes a timestamp with time zone in ISO style, whatever the time zone is.
_INSTANT = re.compile(rb"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(\.\d+)?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?")

RowSource = Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Differing:
    """``dumped`` and ``restored``: the first row that differs, as COPY writes it; None where one side has no such row. ``number``: its place
    in the dump, from 1, or in the restored table where the dump lacks it, 0 where it is none
    of the first rows. ``count``: rows that differ, None for many. ``columns``: that differ."""

    number: int
    dumped: bytes | None
    restored: bytes | None
    count: int | None
    columns: tuple[bytes, ...]


def first_difference(dumped: RowSource, restored: RowSource, load: bytes) -> Differing | None:
    """Compare the rows that both give, which are asked for several times; ``load`` is the COPY of the table. None when all are the same."""
    buckets = _unequal(_sums(dumped()), _sums(restored()))
    if not buckets:
        return None
    some = _first_met(dumped(), buckets) or _first_met(restored(), buckets)
    lacking, added = _lacking(dumped, restored, some), _lacking(restored, dumped, some)
    every = some == buckets and max(len(lacking), len(added)) < _MOST
    count = max(len(lacking), len(added)) if every else None
    if not lacking:
        number, row = added[0] if added else (0, None)
        return Differing(number, None, row, count, ())
    number, row = lacking[0]
    # The restored row that was this one: the one most like it.
    others = (each for _, each in added) if every else restored()
    twin = max(others, key=lambda each: _alike(row, each), default=None)
    return Differing(number, row, twin, count, _columns(row, twin, load))


def copy_statement(load: bytes) -> bytes | None:
    """The statement that reads what ``load`` takes; None where it is not as pg_dump writes it."""
    return load.rstrip().removesuffix(b"FROM stdin;") + b"TO stdout" if _LOADED.fullmatch(load) else None


def at_utc(row: bytes) -> bytes:
    """The row with each timestamp with time zone in UTC, as one server wrote it who has another time zone than the other."""
    return _INSTANT.sub(_in_utc, row)


def columns_at_utc(row: bytes, columns: Container[int]) -> bytes:
    """The row with the timestamps of these columns, counted from 0, in UTC: what reads like one in a text is no timestamp."""
    fields = row.split(b"\t")
    return b"\t".join(at_utc(field) if place in columns else field for place, field in enumerate(fields))


def _in_utc(found: re.Match[bytes]) -> bytes:
    year, month, day, hour, minute, second = (int(found[group]) for group in range(1, 7))
    offset = timedelta(hours=int(found[9]), minutes=int(found[10] or 0), seconds=int(found[11] or 0))
    try:
        local = datetime(year, month, day, hour, minute, second)
        moment = local - offset if found[8] == b"+" else local + offset
    except (ValueError, OverflowError):
        return found[0]
    return f"{moment:%Y-%m-%d %H:%M:%S}".encode() + (found[7] or b"") + b"+00"


def _hash(row: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(row, digest_size=16).digest(), "big")


def _sums(rows: Iterable[bytes]) -> list[int]:
    sums = [0] * _BUCKETS
    for row in rows:
        value = _hash(row)
        sums[value % _BUCKETS] += value
    return sums


def _unequal(first: list[int], second: list[int]) -> set[int]:
    return {bucket for bucket, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1]}


def _first_met(rows: Iterable[bytes], buckets: set[int]) -> set[int]:
    """All of these buckets when they are few, else those into which the first rows fall."""
    if len(buckets) <= _FEW:
        return buckets
    met: set[int] = set()
    for row in rows:
        if (bucket := _hash(row) % _BUCKETS) in buckets:
            met.add(bucket)
            if len(met) == _FEW:
                break
    return met


def _lacking(rows: RowSource, others: RowSource, buckets: set[int]) -> list[tuple[int, bytes]]:
    """Rows of those buckets that the others have not, or not so often, with their numbers, as far as they are looked at."""
    met = ((number, row) for number, row in enumerate(rows(), 1) if _hash(row) % _BUCKETS in buckets)
    kept = list(islice(met, _MOST))
    wanted = {row for _, row in kept}
    there = Counter(row for row in others() if row in wanted)
    lacking = []
    for number, row in kept:
        there[row] -= 1
        if there[row] < 0:
            lacking.append((number, row))
    return lacking


def _alike(row: bytes, other: bytes) -> tuple[bool, int]:
    """The first column is nearly always the key."""
    fields, others = row.split(b"\t"), other.split(b"\t")
    return fields[0] == others[0], sum(one == two for one, two in zip(fields, others, strict=False))


def _columns(row: bytes | None, other: bytes | None, load: bytes) -> tuple[bytes, ...]:
    loaded = _LOADED.fullmatch(load)
    if row is None or other is None or loaded is None or loaded[2] is None:
        return ()
    names = _COLUMN.findall(loaded[2])
    fields, others = row.split(b"\t"), other.split(b"\t")
    if not len(names) == len(fields) == len(others):
        return ()
    return tuple(name for name, one, two in zip(names, fields, others, strict=True) if one != two)
