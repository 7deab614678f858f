"""``make bench``: speed and memory, measured as ratios in one run. Prints a table and writes ``.bench/results.json``.

Absolute times depend on the machine and on what else it does; a ratio of two things done alternately in the same minutes
much less. Each row says what it demands; a row that falls short is printed as such and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from twist_dr.engine.encryption import associated_data
from twist_dr.engine.keys import Keyring, new_key, save_keyring
from twist_dr.engine.postgres.cluster import Cluster, Snapshot
from twist_dr.engine.postgres.dump import dump_database
from twist_dr.engine.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.engine.processes import merged_environment
from twist_dr.engine.streams import ArtifactWriter, Form
from twist_dr_tests.erp import fixtures
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.storage.servers import rclone_server

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
MIB = 1 << 20
#: Programs of Debian that the hand-written pipes need, and the packages they come in.
PEERS = {"zstd": "zstd", "openssl": "openssl", "gzip": "gzip"}


@dataclass(frozen=True)
class Row:
    """One measurement. ``ratio`` is in the unit of ``demand``; ``seconds`` are medians unless the name says otherwise."""

    name: str
    demand: str
    ratio: float
    met: bool
    seconds: dict[str, float]


def median_seconds(rounds: int, **ways: Callable[[], object]) -> dict[str, float]:
    """Do all ways in turn, ``rounds`` times, so that a slow minute hits all of them; median seconds by name."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.monotonic()
            way()
            times[name].append(time.monotonic() - begun)
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


class Application:
    """An ERP of some size in a work folder of its own, with targets to choose from."""

    def __init__(self, name: str, server: PostgresServer, megabytes: int, s3: Mapping[str, str]) -> None:
        self.folder = BENCH / name
        self._megabytes = megabytes
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "dagster").mkdir(parents=True)
        shutil.copyfile(ROOT / "dagster.yaml", self.folder / "dagster" / "dagster.yaml")
        key = new_key()
        save_keyring(Keyring(key.id, {key.id: key}, "new"), self.folder / "keyring.yaml")
        self.url = server.url(f"erp_{name}")
        fixtures.create(self.url, self.folder / "media", megabytes=megabytes)
        self._environment = {"BENCH_URL": self.url, "DAGSTER_HOME": str(self.folder / "dagster"), **s3}

    def backup(self, targets: list[str]) -> int:
        """Run the job as a script would, night after night; returns its peak resident memory in bytes."""
        if self._megabytes > 100:  # or the disk would fill; a small one finds what the night before left, as in life
            for stale in ("targets", "work"):
                shutil.rmtree(self.folder / stale, ignore_errors=True)
            shutil.rmtree(BENCH / "s3" / "bench" / "erp", ignore_errors=True)
        lines = [
            "application: erp",
            "database: {url: '${BENCH_URL}'}",
            "media: {attachments: media}",
            "encryption: {keyring: keyring.yaml}",
            "work_dir: work",
            "storage_targets:",
        ]
        lines += [f"  {name}: {{type: local, path: targets/{name}}}" for name in targets if name != "cloud"]
        if "cloud" in targets:
            lines.append(
                "  cloud: {type: s3, bucket: bench, endpoint_url: '${BENCH_S3}', access_key_id: '${BENCH_S3_KEY}', secret_access_key: '${BENCH_S3_SECRET}'}"
            )
        (self.folder / "targets").mkdir(exist_ok=True)
        settings = self.folder / "twist-dr.yaml"
        settings.write_text("\n".join(lines) + "\n")
        return dagster_job(
            "twist_dr.definitions", "backup_full", {**self._environment, "TWIST_DR_CONFIG": str(settings)}, self.folder
        )

    def empty_job(self) -> int:
        """The smallest Dagster job there is, run the same way."""
        return dagster_job("twist_dr_tests.empty_job", "empty", self._environment, self.folder)


def dagster_job(module: str, job: str, environment: Mapping[str, str], folder: Path) -> int:
    """``dagster job execute``; returns peak resident memory in bytes. Raises when it fails."""
    log = folder / f"{job}.log"
    command = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-m", module, "-j", job]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{job} failed; see {log}")
    return usage.ru_maxrss * 1024


def bench_small(server: PostgresServer, s3: Mapping[str, str]) -> list[Row]:
    """A dump under 1 MB: start-up is all there is."""
    application = Application("small", server, 1, s3)
    seconds = median_seconds(
        5, backup_full=lambda: application.backup(["one"]), empty_dagster_job=application.empty_job
    )
    ratio = seconds["backup_full"] / seconds["empty_dagster_job"]
    return [
        Row(
            "small application, whole job", "at most 2 s", seconds["backup_full"], seconds["backup_full"] <= 2, seconds
        ),
        Row("small application against an empty Dagster job", "at most 2x", round(ratio, 2), ratio <= 2, seconds),
    ]


def bench_large(server: PostgresServer, megabytes: int, s3: Mapping[str, str], rounds: int) -> list[Row]:
    """About 1 GB: the dump artifact against two pipes, three targets against one, memory."""
    application = Application("large", server, megabytes, s3)
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
        one_target=lambda: peaks.append(application.backup(["one"])),
        three_targets=lambda: peaks.append(application.backup(["one", "two", "cloud"])),
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
        ["bash", "-c", command], env=merged_environment({**cluster.environment(), "BENCH_PASS": "bench"}), check=True
    )


def fresh_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def install_peers() -> None:
    """Programs to compare with, from the distribution's packages."""
    missing = [package for program, package in PEERS.items() if shutil.which(program) is None]
    if missing:
        subprocess.run(["apt-get", "install", "-y", "-qq", *missing], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large database (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    install_peers()
    fresh_folder(BENCH)
    (BENCH / "s3" / "bench").mkdir(parents=True)
    with ExitStack() as stack:
        tools = choose_tools(find_tools(), 18, server=True, purpose="measure with")
        server = stack.enter_context(
            PostgresServer(tools, BENCH / "postgres", settings={"max_wal_size": "4GB", "shared_buffers": "512MB"})
        )
        endpoint = stack.enter_context(rclone_server(BENCH / "s3"))
        s3 = {
            "BENCH_S3": endpoint.endpoint,
            "BENCH_S3_KEY": endpoint.access_key,
            "BENCH_S3_SECRET": endpoint.secret_key,
        }
        rows = [*bench_small(server, s3), *bench_large(server, options.megabytes, s3, options.rounds)]
    for row in rows:
        print(f"{'met  ' if row.met else 'SHORT'}  {row.ratio:>8}  {row.demand:<16} {row.name}")
        print("                " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row.seconds.items()))
    results = {
        "cpus": os.cpu_count(),
        "megabytes": options.megabytes,
        "rounds": options.rounds,
        "rows": [asdict(row) for row in rows],
    }
    (BENCH / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
