"""The look right before a deletion: what was planned a while ago must still be so, by catalog, this machine and the target itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twist_dr.errors import BackupError, EncryptionError, ObjectCorrupt, ObjectMissing
from twist_dr.repository.keys import Keyring
from twist_dr.repository.labels import BEFORE_A_CHANGE
from twist_dr.repository.manifest import Manifest
from twist_dr.retention.deletion import Asked, Still
from twist_dr.retention.facts import Looking
from twist_dr.retention.model import INTACT, BackupFacts, Decision, TargetPlan
from twist_dr.retention.planned import PlannedCleanup

#: The plan is made anew unless it is younger than so many times what making it takes: with 100,000 backups every deletion would wait.
_FRESH_TIMES = 2.0


#: Why a backup does not count as held by the target that it moves to; None when all of it is there.
Lacks = Callable[[str, str], str | None]


class CleanupIncomplete(BackupError):
    """Something that should have been deleted is there still, or nobody could tell. Everything else was done."""


class Recheck:
    """Says of each backup that is about to go whether it still should. ``replan`` makes the target's plan from what is known now, and more;
    ``lacks`` is asked of what moves to another target.

    Holds and uses are read every time, and what stayed so far counts as kept.
    """

    def __init__(
        self,
        planned: PlannedCleanup,
        looking: Looking,
        keyring: Keyring,
        replan: Callable[[Sequence[BackupFacts]], TargetPlan],
        lacks: Lacks,
        allow_clock: bool,
    ) -> None:
        self._planned = planned
        self._looking = looking
        self._keyring = keyring
        self._replan = replan
        self._lacks = lacks
        self._allow_clock = allow_clock
        self._known: tuple[object, dict[str, Decision], TargetPlan] | None = None
        self._read_at = self._cost = 0.0
        self._sound: set[str] = set()

    def plan(self) -> TargetPlan:
        """The target's plan, as fresh as can be."""
        return self._fresh()[1]

    def still(self, backup: BackupFacts) -> Still:
        """For :meth:`Deletion.delete`. What it gives raises ``CleanupIncomplete`` when nothing more may go, and storage errors."""

        def why_not(manifest: Manifest) -> str | None:
            decisions, plan = self._fresh()
            now = decisions.get(backup.id)
            if now is None:
                return "nothing is known of it any more"
            if (reason := self._kept(now, plan)) is not None:
                return reason
            if not _same(now.backup, manifest):
                return f"its manifest and the catalog differ; run: twist-dr catalog rebuild --from {self._planned.name}"
            self._require_pillars(now.backup, plan)
            return None

        return why_not

    def still_of_begun(self, backup: BackupFacts) -> Asked:
        """The same for :meth:`Deletion.finish`: of a backup without a manifest it is decided as though it was there still."""

        def why_not() -> str | None:
            plan = self._replan((backup,))
            now = next(each for each in plan.decisions if each.backup.id == backup.id)
            if (reason := self._kept(now, plan)) is not None:
                return reason
            self._require_pillars(backup, plan)
            return None

        return why_not

    def _kept(self, now: Decision, plan: TargetPlan) -> str | None:
        if now.keep:
            return now.reason
        if now.to is not None and (lacking := self._lacks(now.to, now.backup.id)) is not None:
            return lacking
        clock = [each for each in plan.forbidden_by(allow_clock=self._allow_clock) if each.about == "clock"]
        return str(clock[0]) if clock else None

    def _fresh(self) -> tuple[dict[str, Decision], TargetPlan]:
        facts = self._planned.facts
        signs = (self._looking.holds(facts.notes), self._looking.uses(), dict(facts.stayed))
        begun = time.monotonic()
        if self._known is None or self._known[0] != signs or begun - self._read_at > _FRESH_TIMES * self._cost:
            plan = self._replan(())
            self._known = (signs, {each.backup.id: each for each in plan.decisions}, plan)
            self._read_at = time.monotonic()
            self._cost = self._read_at - begun
        return self._known[1], self._known[2]

    def _require_pillars(self, backup: BackupFacts, plan: TargetPlan) -> None:
        """Those that make others superfluous must be there, whole: the newest good backup of its kind, and the newest verified one.

        Of what was made before an update or a restore, and of the others: the one does not stand for the other.
        """
        name, repository = self._planned.name, self._planned.facts.repository
        others = [
            each.backup for each in plan.kept if each.backup.kind == backup.kind and each.backup.state in INTACT
        ]  # fmt: skip
        lasting = [each for each in others if each.label not in BEFORE_A_CHANGE and not each.partial]
        pillars = [
            few[0] for some in (others, lasting) for few in (some, [each for each in some if each.verified]) if few
        ]
        if backup.state in INTACT and not others:
            raise CleanupIncomplete(
                f"nothing else of its kind would be left beside {backup.id}, so it stays",
                remedy="look at the plan",
                target=name,
            )
        for link in {link for pillar in pillars for link in pillar.links}:
            if link in self._sound:
                if repository.has_manifest(link):
                    continue
                problem = "its manifest is gone"
            else:
                try:
                    repository.held(repository.manifest(link, self._keyring))
                    self._sound.add(link)
                    continue
                except (BackupError, EncryptionError, ObjectCorrupt, ObjectMissing) as error:
                    problem = str(error)
            raise CleanupIncomplete(
                f"{link} is to outlive what goes, and it is not whole there ({problem}), so nothing was deleted any more",
                remedy=f"materialize its copy on {name} anew, then run cleanup again",
                target=name,
            )


def _same(backup: BackupFacts, manifest: Manifest) -> bool:
    chain = tuple(manifest.base.chain) if manifest.base else ()
    return (
        (manifest.kind, manifest.label) == (backup.kind, backup.label)
        and abs((manifest.started_at - backup.taken_at).total_seconds()) < 1
        and set(chain) <= {*backup.chain, backup.id}
    )
