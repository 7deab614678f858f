"""Restores, measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from twist_dr.catalog import Catalog, RestoreRow
from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster
from twist_dr.settings import Settings, load_settings
from twist_dr.system.processes import run
from twist_dr_tests.bench.measure import Application, Row, fresh_folder, median_seconds
from twist_dr_tests.servers import PostgresServer

_JOBS = 2


def _restore(application: Application, **config: Any) -> RestoreRow:
    """Cut over to the newest backup, as a script would."""
    wanted = {
        "mode": "replace",
        "backup": "latest",
        "allow_unverified": True,
        "reason": "bench",
        "confirm": "erp",
        **config,
    }
    application.job("restore", {"restore": {"config": wanted}})
    return _log(application)


def _undo(application: Application) -> RestoreRow:
    application.job("undo_restore", {"undo_restore": {"config": {"reason": "bench", "confirm": "erp"}}})
    return _log(application)


def _log(application: Application) -> RestoreRow:
    return Catalog(_settings(application).catalog_url).restores("erp", limit=1)[0]


def _settings(application: Application) -> Settings:
    return load_settings(application.folder / "twist-dr.yaml", application.environment)


def _prepare(application: Application) -> None:
    application.forget_backups()
    flag = str(application.folder / "maintenance")
    application.settle_for(["one"], restore={"jobs": _JOBS, "maintenance": {"file": flag}})
    application.job("backup_full")


def bench_small_restore(server: PostgresServer, s3: Mapping[str, str]) -> list[Row]:
    """Start-up and the cutover are all there is."""
    application = Application("small_restore", server, 1, s3)
    _prepare(application)
    restores: list[RestoreRow] = []
    undone: list[RestoreRow] = []
    seconds = median_seconds(
        3,
        restore=lambda: restores.append(_restore(application, pre_restore_backup=False)),
        undo_restore=lambda: undone.append(_undo(application)),
        with_backup_before=lambda: _restore(application),
        empty_dagster_job=application.empty_job,
    )
    locked = max(row.seconds_locked_out or 9 for row in restores) * 1000
    return [
        Row(
            "small application, restore with cutover, whole job",
            "at most 4 s",
            seconds["restore"],
            seconds["restore"] <= 4,
            seconds,
        ),
        Row(
            "the same with a backup before it",
            "at most 4 s",
            seconds["with_backup_before"],
            seconds["with_backup_before"] <= 4,
            seconds,
        ),
        Row("small application, locked out (ms, longest of 3)", "under 100 ms", round(locked, 1), locked < 100, {}),
    ]


def bench_large_restore(application: Application, server: PostgresServer, rounds: int) -> list[Row]:
    """About 1 GB: all of phase one against a bare pg_restore of the same dump, which lies there plain already."""
    _prepare(application)
    dump = fresh_folder(application.folder / "plain") / "database.dump"
    cluster, tools = Cluster(application.url), server.tools
    run([tools.program("pg_dump"), "-Fc", "--compress=0", f"--file={dump}"], environment=cluster.environment())
    rows: list[RestoreRow] = []
    undone: list[RestoreRow] = []

    def ours() -> None:
        rows.append(_restore(application, pre_restore_backup=False, parts="database"))
        undone.append(_undo(application))
        _drop_replaced(cluster)

    seconds = median_seconds(rounds, pg_restore=lambda: _plain_restore(server, dump), ours_with_undo=ours)
    fetch_and_restore = sorted(row.seconds["fetch"] + row.seconds["restore"] for row in rows)[len(rows) // 2]
    phase_one = sorted(
        sum(row.seconds.get(phase, 0) for phase in ("fetch", "restore", "compare", "after_restore", "analyze"))
        for row in rows
    )[len(rows) // 2]
    spent = {**seconds, **{f"our {phase}": value for phase, value in rows[-1].seconds.items()}}
    ratio, whole = fetch_and_restore / seconds["pg_restore"], phase_one / seconds["pg_restore"]
    locked = max(row.seconds_locked_out or 9 for row in undone)
    return [
        Row(
            "restore of 1 GB, fetched, decrypted, hashed, against pg_restore -j",
            "at most 1.1x",
            round(ratio, 2),
            ratio <= 1.1,
            spent,
        ),
        Row("the same with every row counted and ANALYZE (told, not demanded)", "", round(whole, 2), True, spent),
        Row("undo of 1 GB, locked out (s)", "under 1 s", round(locked, 3), locked < 1, {}),
        _verification_row(application),
    ]


def _verification_row(application: Application) -> Row:
    """What it takes to dump again what a verification restored, and to compare it."""
    application.job("verify_backup")
    row = Catalog(_settings(application).catalog_url).backups(application="erp", limit=1)[0].last_verification
    assert row is not None and row.proved == "content" and row.restore_seconds and row.content_seconds
    spent = {"restore": row.restore_seconds, "content": row.content_seconds, "verification": row.seconds}
    ratio = row.content_seconds / row.restore_seconds
    return Row("content of 1 GB compared, against its restore", "at most 0.5x", round(ratio, 2), ratio <= 0.5, spent)


def _plain_restore(server: PostgresServer, dump: Any) -> None:
    cluster = server.create_database("plain_restore")
    run(
        [server.tools.program("pg_restore"), "--exit-on-error", f"--jobs={_JOBS}", "--dbname=plain_restore", dump],
        environment=cluster.environment(),
    )


def _drop_replaced(cluster: Cluster) -> None:
    """What is kept would fill the disk in a few rounds."""
    live = str(cluster.parameters["dbname"])
    time.sleep(0.1)
    with databases.connect_for_maintenance(cluster) as connection:
        for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall():
            if name.startswith(f"{live}_replaced_"):
                databases.drop(connection, name)
