"""WAL, measured: shipped and replayed against pgBackRest's asynchronous push and get, and the seconds from a commit to its copy."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.recovery.fetcher import Fetcher
from twist_dr.recovery.finish import finish_cluster
from twist_dr.recovery.planning import PlannedRecovery, RecoveryRequest, plan_recovery
from twist_dr.recovery.restore_command import RESTORE_COMMAND
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.settings import WalSettings
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr.wal.destinations import Destination
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.shipping import Shipper
from twist_dr.wal.spool import Spool
from twist_dr_tests.bench.load import Segments, make_segments, replay
from twist_dr_tests.bench.measure import Row, ended, fresh_folder, median_of
from twist_dr_tests.bench.peers import PgBackRest
from twist_dr_tests.bench.recoveries import Ways, against
from twist_dr_tests.bench.scene import FORM, SLOT, TARGET, Scene
from twist_dr_tests.recorded import resident
from twist_dr_tests.site import TWIST_DR

_MOST_MEMORY = 300
_COMMIT_EVERY_SECONDS = 0.01
_LOOK_EVERY_SECONDS = 0.005


def bench_wal(scene: Scene, rounds: int, segments: int) -> list[Row]:
    """After :func:`~twist_dr_tests.bench.recoveries.bench_bases`, on the base that its job took."""
    with scene.no_archiver():
        rows = bench_seconds_to_copy(scene)
    scene.drop_slot()
    wal = make_segments(scene.server, segments, scene.server.base / "wal")
    rows += bench_shipping(scene, rounds, wal)
    rows += bench_replay(scene, rounds, wal)
    rows += [
        Row(
            f"peak memory (MB): {name}",
            f"at most {_MOST_MEMORY} MB",
            round(peak / 1e6, 1),
            peak <= _MOST_MEMORY * 1e6,
            {},
        )
        for name, peak in scene.peaks.items()
    ]
    return rows


# -- from a commit to its copy -----------------------------------------------------------------------------------------


def bench_seconds_to_copy(scene: Scene) -> list[Row]:
    """Resident at two paces, and by the sensor: whose worst commit waits for a whole interval, and for the round after it."""
    rows = []
    for pace, lasting in ((1.0, 20.0), (0.2, 8.0)):
        scene.site.set(wal={"slot": SLOT, "follow_seconds": pace})
        with scene.residents():
            waits = _seconds_to_copy(scene, lasting)
        name = f"seconds from commit to copied, 99th percentile, wal ship --follow every {pace:g} s"
        told = {"median": waits[len(waits) // 2], "99th percentile": _percentile(waits), "longest": waits[-1]}
        rows.append(Row(name, "", round(_percentile(waits), 2), True, told))
    scene.site.set(wal={"slot": SLOT})
    every = WalSettings().interval_seconds
    with resident(scene.site, "wal", "receive"), _Commits(scene.site.database_url):
        scene.wait_for_receiver()
        seconds = median_of(2, one_round=lambda: ended(scene.site.start("ship_wal")).seconds)
    name = f"the same by the sensor every {every} s: interval and one round of the job"
    return [*rows, Row(name, "", round(0.99 * every + seconds["one_round"], 2), True, seconds)]


def _percentile(sorted_values: list[float]) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * 0.99))]


def _seconds_to_copy(scene: Scene, seconds: float) -> list[float]:
    """Sorted, of all commits of so many seconds: from the acknowledged commit until the target's archived position, as written down, is behind it."""
    spool, looks = Spool(scene.site.settings().wal_spool), [(0.0, 0)]

    def look() -> None:
        document = spool.load_state().positions.get(TARGET)
        if document is not None and document["lsn"] > looks[-1][1]:
            looks.append((time.monotonic(), document["lsn"]))

    with _Commits(scene.site.database_url) as commits:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            look()
            time.sleep(_LOOK_EVERY_SECONDS)
    last, patience = commits.done[-1][1], time.monotonic() + 30
    while looks[-1][1] < last:
        if time.monotonic() > patience:
            raise RuntimeError(
                f"the archived position stays before {format_lsn(last)}; see {scene.site.folder}/wal-ship---follow.log"
            )
        look()
        time.sleep(_LOOK_EVERY_SECONDS)
    waits, place = [], 0
    # The first second's commits may have waited for a process that was still starting.
    for at, lsn in commits.done[int(1 / _COMMIT_EVERY_SECONDS) :]:
        while looks[place][1] < lsn:
            place += 1
        waits.append(max(0.0, looks[place][0] - at))
    return sorted(waits)


class _Commits:
    """Commits small transactions until it is left. ``done``: when each was acknowledged, and an LSN behind it."""

    def __init__(self, url: str) -> None:
        self._cluster = Cluster(url)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.done: list[tuple[float, int]] = []

    def __enter__(self) -> _Commits:
        with self._cluster.connect() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS committed (at timestamptz)")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        with self._cluster.connect() as connection:
            while not self._stop.wait(_COMMIT_EVERY_SECONDS):
                connection.execute("INSERT INTO committed VALUES (now())")
                at = time.monotonic()
                [(lsn,)] = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
                self.done.append((at, parse_lsn(lsn)))


