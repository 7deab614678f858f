"""Base backups of a primary as plain files, its archive, and plans to recover them."""

from __future__ import annotations

import copy
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from twist_dr.errors import WalMissing
from twist_dr.postgres.cluster import Cluster, read_facts
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.surroundings import with_surroundings
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.plan import Lost, RecoveryPlan, Stop
from twist_dr.recovery.target import parse_target
from twist_dr.repository.manifest import Artifact, BaseFacts, Manifest, Tablespace
from twist_dr.system.processes import run
from twist_dr.wal.history import parse_history
from twist_dr.wal.names import Segment, history_name
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.primaries import MB, Point, Primary
from twist_dr_tests.wal.wal_files import check_segment

T = TypeVar("T")


class World:
    """A primary with a base backup, two points after it, and everything archived."""

    def __init__(self, tools: Tools, folder: Path) -> None:
        self.primary = Primary(tools, folder)
        self.tools = self.primary.tools
        self.primary.write(50)
        self.base = Base(self.primary, "base0")
        self.primary.write(3000)
        self.early = self.primary.mark()
        self.primary.write(1000)
        self.late = self.primary.mark()
        self.primary.write(100)
        self.primary.archived()

    def plan(self, point: Point | None = None) -> RecoveryPlan:
        return plan_of(self.primary, [self.base], point or self.late)

    def plan_from(self, chain: list[Base], point: Point) -> RecoveryPlan:
        return plan_of(self.primary, chain, point)

    def copied_archive(self, folder: Path) -> PlainArchives:
        """The archive in a folder of its own, to be damaged."""
        copied = Path(tempfile.mkdtemp(dir=folder)) / "archive"
        shutil.copytree(self.primary.archive, copied)
        return PlainArchives(copied, archives_of(self.primary).identifier)


def rows(cluster: Cluster) -> int:
    with cluster.connect() as connection:
        return int(connection.execute("SELECT count(*) FROM log").fetchall()[0][0])


class Base:
    """A base backup as tar files in a folder, read as if from a storage target."""

    def __init__(self, primary: Primary, name: str, parent: Base | None = None) -> None:
        self.folder = primary.base / name
        environment = primary.cluster().environment()
        arguments: list[str | Path] = [
            primary.tools.program("pg_basebackup"),
            "-Ft",
            "-D",
            self.folder,
            "-X",
            "none",
            "-c",
            "fast",
        ]
        if parent is not None:
            arguments.append(f"--incremental={parent.folder / 'backup_manifest'}")
        run(arguments, environment=environment, folder=primary.base)
        label = run(["tar", "-xOf", self.folder / "base.tar", "backup_label"]).decode().splitlines()
        start, segment = label[0].split()[3], label[0].split()[-1].rstrip(")")
        with primary.cluster().connect() as connection:
            postgres = with_surroundings(read_facts(connection, "test"), primary.cluster())
        spaces = [
            Tablespace(oid=int(str(oid)), name=str(name), location=str(place), size=None)
            for oid, name, place in primary.sql(
                "SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16383"
            )
        ]
        self.manifest = Manifest.model_construct(
            backup_id=name,
            application="erp",
            postgres=postgres,
            artifacts=[
                Artifact(name=path.name, part="cluster", size=path.stat().st_size, sha256="0" * 64, stored={})
                for path in sorted(self.folder.iterdir())
            ],
            base=BaseFacts(
                parent=parent.manifest.backup_id if parent else None,
                chain=[name],
                timeline=int(segment[:8], 16),
                start_lsn=start,
                stop_lsn=primary.one("SELECT pg_current_wal_lsn()"),
                started_at=datetime.now(timezone.utc),
                stopped_at=datetime.now(timezone.utc),
                wal_segment_size=MB,
                data_checksums=True,
                from_standby=False,
                tablespaces=spaces,
                restore_point=None,
                restore_point_lsn=None,
                cluster_settings={"max_connections": 100},
            ),
        )

    def copied(self, folder: Path) -> Base:
        """The same in a folder of its own, to be damaged."""
        other = copy.copy(self)
        other.folder = folder / self.folder.name
        shutil.copytree(self.folder, other.folder)
        return other

    # -- as Sources, and as the Repository that it gives to its work -------------------------------------------------

    target = type("Target", (), {"name": "plain"})()

    def stored_size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def fetch(self, name: str, path: Path) -> None:
        path.touch(0o600)
        path.write_bytes((self.folder / name).read_bytes())

    def attempt(self, work: Callable[[Base], T]) -> T:
        return work(self)

    def read(self, name: str, progress: Callable[[int], None]) -> Iterator[bytes]:
        with (self.folder / name).open("rb") as file:
            while chunk := file.read(1 << 20):
                progress(len(chunk))
                yield chunk


