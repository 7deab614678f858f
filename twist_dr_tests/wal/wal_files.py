"""What the tests of WAL share: real segments, a spool with targets, and what a target holds in plain bytes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from twist_dr.postgres.lsn import parse_lsn
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.patience import patient
from twist_dr.system.progress import Lines, Report
from twist_dr.wal.archived import Shipped
from twist_dr.wal.destinations import Destination
from twist_dr.wal.holdings import Holdings
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.pages import PageCheck
from twist_dr.wal.primary import Sample, Slot
from twist_dr.wal.shipping import Shipper
from twist_dr.wal.spool import Spool
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.servers import PostgresServer

MB = 1 << 20
ZSTD = Form("zstd", True)
NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Wal:
    """Consecutive whole segments of a real cluster, as files."""

    identifier: str
    major: int
    paths: list[Path]

    def segment(self, place: int) -> Segment:
        return Segment.named(self.paths[place].name, MB)


def make_wal(server: PostgresServer, folder: Path, count: int = 6) -> Wal:
    """Have a server write ``count`` segments and copy them into ``folder``."""
    names = []
    with server.cluster().connect() as connection:

        def ask(statement: str) -> str:
            row = connection.execute(statement.encode()).fetchone()
            assert row is not None
            return str(row[0])

        ask("SELECT pg_switch_wal()")
        for place in range(count):
            ask(f"SELECT pg_logical_emit_message(false, 'filler', repeat(md5('{place}'), 20000))")
            names.append(ask("SELECT pg_walfile_name(pg_switch_wal())"))
        identifier = ask("SELECT system_identifier FROM pg_control_system()")
        ask("SELECT pg_logical_emit_message(true, 'after', 'the last switch')")
        for name in names:
            shutil.copyfile(server.base / "data" / "pg_wal" / name, folder / name)
    return Wal(identifier, server.major, [folder / name for name in names])


def holdings(target: StorageTarget, identifier: str) -> Holdings:
    return WalArchive(target, "erp").holdings(identifier, MB)


def held_segments(target: StorageTarget, identifier: str) -> list[str]:
    """Names of the whole segments that a target lists."""
    return sorted(segment.name for segment in holdings(target, identifier).segments)


def plain(target: StorageTarget, identifier: str, key: str, keyring: Keyring = KEYRING) -> bytes:
    return b"".join(WalArchive(target, "erp").read(identifier, key, keyring))


@dataclass
class Round:
    """A spool, its targets, and a shipper that lives as long as one process would."""

    folder: Path
    targets: dict[str, StorageTarget] = field(default_factory=dict)
    required: list[str] | None = None
    warnings: list[str] = field(default_factory=list)
    patience: float | None = None
    keyring: Keyring = KEYRING
    shipper: Shipper | None = None
    #: How often a target gets write-ahead log, in bundles; others get it at once.
    every: dict[str, timedelta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.targets:
            self.targets = {name: LocalTarget(name, self.folder / name) for name in ("office", "archive")}
        self.spool = Spool(self.folder / "spool")
        self.spool.prepare()

    def ship(self, sample: Sample | None = None, *, heartbeat: float = 60.0, everything: bool = False) -> Shipped:
        """One round of the process that runs; the first begins it."""
        if self.shipper is None:
            self.shipper = Shipper(
                "erp",
                self.spool,
                {
                    name: Destination(
                        WalArchive(patient(target, self.patience), "erp"), ZSTD, self.every.get(name, timedelta(0))
                    )
                    for name, target in self.targets.items()
                },
                self.keyring,
                Report(Lines(warning=self.warnings.append)),
                required=self.required,
                heartbeat_seconds=heartbeat,
            )
        return self.shipper.ship(sample, everything=everything)

    def restart(self) -> None:
        """As if the process had ended; nothing is told to anybody."""
        if self.shipper is not None:
            self.shipper.close()
        self.shipper = None
        self.spool = Spool(self.folder / "spool")

    def archive(self, *paths: Path, name: str | None = None, age: float = 60) -> Path:
        """Put files into the spool as an archiver does, some time ago."""
        for path in paths:
            place = self.spool.archived / (name or path.name)
            shutil.copyfile(path, place)
            os.utime(place, (time.time() - age,) * 2)
        return place

    def receive(self, identifier: str, name: str, data: bytes) -> Path:
        """Put a file into the spool as pg_receivewal does."""
        folder = self.spool.received(identifier)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return folder / name

    def spooled(self) -> list[str]:
        return sorted(file.name for file in self.spool.files())

    def held(self, target: str, identifier: str) -> list[str]:
        return held_segments(self.targets[target], identifier)

    def partials(self, target: str, identifier: str) -> list[str]:
        return sorted(partial.name for partial in holdings(self.targets[target], identifier).partials)


def said(identifier: str, lsn: int, *, received: int | None = None, minutes: float = 0, timeline: int = 1) -> Sample:
    """What a primary says at a time after noon."""
    slot = None if received is None else Slot(received, "reserved", True)
    return Sample(NOON + timedelta(minutes=minutes), lsn, identifier, timeline, MB, False, "replica", slot)


def one(server: PostgresServer, statement: str) -> str:
    with server.cluster().connect() as connection:
        row = connection.execute(statement.encode()).fetchone()
    return str(row[0]) if row else ""


def current_lsn(server: PostgresServer) -> int:
    return parse_lsn(one(server, "SELECT pg_current_wal_lsn()"))


def check_segment(data: bytes, segment: Segment, system_identifier: str, what: str, *, whole: bool = True) -> None:
    """Look at every page of a segment in memory."""
    check = PageCheck(segment, system_identifier, what, whole=whole)
    check.update(data)
    check.finish()


def changed(data: bytes, change: Callable[[bytearray], object]) -> bytes:
    copy = bytearray(data)
    change(copy)
    return bytes(copy)
