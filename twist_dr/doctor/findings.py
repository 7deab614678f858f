"""What a check found, for people; and how a check that breaks becomes a finding itself."""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from twist_dr.errors import TwistDRError
from twist_dr.postgres.cluster import first_line
from twist_dr.redaction import leaving

CheckStatus = Literal["ok", "warning", "problem"]
T = TypeVar("T")

_LONGEST = 800


@dataclass(frozen=True)
class DoctorFinding:
    """One line of the doctor's. ``remedy`` is what a person does, or pastes with its comment (``--`` in SQL, ``#`` elsewhere)."""

    check: str
    status: CheckStatus
    found: str
    remedy: str | None = None


#: A check: yields findings as they are found, and returns what later checks need, if anything.
Check: TypeAlias = Generator[DoctorFinding, None, T]


def ok(check: str, found: str) -> DoctorFinding:
    return DoctorFinding(check, "ok", found)


def warning(check: str, found: str, remedy: str) -> DoctorFinding:
    return DoctorFinding(check, "warning", found, remedy)


def problem(check: str, found: str, remedy: str) -> DoctorFinding:
    return DoctorFinding(check, "problem", found, remedy)


def from_error(check: str, error: Exception, status: CheckStatus = "problem") -> DoctorFinding:
    """A finding from an error."""
    import psycopg

    if isinstance(error, TwistDRError):
        names = error.target is not None and not check.endswith(f" {error.target}")
        return DoctorFinding(check, status, f"{error.target}: {said(error)}" if names else said(error), error.remedy)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        found = f"the operating system says: {error.strerror or type(error).__name__}{place}"
        return DoctorFinding(check, status, found, "fix that path's rights or its disk")
    if isinstance(error, psycopg.Error):
        return DoctorFinding(
            check, status, f"PostgreSQL refused a question: {first_line(error)}", "grant what it asks for"
        )
    # The text of any other error is left out: nobody knows what it quotes.
    return DoctorFinding(
        check, status, f"this check itself broke ({type(error).__name__})", "report it as a defect of twist-dr"
    )


def said(error: TwistDRError) -> str:
    """What an error of ours says happened, as a line of a table."""
    return error.what.removesuffix(".")


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


def shown_finding(finding: DoctorFinding) -> DoctorFinding:
    """A finding as it may leave us, and not longer than a person reads."""
    found = leaving(finding.found)
    if len(found) > _LONGEST:
        found = found[:_LONGEST] + "…"  # only now: half a secret would not be known for one
    return replace(finding, found=found, remedy=None if finding.remedy is None else leaving(finding.remedy))
