"""Backups, measured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_database
from twist_dr.postgres.tools import Tools
from twist_dr.repository.encryption import associated_data
from twist_dr.repository.keys import new_key
from twist_dr.repository.streams import ArtifactWriter, Form
from twist_dr.system.processes import child_environment
from twist_dr_tests.bench.measure import BENCH, Application, Row, fresh_folder, median_seconds
from twist_dr_tests.servers import PostgresServer


def _backup(application: Application, targets: list[str]) -> int:
    application.forget_backups()
    application.settle_for(targets)
    return application.job("backup_full")


def bench_small(server: PostgresServer, s3: Mapping[str, str]) -> list[Row]:
    """A dump under 1 MB: start-up is all there is."""
    application = Application("small", server, 1, s3)
    seconds = median_seconds(
        5, backup_full=lambda: _backup(application, ["one"]), empty_dagster_job=application.empty_job
    )
    ratio = seconds["backup_full"] / seconds["empty_dagster_job"]
    return [
        Row(
            "small application, whole job", "at most 2 s", seconds["backup_full"], seconds["backup_full"] <= 2, seconds
        ),
        Row("small application against an empty Dagster job", "at most 2x", round(ratio, 2), ratio <= 2, seconds),
    ]


def bench_large(application: Application, server: PostgresServer, rounds: int) -> list[Row]:
    """About 1 GB: the dump artifact against two pipes, three targets against one, memory."""
    cluster, tools = Cluster(application.url), server.tools
    seconds = median_seconds(
        rounds,
        twist_dr=lambda: our_artifact(cluster, tools),
        gzip_in_a_row=lambda: pipe(
            cluster, tools, "-Fc", "gzip -9 | openssl enc -aes-256-cbc -pbkdf2 -pass env:BENCH_PASS"
        ),
        best_pipe=lambda: pipe(
            cluster, tools, "-Fc -Z0", "zstd -q -3 -T0 | openssl enc -aes-256-ctr -pbkdf2 -pass env:BENCH_PASS"
        ),
    )
    against_gzip = seconds["gzip_in_a_row"] / seconds["twist_dr"]
    against_best = seconds["best_pipe"] / seconds["twist_dr"]
    peaks: list[int] = []
    targets = median_seconds(
        rounds,
        one_target=lambda: peaks.append(_backup(application, ["one"])),
        three_targets=lambda: peaks.append(_backup(application, ["one", "two", "cloud"])),
    )
    three = targets["three_targets"] / targets["one_target"]
    peak = max(peaks) / 1e6
    return [
        Row(
            "dump artifact against pg_dump -Fc | gzip -9 | openssl enc",
            "at least 4x",
            round(against_gzip, 2),
            against_gzip >= 4,
            seconds,
        ),
        Row(
            "dump artifact against pg_dump -Z0 | zstd -3 -T0 | openssl enc",
            "at least 1x",
            round(against_best, 2),
            against_best >= 1,
            seconds,
        ),
        Row("three targets (two folders and S3) against one", "at most 1.2x", round(three, 2), three <= 1.2, targets),
        Row("peak resident memory of the whole run", "at most 300 MB", round(peak, 1), peak <= 300, targets),
    ]


def our_artifact(cluster: Cluster, tools: Tools) -> None:
    """database.dump.zst.enc as a backup makes it: one snapshot, hashed twice, durable."""
    out = fresh_folder(BENCH / "artifact")
    with Snapshot(cluster) as snapshot:
        writer = ArtifactWriter(
            out,
            "database.dump",
            [Form("zstd", True)],
            key=new_key(),
            data=associated_data("erp", "bench", "database.dump"),
            threads=os.cpu_count() or 1,
        )
        with writer:
            dump_database(cluster, tools, snapshot.id, snapshot.tables(), writer.write)


def pipe(cluster: Cluster, tools: Tools, dump_options: str, rest: str) -> None:
    """What a careful person writes into a cron job, the file made durable like ours."""
    out = fresh_folder(BENCH / "artifact") / "dump"
    command = f"set -o pipefail; '{tools.program('pg_dump')}' {dump_options} | {rest} > '{out}' && sync '{out}'"
    subprocess.run(
        ["bash", "-c", command], env=child_environment({**cluster.environment(), "BENCH_PASS": "bench"}), check=True
    )
