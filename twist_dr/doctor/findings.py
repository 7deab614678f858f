"""What a check found, for people; and how a check that breaks becomes a finding itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from twist_dr.engine.postgres.cluster import first_line
from twist_dr.errors import TwistDRError
from twist_dr.redaction import leaving

Status = Literal["ok", "warning", "problem"]
T = TypeVar("T")

_LONGEST = 800


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's. ``remedy`` is what a person does, or pastes with its comment (``--`` in SQL, ``#`` elsewhere)."""

    check: str
    status: Status
    found: str
    remedy: str | None = None


#: A check: yields findings as they are found, and returns what later checks need, if anything.
Check: TypeAlias = Generator[Finding, None, T]


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "warning", found, remedy)


def problem(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "problem", found, remedy)


def from_error(check: str, error: Exception, status: Status = "problem") -> Finding:
    """A finding from an error. Ours say what happened and, after the last semicolon, what to do next."""
    import psycopg

    if isinstance(error, TwistDRError) and error.remedy is not None:
        found = (
            error.what
            if error.target is None or check.endswith(f" {error.target}")
            else f"{error.target}: {error.what}"
        )
        return Finding(check, status, found, error.remedy)
    if isinstance(error, TwistDRError):
        return from_sentence(check, str(error), status)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        found = f"the operating system says: {error.strerror or type(error).__name__}{place}"
        return Finding(check, status, found, "mend that path's rights or its disk")
    if isinstance(error, psycopg.Error):
        return Finding(check, status, f"PostgreSQL refused a question: {first_line(error)}", "grant what it asks for")
    # The text of any other error is left out: nobody knows what it quotes.
    return Finding(
        check, status, f"this check itself broke ({type(error).__name__})", "report it as a defect of twist-dr"
    )


def from_sentence(check: str, sentence: str, status: Status = "problem") -> Finding:
    """A finding from the sentence of one of our errors."""
    found, separator, remedy = sentence.removesuffix(".").rpartition("; ")
    return Finding(check, status, found, remedy) if separator else Finding(check, status, remedy)


def guarded(check: str, findings: Check[T]) -> Check[T | None]:
    """Run one check to its end, or to its error, which becomes a finding. Returns ``None`` then."""
    try:
        return (yield from findings)
    except Exception as error:
        yield from_error(check, error)
        return None


def command(arguments: Sequence[str | Path]) -> str:
    """A command as a person pastes it into a shell."""
    return shlex.join(os.fspath(argument) for argument in arguments)


def counted(count: int, one: str) -> str:
    """``1 table``, ``2 tables``."""
    return f"{count} {one}{'' if count == 1 else 's'}"


def shown(finding: Finding) -> Finding:
    """A finding as it may leave us, and not longer than a person reads."""
    found = leaving(finding.found)
    if len(found) > _LONGEST:
        found = found[:_LONGEST] + "…"  # only now: half a secret would not be known for one
    return replace(finding, found=found, remedy=None if finding.remedy is None else leaving(finding.remedy))
