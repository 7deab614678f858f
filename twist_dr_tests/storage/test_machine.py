"""The folder of this machine that storage targets keep locks and sockets in: ours alone, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from twist_dr.cli.recover.place import machine_for_now
from twist_dr.errors import TargetRefused
from twist_dr.storage.machine import Machine


def test_it_is_made_when_it_is_needed_and_for_this_user_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "work" / "targets")
    assert list(tmp_path.iterdir()) == []
    assert machine.private_folder() == machine.private_folder() == machine.folder
    assert stat.S_IMODE(machine.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("taken", ["open to others", "somebody else's", "a link", "a file"])
def test_one_that_another_user_may_have_made_is_refused(taken: str, tmp_path: Path) -> None:
    folder = tmp_path / "targets"
    if taken == "a link":
        (tmp_path / "theirs").mkdir(0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif taken == "a file":
        folder.write_text("")
    else:
        folder.mkdir(0o700)
        if taken == "open to others":
            folder.chmod(0o770)
        else:
            os.chown(folder, 65534, 65534)
    with pytest.raises(TargetRefused, match="TMPDIR or work_dir"):
        Machine(folder).private_folder()


def test_a_recovery_has_one_with_a_name_that_nobody_can_take_before_it_and_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with machine_for_now(None, None) as first, machine_for_now(None, None) as second:
        assert first.folder != second.folder
        assert list(tmp_path.iterdir()) == [], "where no target needs one, none is made"
        (first.private_folder() / "lock").write_text("")
    assert list(tmp_path.iterdir()) == []
