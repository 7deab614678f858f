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

from twist_dr.engine.postgres.tools import choose_tools, find_tools
from twist_dr_tests.bench.backups import bench_large, bench_small
from twist_dr_tests.bench.measure import BENCH, Application, fresh_folder
from twist_dr_tests.bench.restores import bench_large_restore, bench_small_restore
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.storage.servers import rclone_server

#: Programs of Debian that the hand-written pipes need, and the packages they come in.
PEERS = {"zstd": "zstd", "openssl": "openssl", "gzip": "gzip"}


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
        rows = [*bench_small(server, s3), *bench_small_restore(server, s3)]
        large = Application("large", server, options.megabytes, s3)
        rows += [*bench_large(large, server, options.rounds), *bench_large_restore(large, server, options.rounds)]
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
