"""Real WAL with a known story: rows written one by one, base backups, restore points, a timeline that is left and one that goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from twist_dr.postgres.lsn import format_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.ground import ClusterArchive
from twist_dr.recovery.plan import RecoveryPlan, make_plan
from twist_dr.recovery.planning import RecoveryRequest, plan_recovery
from twist_dr.recovery.target import parse_target
from twist_dr.repository.manifest import MANIFEST_NAME, Artifact, BaseFacts, KeyName, Manifest, PostgresFacts
from twist_dr.repository.repository import Repository
from twist_dr.repository.streams import Form
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr.wal.archived import Known
from twist_dr.wal.bundles import bundle_name
from twist_dr.wal.names import kind_of, timeline_of
from twist_dr.wal.objects import HISTORY_FORM, WalArchive, associated_data
from twist_dr.wal.packing import file_chunks, pack, plain_object
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.helpers import KEY, KEYRING
from twist_dr_tests.primaries import MB, Primary, Row

FORM = Form("zstd", True)


def facts_of_base(primary: Primary, backup_id: str) -> Manifest:
    """The facts of a base backup that begins and ends here; nothing is copied."""
    with primary.cluster().connect() as connection:
        started = datetime.now(timezone.utc)
        start = connection.execute("SELECT pg_backup_start('test', true)::text").fetchone()[0]  # type: ignore[index]
        stop = connection.execute("SELECT lsn::text FROM pg_backup_stop(false)").fetchone()[0]  # type: ignore[index]
        timeline = connection.execute("SELECT timeline_id FROM pg_control_checkpoint()").fetchone()[0]  # type: ignore[index]
    stopped = datetime.now(timezone.utc)
    size = primary.segment_mb * MB
    return base_manifest(backup_id, primary.identifier, timeline, start, stop, started, stopped, size, primary.major)


def base_manifest(
    backup_id: str, identifier: str, timeline: int, start: str, stop: str, started: datetime, stopped: datetime,
    segment_size: int, major: int, parent: Manifest | None = None,
) -> Manifest:  # fmt: skip
    """What planning needs to know of a base backup."""
    chain = [*(parent.base.chain if parent and parent.base else []), backup_id]
    artifact = Artifact.model_validate(
        {"name": "base.tar", "part": "cluster", "size": 2000, "sha256": "0" * 64,
         "stored": {"zstd+enc": {"name": "base.tar.zst.enc", "size": 1000, "sha256": "0" * 64}}}
    )  # fmt: skip
    facts = BaseFacts(
        parent=parent.backup_id if parent else None, chain=chain, timeline=timeline, start_lsn=start, stop_lsn=stop,
        started_at=started, stopped_at=stopped, wal_segment_size=segment_size, data_checksums=True, from_standby=False,
        tablespaces=[], restore_point=None, restore_point_lsn=None, cluster_settings={},
    )  # fmt: skip
    postgres = PostgresFacts(
        version=f"{major}.0", version_number=major * 10000, system_identifier=identifier, lsn=stop, timeline=timeline,
        in_recovery=False, database="erp", database_size=1, encoding="UTF8", collate="C", ctype="C", locale_provider="c",
        locale=None, extensions=[], bootstrap_role="postgres", dumped_as="postgres", client_version=f"{major}.0",
    )  # fmt: skip
    return Manifest(
        format_version="1.0", application="erp", app_version=None, git_revision=None, backup_id=backup_id, kind="base",
        label="manual", reason="", who="test", parts=["cluster"], started_at=started, snapshot_at=None, finished_at=stopped,
        postgres=postgres, db_schema_version=None, migrations={}, tables={}, large_objects=0, artifacts=[artifact], files={},
        storage_targets={}, durations={}, warnings=[], key=KeyName(id=KEY.id, check_value=KEY.check_value), base=facts,
    )  # fmt: skip


@dataclass
class Material:
    """An archive on one or more targets below ``folder``, with the base backups that go with it."""

    folder: Path
    tools: Tools
    identifier: str
    size: int = MB
    bases: list[Manifest] = field(default_factory=list)

    def archive(self, target: str = "office") -> WalArchive:
        place = self.folder / target
        place.mkdir(exist_ok=True)
        return WalArchive(LocalTarget(target, place), "erp")

    def ship(self, wal: Path, target: str = "office") -> None:
        """Store every segment and history file of a folder."""
        for path in sorted(wal.iterdir()):
            if kind_of(path.name) == "segment":
                self._put(target, path, timeline_of(path.name), path.name)
            elif kind_of(path.name) == "history":
                self.put_history(timeline_of(path.name), path, target)

    def ship_bundled(self, wal: Path, target: str = "office", *, count: int = 4) -> None:
        """Store every segment and history file of a folder, as many segments of one timeline as one object."""
        archive, paths = self.archive(target), sorted(path for path in wal.iterdir() if kind_of(path.name) == "segment")
        for path in sorted(wal.iterdir()):
            if kind_of(path.name) == "history":
                self.put_history(timeline_of(path.name), path, target)
        for timeline in sorted({timeline_of(path.name) for path in paths}):
            line = [path for path in paths if timeline_of(path.name) == timeline]
            for place in range(0, len(line), count):
                files = {path.name: path for path in line[place : place + count]}
                name = next(iter(files)) if len(files) == 1 else bundle_name(min(files), max(files))
                key = archive.key(self.identifier, timeline, name, FORM)
                self._pack(archive, plain_object(files), key, name, FORM)

    def put_history(self, timeline: int, path: Path, target: str = "office") -> None:
        archive = self.archive(target)
        name = f"{timeline:08X}.history"
        self._store(archive, path, archive.history_key(self.identifier, timeline), name, HISTORY_FORM)

    def put_partial(self, source: Path, partial: PartialSegment, target: str = "office") -> None:
        self._put(target, source, partial.segment.timeline, partial.name, partial.size)

    def _put(self, target: str, path: Path, timeline: int, name: str, size: int | None = None) -> None:
        archive = self.archive(target)
        self._store(archive, path, archive.key(self.identifier, timeline, name, FORM), name, FORM, size)

    def _store(self, archive: WalArchive, path: Path, key: str, name: str, form: Form, size: int | None = None) -> None:
        self._pack(archive, file_chunks(path, size), key, name, form)

    def _pack(self, archive: WalArchive, plain: Iterable[bytes], key: str, name: str, form: Form) -> None:
        packed = Path(tempfile.mkdtemp(dir=self.folder)) / "packed"
        digest = pack(plain, packed, form, KEY, associated_data("erp", self.identifier, name))
        archive.put(packed, key, digest)
        shutil.rmtree(packed.parent)

    def object(self, name: str, target: str = "office") -> Path:
        """The file of the object whose name begins so."""
        (found,) = (self.folder / target).rglob(f"{name}*.enc")
        return found

    def copied(self, folder: Path) -> Material:
        """The same in another folder, to take away from."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Material(folder, self.tools, self.identifier, self.size, list(self.bases))

    def archives(self, *targets: str, report: Report | None = None) -> Archives:
        reached = [self.archive(target) for target in targets or ("office",)]
        return Archives(reached, KEYRING, report or Report(), self.identifier, self.size)

    def plan(
        self, to: str, *targets: str, timeline: int | None = None, bases: Sequence[Manifest] | None = None
    ) -> RecoveryPlan:
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix="work-"))
        target = parse_target(to, now=datetime.now(timezone.utc) + timedelta(days=400))
        taken = {base.backup_id: base for base in (self.bases if bases is None else bases)}
        return make_plan(
            target, self.ground(list(taken.values()), work, *targets, timeline=timeline), taken.__getitem__
        )

    def ground(
        self, bases: Sequence[Manifest], work: Path, *targets: str, timeline: int | None = None
    ) -> ClusterArchive:
        """What a recovery from these base backups can stand on."""
        return ClusterArchive(bases, self.archives(*targets), self.tools, work, Report(), timeline)

    def store_bases(self, *bases: Manifest, target: str = "office") -> None:
        """Put the manifests of base backups, as base backups are written, onto a target; what they name is not there."""
        for base in bases:
            path = self.folder / target / "erp" / "backups" / base.backup_id / MANIFEST_NAME
            path.parent.mkdir(parents=True)
            path.write_bytes(base.seal(KEY))

    def requested(self, request: RecoveryRequest, *targets: str, known: Sequence[Known] = ()) -> RecoveryPlan:
        """What comes of a request, from the targets and what was known of them; one without a folder does not answer."""
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix="work-"))
        repositories = [
            Repository(LocalTarget(target, self.folder / target), "erp") for target in targets or ("office",)
        ]
        now = datetime.now(timezone.utc) + timedelta(days=400)
        plan = plan_recovery(
            request, repositories, KEYRING, [self.tools.folder], work, Report(), now=now, known=known
        ).plan
        assert not list(work.iterdir()), "planning left files"
        return plan


