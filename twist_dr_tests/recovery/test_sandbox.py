"""A sandbox is there whole, or is cleared by the next recovery; and it can be started in every way that a machine allows."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from twist_dr.errors import DatabaseRefused
from twist_dr.postgres import confinement
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.server_user import some_server_user
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import give_tree, reachable_tools, unprivileged
from twist_dr.recovery.sandbox import ClusterSandbox, clear_unfinished, sandboxes, unfinished
from twist_dr.recovery.untar import Owner
from twist_dr.restore.to_time import free_port
from twist_dr.system.processes import run
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import killed_at

NAMES = ("20260101T020000Z-restore-0000", "20260102T020000Z-restore-0000")
NOWHERE = Tools(Path("/nowhere"), 18, "18", server=False)


def make(base: Path, name: str) -> ClusterSandbox:
    sandbox = ClusterSandbox(base / name, NOWHERE, Owner(None, None), 5433)
    base.mkdir(exist_ok=True)
    with unfinished(sandbox.folder):
        (sandbox.data / "base").mkdir(parents=True)
        for each in ("PG_VERSION", "base/1"):
            (sandbox.data / each).write_text("18")
        (sandbox.folder / "server.log").touch()
        sandbox.note(user="erp", database="erp", point="latest")
    return sandbox


def test_a_removal_that_is_killed_at_any_point_is_finished_by_the_next_recovery(tmp_path: Path) -> None:
    base = tmp_path / "cluster-sandboxes"
    kept = make(base, NAMES[0])
    (base / "notes-of-an-administrator").mkdir()
    step, killed = 0, True
    while killed:
        step += 1
        sandbox = make(base, NAMES[1])
        killed = killed_at(step, sandbox.remove)
        clear_unfinished(base)
        if step == 1:  # nothing was done yet
            assert json.loads((sandbox.folder / "sandbox.json").read_text())["point"] == "latest"
            sandbox.remove()
        assert {entry.name for entry in base.iterdir()} == {NAMES[0], "notes-of-an-administrator"}, f"step {step}"
    assert [each.folder for each in sandboxes(base)] == [kept.folder]


@pytest.mark.parametrize("way", ["bubblewrap", "bubblewrap as root", "user"])
def test_a_sandbox_starts_in_every_way_and_with_bubblewrap_sees_no_file_but_its_own(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, way: confinement.Way
) -> None:
    monkeypatch.setattr(confinement, "way", lambda: way)
    user = some_server_user()
    tools = reachable_tools(TOOLS[max(TOOLS)], open_folder, user)
    sandbox = ClusterSandbox(open_folder / "box", tools, Owner(user, user), free_port())
    for folder in (sandbox.folder, sandbox.data, settings := sandbox.folder / "settings"):
        folder.mkdir(mode=0o711)
    by, group = unprivileged()
    Owner(by, group).take(sandbox.data)
    run(
        [tools.program("initdb"), "--no-sync", "--username=erp", "--auth=trust", f"--pgdata={sandbox.data}"],
        user=by, group=group, folder=sandbox.data,
    )  # fmt: skip
    if user is not None:
        give_tree(sandbox.data, user, user)
    (settings / "postgresql.conf").write_text(f"unix_socket_directories = '{sandbox.folder / 'socket'}'\n")
    (settings / "pg_ident.conf").touch()
    sandbox.start()
    try:
        assert sandbox.runs
        url = f"postgresql://erp@/postgres?host={sandbox.folder / 'socket'}&port={sandbox.port}"
        with Cluster(url, isolated=True).connect() as connection:
            connection.execute("ALTER ROLE erp PASSWORD 'of then'")
            sees = way == "user"
            with nullcontext() if sees else pytest.raises(psycopg.Error, match="No such file"):
                connection.execute("SELECT pg_read_file('/etc/hostname')")
            with nullcontext() if sees else pytest.raises(psycopg.Error, match="failed"):
                connection.execute("COPY (SELECT 1) TO PROGRAM 'env >/dev/null'")
        Cluster(f"postgresql://erp:of%20then@127.0.0.1:{sandbox.port}/postgres").connect().close()
        with pytest.raises(DatabaseRefused):
            Cluster(f"postgresql://erp:wrong@127.0.0.1:{sandbox.port}/postgres").connect()
    finally:
        sandbox.stop()
    assert not sandbox.runs


def test_a_pipe_in_the_place_of_a_servers_mark_keeps_nobody_waiting(tmp_path: Path) -> None:
    sandbox = ClusterSandbox(tmp_path / "box", NOWHERE, Owner(None, None), 5433)
    sandbox.data.mkdir(parents=True)
    os.mkfifo(sandbox.data / "postmaster.pid")
    assert not sandbox.runs
