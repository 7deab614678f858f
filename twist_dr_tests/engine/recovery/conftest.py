"""A primary of each version with a base backup, two points after it, and all of it archived; made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.engine.recovery.primary import World


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(TOOLS[request.param], tmp_path_factory.mktemp(f"primary{request.param}"))
    yield world
    world.primary.close()


@pytest.fixture(scope="session")
def newest_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(TOOLS[max(TOOLS)], tmp_path_factory.mktemp("primary"))
    yield world
    world.primary.close()
