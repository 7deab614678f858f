"""A sandbox is there whole, or is cleared by the next recovery."""

from __future__ import annotations

import json
from pathlib import Path

from twist_dr.engine.postgres.tools import Tools
from twist_dr.engine.recovery.sandbox import ClusterSandbox, clear_unfinished, sandboxes, unfinished
from twist_dr.engine.recovery.untar import Owner
from twist_dr_tests.engine.helpers import killed_at

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