class PlainArchives:
    """The archive folder as Archives gives it: checked segments, or WalMissing. ``delay`` in seconds per segment."""

    def __init__(self, folder: Path, system_identifier: str, delay: float = 0.0) -> None:
        self.folder, self.identifier, self.delay = folder, system_identifier, delay
        self.fetched: list[str] = []
        #: How many requests are still answered; segments are asked for side by side.
        self.gone_after: int | None = None
        self._asked = itertools.count()

    def fetch_segment(self, segment: Segment, path: Path, *, durable: bool = True) -> None:
        time.sleep(self.delay)
        if self.gone_after is not None and next(self._asked) >= self.gone_after:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise WalMissing(f"No storage target gives {segment.name}: it is gone.")
        try:
            data = (self.folder / segment.name).read_bytes()
        except OSError as error:
            raise WalMissing(f"No storage target gives {segment.name}: {error.strerror}.") from None
        check_segment(data, segment, self.identifier, segment.name)
        self.fetched.append(segment.name)
        path.write_bytes(data)

    def fetch_partial(self, partial: PartialSegment, path: Path, *, durable: bool = True) -> None:
        data = (self.folder / f"{partial.segment.name}.partial").read_bytes()[: partial.size]
        path.write_bytes(data + bytes(partial.segment.size - partial.size))

    def fetch_history(self, timeline: int, path: Path) -> None:
        try:
            shutil.copyfile(self.folder / history_name(timeline), path)
        except OSError:
            raise WalMissing(f"No storage target gives {history_name(timeline)}.") from None


def archives_of(primary: Primary, delay: float = 0.0) -> PlainArchives:
    return PlainArchives(primary.archive, primary.identifier, delay)


def plan_of(primary: Primary, chain: list[Base], point: Point, timeline: int = 1) -> RecoveryPlan:
    """From the last base of the chain up to a point, on a timeline that the archive folder tells."""
    history = primary.archive / history_name(timeline)
    ancestors = tuple(parse_history(history.read_bytes(), timeline, "test")) if timeline > 1 else ()
    facts = chain[-1].manifest.base
    assert facts is not None
    switches = {ancestor.timeline: ancestor.switched_at for ancestor in ancestors}
    segments = []
    for name in sorted(path.name for path in primary.archive.iterdir() if len(path.name) == 24):
        segment = Segment.named(name, MB)
        begins = max([at for line, at in switches.items() if line < segment.timeline], default=0)
        ends = min(switches.get(segment.timeline, point.lsn + MB), point.lsn + MB)
        if (
            segment.timeline <= timeline
            and segment.end > max(begins, parse_lsn(facts.start_lsn))
            and segment.start < ends
        ):
            segments.append(segment)
    return RecoveryPlan(
        target=parse_target(f"lsn:{format_lsn(point.lsn)}", now=datetime.now(timezone.utc)),
        chain=tuple(base.manifest for base in chain),
        timeline=timeline,
        ancestors=ancestors,
        stop=Stop(point.lsn, False),
        end_lsn=point.lsn,
        last_commit_at=point.last,
        noted_at=point.last,
        segments=tuple(segments),
        partial=None,
        histories=tuple(line for line in range(2, timeline + 1)),
        stored_bytes=0,
        lost=Lost(0, None, None, 0, False),
        warnings=(),
    )
