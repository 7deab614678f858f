"""How far a restore is: pg_restore itself says nothing, so the database is asked how large it has become."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from twist_dr.postgres.cluster import Cluster, query
from twist_dr.system.progress import LOG_EVERY_SECONDS, Report, human_bytes

_JOIN_SECONDS = 15.0


@contextmanager
def restore_progress(
    cluster: Cluster, database: str, expected: int, report: Report, every: float = LOG_EVERY_SECONDS
) -> Iterator[None]:
    """While the block runs, tell every few seconds the database's size in bytes, of about ``expected``."""
    ended = threading.Event()

    def tell() -> None:
        # Only told, never needed: a restore does not fail for it.
        with suppress(Exception):
            while not ended.wait(every):
                with cluster.connect(database) as connection:
                    size = int(query(connection, "SELECT pg_database_size(current_database())")[0][0])
                if not ended.is_set():
                    report.info(f"restoring: {human_bytes(size)} of about {human_bytes(expected)}")

    thread = threading.Thread(target=tell, name="restore progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_JOIN_SECONDS)
