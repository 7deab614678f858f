"""A primary of each version with a base backup, two points after it, and all of it archived; made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.recovery.world import World


class Worlds(dict[int, World]):
    """One of each version, made when somebody first asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, major: int) -> World:
        self[major] = World(TOOLS[major], self._folder / f"primary{major}")
        return self[major]


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    found = Worlds(tmp_path_factory.mktemp("worlds"))
    yield found
    for world in found.values():
        world.primary.close()


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def world(request: pytest.FixtureRequest, worlds: Worlds) -> World:
    return worlds[request.param]


@pytest.fixture(scope="session")
def newest_world(worlds: Worlds) -> World:
    return worlds[max(TOOLS)]
