"""The README that is walked by ``make prove`` is the README that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from twist_dr.cli.init import write_initial_files
from twist_dr_tests.prove.readme import README, blocks, commands
from twist_dr_tests.prove.shell import CommandFailed, Shell
from twist_dr_tests.prove.walk import COMMANDS, STEPS


def test_every_block_that_a_new_user_types_and_every_command_is_walked() -> None:
    """A block or a command that the README gets anew needs a step, and one that it loses leaves none behind."""
    assert [block.first for block in blocks()] == list(STEPS)
    assert sorted(commands()) == sorted(COMMANDS)


def test_a_command_that_does_not_end_as_the_page_says_ends_the_walk(tmp_path: Path) -> None:
    with Shell(tmp_path, tmp_path, {}) as shell:
        assert shell.run("echo fine") == "fine"
        assert shell.run("echo refused; (exit 3)", status=3) == "refused"
        for command, status in (("false", 0), ("true", 1)):
            with pytest.raises(CommandFailed, match=rf"ended with {1 - status} where {status} was promised"):
                shell.run(command, status=status)


def test_files_of_run_config_lie_where_the_readme_has_them(tmp_path: Path) -> None:
    """Beside the settings, where ``twist-dr init`` writes them and cron runs."""
    write_initial_files(tmp_path, application="shop")
    named = set(re.findall(r"(?:-c |`)([\w/-]*\w\.yaml)\b", README.read_text()))
    assert {"examples/scheduled.yaml", "twist-dr.yaml"} <= named
    assert not [
        name for name in named if "/" not in name or name.startswith("examples/") if not (tmp_path / name).exists()
    ]