# -- shipping ------------------------------------------------------------------------------------------------------------


def bench_shipping(scene: Scene, rounds: int, wal: Segments) -> list[Row]:
    """A spool full of segments to one target: by a shipper that is there, and by the command that begins with nothing."""
    ways: Ways = {"twist_dr": lambda: _ship(scene, wal)}
    if scene.pgbackrest is not None:
        ways["pgbackrest"] = lambda backrest=scene.pgbackrest: backrest.push(wal).seconds  # type: ignore[misc]
    seconds = median_of(rounds, **ways)
    seconds["whole_command"] = _ship_command(scene, wal)
    rate = {name: round(len(wal.names) / spent, 1) for name, spent in seconds.items()}
    what = f"{len(wal.names)} segments: " + ", ".join(f"{name} {value}/s" for name, value in rate.items())
    return [
        against("WAL shipped, segments a second, against pgBackRest's asynchronous push", "twist_dr", "pgbackrest", 1.0, seconds),
        against(f"the same by the command twist-dr wal ship, start-up and all. {what}", "whole_command", "pgbackrest", None, seconds),
    ]  # fmt: skip


def _ship(scene: Scene, wal: Segments) -> float:
    folder = fresh_folder(scene.folder / "shipping")
    spool = _filled(folder / "spool", wal, wal.names)
    target = LocalTarget(TARGET, folder / TARGET)
    begun = time.monotonic()
    shipper = Shipper(
        "erp", spool, {TARGET: Destination(WalArchive(target, "erp"), FORM)}, scene.site.keyring, Report(),
        workers=WalSettings().workers,
    )  # fmt: skip
    shipped = shipper.ship(None)
    shipper.close()
    seconds = time.monotonic() - begun
    if shipped.errors or shipped.waiting or shipped.targets[TARGET].segments != len(wal.names):
        raise RuntimeError(f"not all was shipped: {shipped}")
    return seconds