def between(some: Row, other: Row) -> str:
    """A moment between two commits, as people write it."""
    return (some.at + (other.at - some.at) / 2).isoformat()


def ended(plan: RecoveryPlan, last: Row, following: Row | None = None) -> None:
    """Fails the test unless replay ends behind the commit of one row, and before that of the next."""
    assert last.after <= plan.end_lsn, f"{format_lsn(plan.end_lsn)} leaves out row {last.number}"
    assert following is None or plan.end_lsn <= following.after - 34, (
        f"{format_lsn(plan.end_lsn)} has row {following.number}"
    )


#: Bytes of the COMMIT record of a transaction that only inserted; it takes up a multiple of 8.
COMMIT = 34


def set_clock(file: Path, row: Row, at: datetime) -> Row:
    """Give a row's COMMIT record in the segment's file another time, as a server whose clock was wrong writes it; the row as it is then."""
    data = bytearray(file.read_bytes())
    # Back from the end of the record, over the header of a page in between.
    places: list[int] = []
    end = row.after - (24 if row.after % 8192 == 24 else 0)  # what is told at a page's beginning is behind its header
    place = end % MB - (40 - COMMIT)
    while len(places) < COMMIT:
        place -= 1 if place % 8192 != 24 else 25
        places.insert(0, place)
    record = bytearray(data[place] for place in places)
    assert int.from_bytes(record[:4], "little") == COMMIT, "not where a COMMIT record begins"
    microseconds = round((at - datetime(2000, 1, 1, tzinfo=timezone.utc)) / timedelta(microseconds=1))
    record[26:34] = microseconds.to_bytes(8, "little")
    record[20:24] = _crc32c(record[24:] + record[:20]).to_bytes(4, "little")
    for place, byte in zip(places, record, strict=True):
        data[place] = byte
    file.write_bytes(data)
    return replace(row, at=at)


def _crc32c(data: bytes) -> int:
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF
