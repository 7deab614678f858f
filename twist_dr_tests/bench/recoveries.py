"""Base backups and their restores, measured: full ones against pgBackRest, Barman and a hand-written pipe, incremental ones against our full ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack

from twist_dr.backup.base.chain import fetched_parent
from twist_dr.repository.manifest import Manifest
from twist_dr.system.progress import Report
from twist_dr_tests.bench.load import DATABASE
from twist_dr_tests.bench.measure import Row, dagster_job, ended, median_of
from twist_dr_tests.bench.peers import bare_pipe, bare_read, bare_unpack, make_durable
from twist_dr_tests.bench.scene import Scene

Ways = dict[str, Callable[[], float]]


def against(name: str, ours: str, theirs: str, demanded: float | None, seconds: dict[str, float]) -> Row:
    """How many times as fast one way is as another. A peer that is not here leaves the row out of what is demanded."""
    ratio = round(seconds[theirs] / seconds[ours], 2) if theirs in seconds else 0.0
    if demanded is None or not ratio:
        return Row(f"{name} (told, not demanded)", "", ratio, True, seconds)
    return Row(name, f"at least {demanded:g}x", ratio, ratio >= demanded, seconds)


def bench_bases(scene: Scene, rounds: int) -> list[Row]:
    """A full base backup, then its restore; each peer's way and ours in turn."""
    file = scene.server.base / "bare.tar.zst.enc"
    manifests: list[Manifest] = []

    def ours() -> float:
        manifest, seconds = scene.base()
        manifests.append(manifest)
        return seconds

    def whole_job() -> float:
        # Its WAL is received and shipped beside it, as in life, and awaited on the target.
        with scene.residents():
            job = ended(scene.site.start("backup_base", {"base_backup": {"config": {"type": "full"}}}))
        scene.peaks["base backup, whole job"] = job.peak
        return job.seconds

    ways: Ways = {
        "twist_dr": ours,
        "whole_job": whole_job,
        "empty_dagster_job": lambda: _empty_job(scene),
        "best_pipe": lambda: bare_pipe(scene.server, file).seconds,
        "bare_read": lambda: bare_read(scene.server).seconds,
    }
    peers: Ways = {}
    if scene.pgbackrest is not None:
        peers["pgbackrest"] = lambda backrest=scene.pgbackrest: backrest.backup().seconds  # type: ignore[misc]
    if scene.barman is not None:
        peers["barman"] = lambda barman=scene.barman: barman.backup().seconds  # type: ignore[misc]
    seconds = _in_two_modes(scene, rounds, ways, peers)
    rows = [
        against("full base backup, staged and stored, against pgBackRest", "twist_dr", "pgbackrest", 1.4, seconds),
        against(
            "the same as a whole job, its WAL awaited, against pgBackRest", "whole_job", "pgbackrest", None, seconds
        ),
        against("the same against Barman, which does not encrypt", "twist_dr", "barman", None, seconds),
        against("the same against pg_basebackup | zstd -3 -T2 | openssl enc", "twist_dr", "best_pipe", None, seconds),
    ]
    return rows + _bench_restores(scene, rounds, manifests[-1])


def _empty_job(scene: Scene) -> float:
    begun = time.monotonic()
    dagster_job("twist_dr_tests.empty_job", "empty", scene.site.environment, scene.site.folder)
    return time.monotonic() - begun


def _in_two_modes(scene: Scene, rounds: int, ours: Ways, peers: Ways) -> dict[str, float]:
    """Ours without an archiver, as those have the server who receive its WAL; theirs with the archiver that they need."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with ExitStack() as off:
            off.enter_context(scene.no_archiver())
            once = median_of(1, **ours)
        for name, spent in {**once, **median_of(1, **peers)}.items():
            found.setdefault(name, []).append(spent)
    return {name: round(statistics.median(each), 3) for name, each in found.items()}


def _bench_restores(scene: Scene, rounds: int, manifest: Manifest) -> list[Row]:
    file, into = scene.server.base / "bare.tar.zst.enc", scene.server.base / "restored"

    def pipe() -> float:
        return bare_unpack(file, into).seconds + make_durable(into)

    ways: Ways = {"twist_dr": lambda: scene.unpack([manifest])[1], "best_pipe": pipe}
    if scene.pgbackrest is not None:
        ways["pgbackrest"] = lambda backrest=scene.pgbackrest: backrest.restore(into).seconds  # type: ignore[misc]
    if scene.barman is not None:
        # It leaves to whoever starts the server what all others have done by then.
        ways["barman"] = lambda barman=scene.barman: barman.restore(into).seconds + make_durable(into)  # type: ignore[misc]
    seconds = median_of(rounds, **ways)
    return [
        against("restore of it, all of it durable, against pgBackRest", "twist_dr", "pgbackrest", 1.0, seconds),
        against("the same against Barman, which does not decrypt", "twist_dr", "barman", 1.0, seconds),
        against("the same against openssl enc -d | zstd -d | tar -x", "twist_dr", "best_pipe", None, seconds),
    ]


def bench_incremental(scene: Scene, rounds: int) -> list[Row]:
    """On a version that has them: an incremental base after a tenth of one half's rows changed, and the restore of the chain."""
    full: list[tuple[Manifest, float]] = []
    for _ in range(rounds):
        full.append(scene.base())
    manifest = full[-1][0]
    scene.site.query(
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= (SELECT max(aid) / 10 FROM pgbench_accounts)",
        DATABASE,
    )
    links: list[Manifest] = []
    with fetched_parent(
        manifest.backup_id, [scene.repository], scene.site.keyring, scene.folder / "parent", Report()
    ) as parent:
        assert parent is not None

        def incremental() -> float:
            link, seconds = scene.base(parent)
            links.append(link)
            return seconds

        seconds = median_of(rounds, incremental=incremental)
    seconds["full"] = round(statistics.median(spent for _, spent in full), 3)
    link = links[-1]
    assert link.base is not None and link.base.sort == "incremental"
    share = round(100 * link.plain_bytes / manifest.plain_bytes, 1)
    restores = median_of(
        rounds,
        chain=lambda: scene.unpack([manifest, link])[1],
        full=lambda: scene.unpack([manifest])[1],
    )
    return [
        against(
            f"incremental base ({share} % of the bytes) against a full one, both ours",
            "incremental",
            "full",
            None,
            seconds,
        ),
        against("restore of the chain against that of the full one, both ours", "chain", "full", None, restores),
    ]
