"""Which PostgreSQL programs are used. Small scripts that answer --version stand for installations that are not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from twist_dr.errors import ClientToolsMissing
from twist_dr.postgres.tools import Tools, choose_serving, choose_tools, find_tools
from twist_dr_tests.helpers import program

CLIENT = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    def make(folder: str, version: str, *, server: bool = False) -> Path:
        for name in (*CLIENT, *(("initdb", "postgres") if server else ())):
            program(tmp_path / folder, name, f'echo "{name} (PostgreSQL) {version}"')
        return tmp_path / folder

    return make


def found(*folders: Path) -> list[Tools]:
    """Only those in ``folders``: others are on this machine."""
    resolved = [folder.resolve() for folder in folders]
    return [tools for tools in find_tools(folders) if tools.folder in resolved]


@pytest.mark.parametrize(("server", "expected"), [(13, 14), (14, 14), (15, 16), (16, 16), (17, 18), (18, 18)])
def test_the_servers_own_version_is_best_then_the_nearest_newer_one(
    install: Install, server: int, expected: int
) -> None:
    known = found(install("c", "18.6"), install("a", "14.20"), install("b", "16.3 (Debian 16.3-1.pgdg12+1)"))
    assert {tools.version for tools in known} == {"18.6", "14.20", "16.3"}
    assert choose_tools(known, server).major == expected


def test_the_folder_of_the_settings_comes_before_path(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = install("settings", "99.1"), install("path", "99.2")
    monkeypatch.setenv("PATH", str(theirs), prepend=":")
    assert choose_tools(find_tools([ours]), 99).folder == ours
    assert choose_tools(find_tools(), 99).folder == theirs


def test_debians_wrapper_is_passed_over(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = program(tmp_path / "share", "pg_wrapper", 'echo "pg_dump (PostgreSQL) 99.3"')
    usual = tmp_path / "usr" / "bin"
    usual.mkdir(parents=True)
    for name in CLIENT:
        (usual / name).symlink_to(wrapper)
    assert found(usual) == []
    monkeypatch.setenv("PATH", str(usual), prepend=":")
    assert 99 not in {tools.major for tools in find_tools()}


def test_a_folder_that_lacks_a_program_or_holds_something_else_is_passed_over(install: Install, tmp_path: Path) -> None:
    partly = install("partly", "18.6")
    (partly / "pg_restore").unlink()
    not_executable = install("not executable", "18.6")
    (not_executable / "psql").chmod(0o644)
    other = install("other", "18.6")
    program(other, "pg_dump", "echo some other program")
    broken = install("broken", "18.6")
    program(broken, "pg_dump", "exit 1")
    assert found(partly, not_executable, other, broken, tmp_path / "nowhere") == []


def test_one_installation_reached_by_two_names_counts_once(install: Install, tmp_path: Path) -> None:
    real = install("real", "18.6")
    (tmp_path / "link").symlink_to(real)
    assert len(found(tmp_path / "link", real)) == 1


def test_programs_of_a_coming_version_are_known(install: Install) -> None:
    assert [(tools.major, tools.version) for tools in found(install("beta", "19beta1"))] == [(19, "19")]


def test_only_an_installation_with_a_server_runs_one(install: Install) -> None:
    known = found(install("client", "16.3"), install("server", "17.1", server=True))
    assert [tools.server for tools in known] == [False, True]
    assert choose_tools(known, 16, server=True).major == 17
    assert choose_tools(known, 16).major == 16


def test_too_old_tools_are_said_with_what_is_there_and_what_to_install(install: Install) -> None:
    folder = install("old", "12.22")
    with pytest.raises(ClientToolsMissing) as caught:
        choose_tools(found(folder), 16)
    message = str(caught.value)
    assert f"12.22 in {folder.resolve()}" in message
    assert "To back up a PostgreSQL 16 database" in message
    assert "install postgresql-client-16" in message
    assert "database.client_tools" in message


def test_no_tools_at_all_are_said() -> None:
    with pytest.raises(ClientToolsMissing, match=r"this machine has none at all; install postgresql-18"):
        choose_tools([], 18, server=True, purpose="verify")


@pytest.mark.parametrize(
    ("server", "dump", "expected"), [(15, 15, 16), (16, 16, 16), (17, 15, 16), (17, 17, 18), (18, 16, 16), (18, 18, 18)]
)
def test_a_restore_takes_tools_that_read_the_dump_and_serve_the_server(
    install: Install, server: int, dump: int, expected: int
) -> None:
    known = found(install("c", "18.6"), install("b", "16.3"))
    assert choose_serving(known, server, dump).major == expected


@pytest.mark.parametrize("server", [13, 15, 16])
def test_a_dump_that_no_tools_restore_into_so_old_a_server_is_told_so(install: Install, server: int) -> None:
    known = found(install("c", "18.6"), install("b", "16.3"))
    with pytest.raises(ClientToolsMissing) as caught:
        choose_serving(known, server, 18)
    assert f"goes into PostgreSQL 17 and newer, not into {server}" in str(caught.value)
    assert f"postgresql-client-{server}" in str(caught.value)
