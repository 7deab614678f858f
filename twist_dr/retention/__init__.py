"""What is kept and what goes, from settings, catalog and targets: looked at, planned, carried out, recorded.

``plan.py`` and what it stands on have the rules, ``deletion.py`` the deed; the rest is what they are told, and what becomes of it.
"""

from twist_dr.retention.cleanup import Retention
from twist_dr.retention.facts import Looking, TargetFacts
from twist_dr.retention.planned import PlannedCleanup
from twist_dr.retention.recheck import CleanupIncomplete
from twist_dr.retention.telling import TargetOutcome

__all__ = ["CleanupIncomplete", "Looking", "PlannedCleanup", "Retention", "TargetFacts", "TargetOutcome"]
