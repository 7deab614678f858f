"""What ends Dagster's own command before a run begins is told in sentences: wrong settings, and a run config with mistakes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import dagster as dg

from twist_dr.errors import LaunchRefused, TwistDRError
from twist_dr.operations.told import mistakes_in, nearest, told_wrong
from twist_dr.orchestrator.taking import LAUNCHED
from twist_dr.redaction import leaving

#: What steps were called before, in files of run config that somebody kept.
_FORMER = {
    "clean_up": "cleanup",
    "put_back": "undo_restore",
    "read_again": "scrub",
    "recover_to_point": "restore_to_time",
    "rehearse_recovery": "drill",
    "restore_backup": "restore",
}


def tell_in_sentences() -> None:
    """From now on, in this process."""
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, dg.DagsterInvalidConfigError):
        error = in_our_form(error)
    if isinstance(error, TwistDRError):
        print(f"twist-dr: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def in_our_form(error: dg.DagsterInvalidConfigError) -> LaunchRefused:
    """The mistakes of a run config, each at its place; what Dagster says where we find none."""
    return told_wrong("the run", [*_mistakes(error.config_value)] or [leaving(each) for each in error.error_messages])


def _mistakes(config: Any) -> Iterator[str]:
    steps = config.get("ops") if isinstance(config, dict) else None
    for step, told in steps.items() if isinstance(steps, dict) else ():
        if step in _FORMER:
            yield f"ops.{step}: this step is called {_FORMER[step]} now"
        elif step not in LAUNCHED:
            yield f"ops.{step}: there is no such step{nearest(step, LAUNCHED)}"
        elif isinstance(told, dict) and isinstance(settings := told.get("config"), dict):
            yield from (f"ops.{step}.config.{mistake}" for mistake in mistakes_in(LAUNCHED[step], settings))
