"""How bad something is."""

from __future__ import annotations

from typing import Literal

Severity = Literal["info", "warning", "error", "critical"]

#: From harmless to worst.
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error", "critical")


def at_least(severity: Severity, least: Severity) -> bool:
    """Whether ``severity`` is as bad as ``least``, or worse."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(least)
