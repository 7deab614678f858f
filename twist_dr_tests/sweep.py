"""How wide tests sweep over instants: the few that matter in every run, the same each time; all, and random ones, in ``make prove``."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

_T = TypeVar("_T")

#: So many rounds of random instants (prove/sweeps.py); in an ordinary run none.
ROUNDS = int(os.environ.get("TWIST_DR_TESTS_SWEEP", "0"))
_FIRST = int(os.environ.get("TWIST_DR_TESTS_SEED") or random.SystemRandom().randrange(1 << 32))
#: One for each round. A test's name has its own, and ``TWIST_DR_TESTS_SEED`` begins with it again.
SEEDS = range(_FIRST, _FIRST + ROUNDS)


def instants(few: Iterable[_T], *, every: Iterable[_T]) -> list[_T]:
    """Those to test. Their test bears the mark ``sweep``, by which the wide sweep finds it."""
    return list(every if ROUNDS else few)
