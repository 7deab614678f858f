"""The README that is walked by ``make prove`` is the README that there is."""

from __future__ import annotations

from twist_dr_tests.prove.readme import blocks, commands
from twist_dr_tests.prove.walk import COMMANDS, STEPS


def test_every_block_that_a_new_user_types_and_every_command_is_walked() -> None:
    """A block or a command that the README gets anew needs a step, and one that it loses leaves none behind."""
    assert [block.first for block in blocks()] == list(STEPS)
    assert sorted(commands()) == sorted(COMMANDS)
