"""Every test of the catalog runs on a real SQLite file and on a real PostgreSQL server, unless it is about one of them."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from twist_dr.catalog import Catalog
from twist_dr_tests.servers import PostgresServer


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that does not exist yet, in a folder that does not either."""
    return f"sqlite:///{tmp_path / 'work' / 'catalog.db'}"


@pytest.fixture
def postgres_url(newest_server: PostgresServer) -> str:
    """An empty database."""
    name = f"catalog_{uuid4().hex[:12]}"
    newest_server.create_database(name)
    return newest_server.url(name)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def catalog(url: str) -> Catalog:
    return Catalog(url)
