"""Real write-ahead log, in segments of 1 MB: they are full, shipped and read sooner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.wal.wal_files import Wal, make_wal


@pytest.fixture(scope="session")
def small_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, PostgresServer]]:
    """A server of each version found, with segments of 1 MB."""
    servers: dict[int, PostgresServer] = {}
    try:
        for major, tools in TOOLS.items():
            folder: Path = tmp_path_factory.mktemp(f"small{major}")
            servers[major] = PostgresServer(tools, folder, settings={"fsync": "off"}, options=["--wal-segsize=1"])
        yield servers
    finally:
        for server in servers.values():
            server.close()


@pytest.fixture(scope="session")
def wals(small_servers: dict[int, PostgresServer], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Wal]:
    """Consecutive whole segments of each server."""
    return {major: make_wal(server, tmp_path_factory.mktemp(f"wal{major}")) for major, server in small_servers.items()}


@pytest.fixture(scope="session")
def wal(wals: dict[int, Wal]) -> Wal:
    """Those of the newest."""
    return wals[max(wals)]


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def any_wal(request: pytest.FixtureRequest, wals: dict[int, Wal]) -> Wal:
    return wals[request.param]


@pytest.fixture
def small_server(small_servers: dict[int, PostgresServer]) -> PostgresServer:
    """The newest of them."""
    return small_servers[max(small_servers)]
