"""What 100,000 backups cost, measured: planning what stays and what goes on a target, and pages of the catalog by every filter."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import insert

from twist_dr.catalog import Catalog
from twist_dr.catalog.models import Backups, Copies, Verifications
from twist_dr.catalog.queries import searched
from twist_dr.repository.manifest import Kind
from twist_dr.retention.model import BackupFacts, CopyState
from twist_dr.retention.plan import plan_target
from twist_dr.settings.policy import Policy
from twist_dr_tests.bench.measure import BENCH, Row, median_of, median_seconds

COUNT = 100_000
NOW = datetime(2026, 11, 21, 6, tzinfo=timezone.utc)
USUAL = [
    Policy(daily=7, weekly=4, monthly=12, yearly=10, last={"pre-update": 3, "pre-restore": 3}, wal=timedelta(days=30)),
    Policy(kinds=frozenset({"full"}), max_age=timedelta(days=365), max_count=500, max_bytes=10**12),
]
#: Everything is asked of every backup, and most of them stay.
WIDE = [Policy(daily=COUNT, weekly=COUNT, monthly=COUNT, yearly=COUNT, max_count=COUNT, max_bytes=10**18)]


def many_backups(count: int) -> list[BackupFacts]:
    """One an hour, of all kinds and states; bases in chains of seven."""
    chance, chain = random.Random(1), ()  # type: ignore[var-annotated]
    found = []
    kinds: tuple[Kind, ...] = ("full", "base", "configuration", "tenant")
    states: tuple[CopyState, ...] = ("checked", "corrupt", "failed")
    for place in range(count):
        kind, taken = kinds[place % 4], NOW - timedelta(hours=count - place)
        name = f"{taken:%Y%m%dT%H%M%SZ}-{kind}-{place:05x}"
        if kind == "base":
            chain = (*(chain if len(chain) < 7 else ()), name)
        found.append(
            BackupFacts(
                id=name,
                kind=kind,
                label="scheduled",
                taken_at=taken,
                state=chance.choices(states, (95, 3, 2))[0],
                verified=None if kind == "configuration" else chance.choice((True, None, None, False)),
                stored_bytes=chance.randrange(1 << 30),
                chain=chain if kind == "base" else (),
            )
        )
    return found


#: What people ask for; of those that find nothing every backup is looked at.
PAGES: dict[str, dict[str, Any]] = {
    "all": {},
    "kind": {"kind": "base"},
    "label_of_none": {"label": "pre-update"},
    "since_until": {"since": NOW - timedelta(days=3000), "until": NOW - timedelta(days=2000)},
    "target": {"target": "nas"},
    "target_of_none": {"target": "tape"},
    "corrupt": {"state": "corrupt"},
    "target_corrupt": {"target": "nas", "state": "corrupt"},
    "state_of_none": {"state": "failed"},
    "target_state_of_none": {"target": "nas", "state": "failed"},
    "search": {"search": "NACHT"},
    "search_of_none": {"search": "nothing like it"},
    "everything": {"search": "nacht", "kind": "base", "label": "scheduled", "target": "nas", "state": "failed", "until": NOW},
}  # fmt: skip


def fill_catalog(catalog: Catalog, backups: Sequence[BackupFacts]) -> None:
    """Record backups with manifests of 4 KB, each with copies on three targets; those that were verified with that."""
    chance, rest = random.Random(2), iter(backups)
    names = [{"table": f"public.table_{chance.getrandbits(64):x}", "rows": chance.randrange(10**6)} for _ in range(64)]
    while some := list(islice(rest, 5000)):
        with catalog._database.writing() as connection:
            connection.execute(insert(Backups.table), [_backup(each, json.dumps(names)) for each in some])
            connection.execute(insert(Copies.table), [copy for each in some for copy in _copies(each)])
            proven = [each for each in some if each.verified is not None]
            connection.execute(insert(Verifications.table), [_verification(each) for each in proven])


def _backup(backup: BackupFacts, manifest: str) -> dict[str, Any]:
    texts = {"reason": "jede Nacht, wie vereinbart", "who": "ops@host", "app_version": "3.2", "db_schema_version": "0123456789ab"}  # fmt: skip
    return {
        "backup_id": backup.id, "application": "erp", "kind": backup.kind, "label": backup.label, **texts,
        "search": searched(backup.id, *texts.values()), "started_at": backup.taken_at, "finished_at": backup.taken_at,
        "parts": ["database", "media"], "plain_bytes": 100, "staged_bytes": 60, "key_id": "k1", "warnings": 0,
        "chain": backup.chain or None, "manifest": manifest,
    }  # fmt: skip


def _copies(backup: BackupFacts) -> Iterator[dict[str, Any]]:
    for target in ("nas", "office", "s3"):
        yield {
            "backup_id": backup.id, "target": target, "form": "zstd+enc", "stored_bytes": backup.stored_bytes, "seconds": 1.0,
            # Few are corrupt: all of them are looked for.
            "state": "corrupt" if backup.state == "corrupt" and backup.id.endswith("7") else "checked",
            "updated_at": backup.taken_at, "checked_at": backup.taken_at,
        }  # fmt: skip


def _verification(backup: BackupFacts) -> dict[str, Any]:
    return {
        "backup_id": backup.id, "target": "office", "state": "verified" if backup.verified else "unverified",
        "started_at": backup.taken_at, "seconds": 1, "tables": 1, "rows": 1, "files": 1, "differences": [], "notes": [],
    }  # fmt: skip


def _busy(way: Callable[[], object]) -> float:
    """The processor's seconds: one thread that waits for nothing needs no more than these where nobody else works."""
    begun = time.process_time()
    way()
    return time.process_time() - begun


def bench_retention(megabytes: int, rounds: int) -> list[Row]:
    """The plan of a usual policy, and of one that asks everything of everything; what the catalog takes to tell."""
    backups, zone = many_backups(COUNT), ZoneInfo("Europe/Berlin")
    catalog = Catalog(f"sqlite:///{BENCH / 'catalog' / 'catalog.db'}")
    fill_catalog(catalog, backups)
    ways = {name: partial(catalog.backups, application="erp", limit=50, **filters) for name, filters in PAGES.items()}
    pages = median_seconds(max(rounds, 5), **ways)
    seconds = median_of(
        rounds,
        rows=lambda: _busy(lambda: catalog.retention_rows("erp", "office")),
        usual=lambda: _busy(lambda: plan_target("office", backups, USUAL, now=NOW, time_zone=zone)),
        wide=lambda: _busy(lambda: plan_target("office", backups, WIDE, now=NOW, time_zone=zone)),
    )
    slowest, plan, told = max(pages.values()), seconds["usual"], seconds["rows"]
    return [
        Row(f"the slowest page of 50 of {COUNT:,} backups, SQLite", "at most 0.1 s", slowest, slowest <= 0.1, pages),
        Row(f"retention plan over {COUNT:,} backups, processor time", "at most 1 s", plan, plan <= 1, seconds),
        Row("the same, every rule asking of every backup", "at most 1.5 s", seconds["wide"], seconds["wide"] <= 1.5, {}),
        Row("what the catalog tells for it", "at most 1 s", told, told <= 1, {}),
    ]  # fmt: skip
