"""The rule about the catalog itself: one that was lost has forgotten what was wrong, and would be silent about it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from twist_dr.catalog.location import parse_location
from twist_dr.settings import Settings
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules_common import Finding


def lost(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The catalog is not the one that was written before. Stays until it is rebuilt, or the old one is back."""
    if facts.catalog_lost:
        yield Finding(
            "catalog_lost", "catalog_lost", "critical",
            f"The catalog {parse_location(settings.catalog_url).place} was lost or replaced: it lacks what this machine wrote into it last. "
            "What it knew of backups, proofs, restores, holds and alerts is not known now.",
            "If the old one is only away (a disk that is not mounted), stop twist-dr and put it back; else read the backups back: "
            "twist-dr catalog rebuild --from TARGET",
        )  # fmt: skip
