"""Which alerts there are: what is not as it should be, from facts alone."""

from __future__ import annotations

from datetime import datetime

from twist_dr.settings import Settings
from twist_dr.system.severity import SEVERITIES
from twist_dr.watch.alerts import (
    rules_backups,
    rules_deviation,
    rules_foretold,
    rules_grants,
    rules_operations,
    rules_recovery,
    rules_targets,
)
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules_common import Finding, Rule

RULES: tuple[Rule, ...] = (
    rules_operations.catalog_lost,
    rules_recovery.recovery_point,
    rules_recovery.media,
    rules_backups.failed,
    rules_backups.partial,
    rules_backups.missed,
    rules_backups.verification_failed,
    rules_operations.restore_interrupted,
    rules_operations.restore_failed,
    rules_targets.integrity,
    rules_targets.repaired,
    rules_targets.bad_wal,
    rules_targets.trouble,
    rules_grants.reauthorize,
    rules_grants.ending,
    rules_grants.client_secret,
    rules_targets.behind,
    rules_targets.capacity,
    rules_targets.staging,
    rules_foretold.able,
    rules_foretold.clocks,
    rules_foretold.slower,
    rules_foretold.upload_limit,
    rules_recovery.wal_position,
    rules_recovery.wal_integrity,
    rules_recovery.spool,
    rules_recovery.clock,
    rules_deviation.size,
    rules_deviation.rows,
    rules_deviation.duration,
    rules_operations.job_failed,
    rules_operations.stale,
    rules_operations.channel,
)


def findings(facts: Facts, settings: Settings, now: datetime) -> list[Finding]:
    """Everything that somebody should know, one for each cause, worst first. Pure; never raises: a rule that is broken is a finding."""
    found: dict[str, Finding] = {}
    for rule in RULES:
        try:
            for finding in rule(facts, settings, now):
                known = found.get(finding.cause)
                if known is None or _rank(finding) > _rank(known):
                    found[finding.cause] = finding
        except Exception as error:
            # A defect of ours must not silence all other rules.
            cause = f"rule_failed:{rule.__name__}"
            found[cause] = Finding(
                cause, "rule_failed", "error", f"The rule {rule.__name__} does not work ({type(error).__name__}: {error}), so what it watches is not watched.",
                "Report this with the version of twist-dr: it is a defect.",
                # Whether anything could be recovered is not known then.
                makes="unsafe" if rule is rules_recovery.recovery_point else None,
            )  # fmt: skip
    return sorted(found.values(), key=lambda finding: -_rank(finding))


def _rank(finding: Finding) -> int:
    return SEVERITIES.index(finding.severity)
