"""Checking the audit log: the chain from the first line to the last, and against what lies beside the catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from twist_dr.catalog.operations import NO_DIGEST, audit_digest
from twist_dr.catalog.rows import AuditLineRow
from twist_dr.settings import Application
from twist_dr.system.words import counted
from twist_dr.watch.audit.log import Places, places, read_anchor, waiting

#: Clocks of machines that share a catalog differ, and are corrected.
_CLOCKS_DIFFER = timedelta(seconds=5)


@dataclass(frozen=True)
class Problem:
    """Something wrong with the log. ``seq`` is the line's number, None when it is about the log. A warning proves no forgery."""

    seq: int | None
    severity: Literal["error", "warning"]
    text: str


@dataclass(frozen=True)
class AuditVerified:
    """What a check found. ``digest`` is that of the last line: whoever keeps it elsewhere can tell a log that was cut off or forged later."""

    lines: int
    digest: str
    problems: tuple[Problem, ...]

    @property
    def sound(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


def verify_log(app: Application) -> AuditVerified:
    """Check the whole log. Raises ``CatalogUnavailable``."""
    # First the anchor: lines that are written meanwhile must not look as if they were missing.
    beside = list(_waiting(places(app.settings)))
    try:
        anchor = read_anchor(places(app.settings))
    except ValueError:
        anchor = None
        beside.append(
            Problem(
                None,
                "error",
                f"{places(app.settings).anchor} is damaged: nothing tells whether lines at the end are missing.",
            )
        )
    lines = app.catalog.audit_lines(app.name)
    found = [*_chain(app.name, lines), *beside]
    digests = {line.seq: line.digest for line in lines}
    if anchor is None:
        if lines and not any(problem.severity == "error" for problem in beside):
            found.append(
                Problem(
                    None,
                    "warning",
                    f"There is no {places(app.settings).anchor}: nothing on this machine tells whether lines at the end are missing.",
                )
            )
    elif anchor.seq not in digests:
        first = max((seq for seq in digests if seq < anchor.seq), default=0) + 1
        found.append(
            Problem(
                first,
                "error",
                f"{_lines(first, anchor.seq)} written here and {'is' if first == anchor.seq else 'are'} missing at or before the end.",
            )
        )
    elif digests[anchor.seq] != anchor.digest:
        found.append(
            Problem(
                anchor.seq,
                "error",
                f"Line {anchor.seq} is not the one that was written: the log was written anew, from a line up to this one.",
            )
        )
    return AuditVerified(len(lines), lines[-1].digest if lines else NO_DIGEST, tuple(found))


def _chain(application: str, lines: Sequence[AuditLineRow]) -> Iterator[Problem]:
    number, digest, time = 0, NO_DIGEST, None
    for _, seq, at, document, previous, kept in lines:
        if seq != number + 1:
            yield Problem(number + 1, "error", f"{_lines(number + 1, seq - 1)} missing.")
        elif previous != digest:
            who = f"line {number} was changed" if number else "it is said to follow another line"
            yield Problem(number or seq, "error", f"Line {seq} does not follow what stands before it: {who}.")
        if audit_digest(previous, document) != kept:
            yield Problem(seq, "error", f"Line {seq} was changed: its text is not the one that its digest was made of.")
        elif not _is_what_it_says(application, seq, at, document):
            yield Problem(
                seq, "error", f"Line {seq} was changed: number, application or time are not those of its text."
            )
        if time is not None and at < time - _CLOCKS_DIFFER:
            yield Problem(
                seq,
                "warning",
                f"Line {seq} is of {at:%Y-%m-%d %H:%M:%S} UTC, before the line it follows ({time:%Y-%m-%d %H:%M:%S}): a clock was set back.",
            )
        number, digest, time = seq, kept, at


def _is_what_it_says(application: str, seq: int, at: datetime, document: str) -> bool:
    try:
        told = json.loads(document)
        return (told["seq"], told["application"]) == (seq, application) and datetime.fromisoformat(told["at"]) == at
    except (ValueError, KeyError, TypeError):
        return False


def _waiting(places: Places) -> Iterator[Problem]:
    try:
        count = len(waiting(places))
    except OSError as error:
        yield Problem(None, "error", f"{places.spool} cannot be read ({error.strerror}).")
        return
    if count:
        yield Problem(
            None,
            "warning",
            f"{counted(count, 'line', 'waits', 'wait')} in {places.spool} because the catalog could not be written; the next line takes them along.",
        )


def _lines(first: int, last: int) -> str:
    return f"Line {first} is" if first >= last else f"Lines {first} to {last} are"