def _ship_command(scene: Scene, wal: Segments) -> float:
    """To the target of the site, that has the base backup: what that lacks until the end. Seconds for as many segments as there are in ``wal``."""
    base = _base(scene)
    archive = WalArchive(_repository(scene).target, "erp")
    assert base.base is not None and base.postgres is not None
    identifier = str(base.postgres.system_identifier)
    first = Segment.holding(base.base.timeline, parse_lsn(base.base.start_lsn), wal.segment_bytes).name
    names = [*sorted(name for name in os.listdir(wal.earlier) if name >= first), *wal.names]
    lacking = [name for name in names if not archive.has(archive.key(identifier, base.base.timeline, name, FORM))]
    spool = _filled(scene.folder / "filled", wal, lacking)
    scene.site.set(wal={"source": "archive", "spool": str(spool.root)})
    command = subprocess.Popen(
        [*TWIST_DR, "wal", "ship"], env={**os.environ, **scene.site.environment}, cwd=scene.site.folder, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    done = ended(command)
    scene.peaks["twist-dr wal ship"] = done.peak
    return round(done.seconds * len(wal.names) / len(lacking), 3)


def _filled(root: Path, wal: Segments, names: tuple[str, ...] | list[str]) -> Spool:
    """A spool into which the server's archiver has put these."""
    spool = Spool(fresh_folder(root))
    spool.prepare()
    for name in names:
        source = wal.folder / name if name in wal.names else wal.earlier / name
        shutil.copyfile(source, spool.archived / name)
    os.sync()
    return spool


# -- replay --------------------------------------------------------------------------------------------------------------


def _repository(scene: Scene) -> Repository:
    return scene.site.repository(TARGET)


def _base(scene: Scene) -> Manifest:
    repository = _repository(scene)
    newest = repository.latest("base")
    assert newest is not None
    return repository.manifest(newest, scene.site.keyring)


def _plan(scene: Scene, wal: Segments) -> PlannedRecovery:
    work = fresh_folder(scene.folder / "planning")
    request = RecoveryRequest(f"lsn:{format_lsn(wal.stop)}")
    folders = [scene.server.tools.folder]
    return plan_recovery(
        request, [_repository(scene)], scene.site.keyring, folders, work, Report(), now=datetime.now(timezone.utc)
    )


def bench_replay(scene: Scene, rounds: int, wal: Segments) -> list[Row]:
    """The same server settings with either ``restore_command``; then all of a recovery as each tool does it."""
    planned, rows = _plan(scene, wal), []
    replayed: Ways = {}
    whole: dict[str, list[float]] = {}

    def ours() -> float:
        data, _ = scene.unpack(planned.plan.chain, _repository(scene))
        os.sync()
        return _our_replay(scene, planned, data, wal)

    def theirs(backrest: PgBackRest) -> float:
        into = scene.server.base / "restored"
        restored = backrest.restore(into).seconds
        os.sync()
        seconds = replay(scene.server.tools, into, wal, backrest.restore_command(into)).seconds
        whole.setdefault("pgbackrest", []).append(restored + seconds)
        return seconds

    replayed["twist_dr"] = ours
    if scene.pgbackrest is not None:
        replayed["pgbackrest"] = lambda backrest=scene.pgbackrest: theirs(backrest)  # type: ignore[misc]
    seconds = median_of(rounds, **replayed)
    rate = {name: round(len(wal.names) / spent, 1) for name, spent in seconds.items()}
    what = ", ".join(f"{name} {value} segments/s" for name, value in rate.items())
    rows.append(
        against(
            f"replay with fetch ahead against pgBackRest's asynchronous get: {what}",
            "twist_dr",
            "pgbackrest",
            1.0,
            seconds,
        )
    )
    rows.append(_handed_over(scene, rounds, planned, wal))
    spent = {
        **median_of(rounds, twist_dr=lambda: _finish(scene, wal)),
        **median_of(1, whole_job=lambda: _job(scene, wal)),
    }
    if "pgbackrest" in whole:
        spent["pgbackrest"] = round(statistics.median(whole["pgbackrest"]), 3)
    rows.append(
        against(
            "whole recovery (plan, restore, replay, proof, promotion, durable) against pgBackRest's restore and replay alone",
            "twist_dr",
            "pgbackrest",
            1.0,
            spent,
        )
    )
    return rows


def _our_replay(scene: Scene, planned: PlannedRecovery, data: Path, wal: Segments) -> float:
    with _fetching(scene, planned, data) as socket:
        # Our archive has the segments before too.
        alone = replace(wal, earlier=scene.empty("nothing"))
        return replay(scene.server.tools, data, alone, RESTORE_COMMAND, socket).seconds


@contextmanager
def _fetching(scene: Scene, planned: PlannedRecovery, data: Path) -> Iterator[int]:
    """The descriptor over which our ``restore_command`` asks."""
    with Fetcher(planned.plan, planned.archives, data.parent, data, scene.owner) as fetcher:
        connection = fetcher.connect()
        try:
            yield connection.fileno()
        finally:
            connection.close()


def _handed_over(scene: Scene, rounds: int, planned: PlannedRecovery, wal: Segments) -> Row:
    """Fetching alone: asked as a recovery asks, one command after another, with no redo in between."""
    user, group = scene.owner.user, scene.owner.group
    names = [segment.name for segment in planned.plan.segments][-len(wal.names) :]
    command = RESTORE_COMMAND.replace("%f", "$1").replace("%p", "pg_wal/RECOVERYXLOG")
    script = f"for name in {' '.join(names)}; do sh -c '{command}' sh $name || exit; done"

    def ours() -> float:
        work = scene.empty("handed")
        data = scene.owner.make_folder(work / "data")
        scene.owner.make_folder(data / "pg_wal")
        alone = replace(planned, plan=replace(planned.plan, segments=planned.plan.segments[-len(names) :]))
        begun = time.monotonic()
        with _fetching(scene, alone, data) as socket:
            subprocess.run(
                ["sh", "-c", script], stdin=socket, check=True, cwd=data, user=user, group=group, extra_groups=[]
            )
        return time.monotonic() - begun

    ways: dict[str, Callable[[], float]] = {"twist_dr": ours}
    if scene.pgbackrest is not None:
        ways["pgbackrest"] = lambda backrest=scene.pgbackrest: backrest.get(wal).seconds  # type: ignore[misc]
    seconds = median_of(rounds, **ways)
    rate = ", ".join(f"{name} {len(names) / spent:.1f} segments/s" for name, spent in seconds.items())
    return against(
        f"segments fetched and handed over, no redo, against pgBackRest: {rate}",
        "twist_dr",
        "pgbackrest",
        None,
        seconds,
    )


def _finish(scene: Scene, wal: Segments) -> float:
    """A data folder ready for ``pg_ctl start``, as the library makes it; its phases are told."""
    begun = time.monotonic()
    planned = _plan(scene, wal)
    spent = {"plan": time.monotonic() - begun}
    sources = [
        Sources(link.backup_id, [_repository(scene)], scene.site.keyring, Report()) for link in planned.plan.chain
    ]
    finished = finish_cluster(planned, sources, scene.empty("finished"), scene.server.base / "scratch")  # fmt: skip
    seconds = time.monotonic() - begun
    phases = ", ".join(f"{phase} {value:.1f} s" for phase, value in {**spent, **finished.seconds}.items())
    print(f"recovery: {phases}, all {seconds:.1f} s", file=sys.stderr)
    return seconds


def _job(scene: Scene, wal: Segments) -> float:
    """The same by the job, as a person launches it."""
    into = scene.empty("by-job")
    config = {"to": f"lsn:{format_lsn(wal.stop)}", "mode": "cluster", "folder": str(into), "reason": "bench"}
    job = ended(scene.site.start("restore_to_time", {"restore_to_time": {"config": config}}))
    scene.peaks["recovery, whole job"] = job.peak
    return job.seconds
