"""``make bench``: speed and memory, measured as ratios in one run. Prints a table and writes ``.bench/results.json``.

Absolute times depend on the machine and on what else it does; a ratio of two things done alternately in the same minutes
much less. Each row says what it demands; a row that falls short is printed as such and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict

from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr_tests.bench.backups import bench_large, bench_small
from twist_dr_tests.bench.carried import bench_carried
from twist_dr_tests.bench.lists import bench_lists
from twist_dr_tests.bench.measure import BENCH, Application, Row, fresh_folder
from twist_dr_tests.bench.recoveries import bench_bases, bench_incremental
from twist_dr_tests.bench.restores import bench_large_restore, bench_small_restore
from twist_dr_tests.bench.retention import bench_retention
from twist_dr_tests.bench.scene import scene
from twist_dr_tests.bench.wal import bench_wal
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.storage.servers import rclone_server

#: Programs of Debian that the hand-written pipes need, and the packages they come in.
PEERS = {"zstd": "zstd", "openssl": "openssl", "gzip": "gzip"}
#: The version of PostgreSQL that Debian's pgBackRest and Barman are made for.
PEERS_MAJOR = 15
#: Segments of WAL to ship and to replay: start-up weighs with fewer.
SEGMENTS = 48


def install_peers() -> None:
    """Programs to compare with, from the distribution's packages."""
    missing = [package for program, package in PEERS.items() if shutil.which(program) is None]
    if missing:
        subprocess.run(["apt-get", "install", "-y", "-qq", *missing], check=True, stdout=subprocess.DEVNULL)


def bench_dumps(megabytes: int, rounds: int) -> list[Row]:
    """Dumps, their copies and their restores."""
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
        rows = [*bench_small(server, s3), *bench_small_restore(server, s3)]
        large = Application("large", server, megabytes, s3)
        return [*rows, *bench_large(large, server, rounds), *bench_large_restore(large, server, rounds)]


def bench_recoveries(megabytes: int, rounds: int) -> list[Row]:
    """Base backups, WAL and recoveries: on PostgreSQL 15, for which Debian has the peers, and what only 17 and newer have on 18."""
    rows: list[Row] = []
    installed = find_tools()
    tools = choose_tools(installed, PEERS_MAJOR, server=True, purpose="measure with")
    with scene(tools, megabytes, peers=tools.major == PEERS_MAJOR) as peers_too:
        rows += bench_bases(peers_too, rounds)
        rows += bench_wal(peers_too, rounds, SEGMENTS)
    tools = choose_tools(installed, 18, server=True, purpose="measure with")
    with scene(tools, megabytes, peers=False, archive_mode="off", summarize_wal="on") as newest:
        rows += bench_incremental(newest, rounds)
    return rows


#: What can be measured by itself.
PARTS = {
    "dumps": bench_dumps,
    "recoveries": bench_recoveries,
    "carried": bench_carried,
    "retention": bench_retention,
    "lists": bench_lists,
}
#: Of these, what compares with nobody, or with what our own extra brings.
ALONE = ("carried", "retention", "lists")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large database (default: 1024)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, help="one part by itself")
    options = parser.parse_args()
    if options.only not in ALONE:
        install_peers()
    fresh_folder(BENCH)
    rows: list[Row] = []
    for name, part in PARTS.items():
        if options.only in (None, name):
            measured = part(options.megabytes, options.rounds)
            rows += measured
            for row in measured:  # at once: the next part takes minutes, and may break
                print(f"{'met  ' if row.met else 'SHORT'}  {row.ratio:>8}  {row.demand:<16} {row.name}", flush=True)
                if row.seconds:
                    took = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in row.seconds.items())
                    print(f"                {took}", flush=True)
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
