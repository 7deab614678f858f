"""A recovery rehearsed, harmlessly, and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from twist_dr.backup.from_settings import chosen_names
from twist_dr.backup.tools_proof import verification_plan
from twist_dr.catalog.notes import Drilled, WayBack
from twist_dr.errors import BackupNotFound, TwistDRError, VerificationFailed
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.manifest import Kind
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.settings import Application
from twist_dr.system.progress import human_seconds
from twist_dr.verify.choosing import choose_newest, note_bad, summed_up
from twist_dr.verify.proof import prove, record_verification
from twist_dr.verify.rehearsal import rehearse
from twist_dr.verify.verification import VerificationResult
from twist_dr.wal.from_settings import known_reach
from twist_dr.watch.audit import note_key_use

_NAMED = 5

#: Phases for people, of which each takes the seconds of some parts of a rehearsal.
_RESTORE = {
    "fetch": ("fetch", "media", "configuration"),
    "restore": ("scratch server", "restore"),
    "compare": ("compare", "content"),
}
_RECOVERY = {"fetch": ("unpack",), "replay": ("replay", "prove", "promote"), "compare": ("check pages",)}


@dataclass(frozen=True)
class Rehearsed:
    """What a drill measured: each way back that was rehearsed to the end. ``objective_seconds``: what the settings promise."""

    target: str
    ways: Mapping[str, WayBack]
    notes: tuple[str, ...]
    objective_seconds: float | None


class Drill:
    """One drill."""

    def __init__(self, app: Application) -> None:
        self.settings = app.settings
        self.ways: dict[str, WayBack] = {}
        self.target = ""
        self.notes: list[str] = []
        self._app = app
        self._report = app.report
        self._began_at = datetime.now(timezone.utc)
        self._missing: list[str] = []

    def run(self, target: str = "next", *, recovery: bool = True) -> Rehearsed:
        """Rehearse, record and judge. Raises ``VerificationFailed`` when a backup is not good or the time is not kept, and storage errors."""
        repository, backup_id = self._choose(target)
        self.target = repository.target.name
        self._report.info(f"a drill from {self.target}: {backup_id}")
        try:
            self._restore(repository, backup_id)
            if recovery and self.settings.wal is not None:
                self._recover(repository)
            self._judge()
            if self._missing:
                raise VerificationFailed(f"The drill from {self.target} went well, but {summed_up(self._missing)}")
        except TwistDRError as error:
            # A target that is away keeps its turn.
            if not error.retryable:
                self.note(str(error))
            raise
        self.note(None)
        return Rehearsed(self.target, self.ways, tuple(self.notes), self._objective_seconds)

    # -- which -------------------------------------------------------------------------------------------------------

    def _choose(self, wanted: str) -> tuple[Repository, str]:
        """The target whose turn it is, and its newest full backup. One that holds none is passed over, and said."""
        places = self._app.repositories(self.settings.restore.stall_seconds)
        names = self._in_turn() if wanted.strip() == "next" else chosen_names(self.settings.enabled_targets, wanted)
        for name in names:
            try:
                return places[name], self._newest("full", places[name])
            except BackupNotFound:
                pass
            except VerificationFailed as lost:
                # Another target can be rehearsed all the same; that this one should hold some is told at the end.
                self._missing.append(str(lost))
            self._say(f"{name} holds no full backup, so nothing can be rehearsed from it")
        raise BackupNotFound(f"{', '.join(names)}: no full backup is there", remedy="launch the job backup_full first")

    def _newest(self, kind: Kind, repository: Repository) -> str:
        """Raises what :func:`choose_newest` raises."""
        choice = choose_newest(self._app, kind, [repository])
        self._missing += choice.missing
        return choice.backup_id

    def _in_turn(self) -> list[str]:
        names = list(self.settings.enabled_targets)
        noted = self._app.catalog.note(self.settings.application, Drilled)
        last = noted.target if noted else None
        turn = names.index(last) + 1 if last in names else 0
        return names[turn:] + names[:turn]

    # -- the two ways back -------------------------------------------------------------------------------------------

    def _restore(self, repository: Repository, backup_id: str) -> None:
        result = self._rehearsed(repository, backup_id, [backup_id], lambda copy: prove(self._app, copy))
        record_verification(self._app, result, self._began_at)
        self._take("restore", result, _RESTORE)

    def _recover(self, repository: Repository) -> None:
        try:
            backup_id = self._newest("base", repository)
        except BackupNotFound:
            self._say(f"{repository.target.name} holds no base backup, so no recovery to a point in time is rehearsed")
            return

        # From a target that gets no WAL it leads to the backup's own end, whose rows were counted.
        to = "latest" if repository.target.name in self.settings.wal_targets else None

        def work(copy: OneCopy) -> VerificationResult:
            known, plan = (
                known_reach(self._app, repository.target.name),
                verification_plan(self.settings, self._app.cluster),
            )
            patience = self.settings.restore.stall_seconds
            return rehearse(plan, copy, self._report, patience=patience, to=to, known=known)

        base = repository.manifest(backup_id, self._app.keyring).base
        result = self._rehearsed(repository, backup_id, base.chain if base else [backup_id], work)
        last = self._app.catalog.verifications(result.backup_id)[:1]
        if result.unproven and not result.differences:
            self._say(f"{result.backup_id}: {result.unproven}; it is not verified by this")
        elif to is not None and result.verified and last and not last[0].verified:
            # No rows are compared at the latest point: what was found by comparing them is not taken back by this.
            self._say(
                f"{result.backup_id} could be recovered, but its last verification found it bad, and that compares more: launch the job verify_backup with "
                f"backup: {result.backup_id}"
            )
        else:
            record_verification(self._app, result, self._began_at)
        self._take("recovery", result, _RECOVERY)

    def _rehearsed(
        self, repository: Repository, backup_id: str, chain: list[str], work: Callable[[OneCopy], VerificationResult]
    ) -> VerificationResult:
        name = repository.target.name
        with self._app.locks.in_use(chain, "a drill reads it"):
            try:
                manifest, sealed = repository.sealed(backup_id, self._app.keyring)
                if self._app.catalog.backup(self._app.name, backup_id) is None:
                    self._app.catalog.record_backup(manifest, sealed, run_id=None)
                note_key_use(self._app, "verify", backup_id)
                return work(OneCopy(manifest, repository, self._app.keyring))
            except CORRUPT as error:
                note_bad(self._app.catalog, backup_id, name, error)
                raise VerificationFailed(
                    f"The drill from {name} failed, for its copy of {backup_id} is bad: {error} Launch the job scrub, which repairs it."
                ) from error

    def _take(self, way: str, result: VerificationResult, phases: dict[str, tuple[str, ...]]) -> None:
        """Keep what was measured; a backup that is not good ends the drill."""
        self.notes += result.notes
        if result.differences:
            told = "; ".join(result.differences[:_NAMED])
            raise VerificationFailed(
                f"The drill from {result.target} failed: {result.backup_id} restores to something else than was recorded: {told}. "
                "Make a new backup now, and keep this one until the cause is known."
            )
        spent = {
            phase: round(sum(result.seconds.get(part, 0.0) for part in parts), 3) for phase, parts in phases.items()
        }
        self.ways[way] = WayBack(backup_id=result.backup_id, phases=spent, seconds=round(sum(spent.values()), 3))
        told = ", ".join(f"{phase} {human_seconds(seconds)}" for phase, seconds in spent.items())
        self._report.info(f"{way} of {result.backup_id} from {result.target} rehearsed: {told}")

    @property
    def _objective_seconds(self) -> float | None:
        wanted = self.settings.objectives.recovery_time
        return wanted.total_seconds() if wanted is not None else None

    def _judge(self) -> None:
        wanted = self._objective_seconds
        late = [each for each in self.ways.items() if wanted is not None and each[1].seconds > wanted]
        if wanted is not None and late:
            told = " and ".join(
                f"the {name} of {way.backup_id} took {human_seconds(way.seconds)}" for name, way in late
            )
            raise VerificationFailed(
                f"In the drill from {self.target}, {told}, and objectives.recovery_time is {human_seconds(wanted)}; the backups are good",
                remedy="give the machine that restores faster disks or more restore.jobs, use a nearer storage target, or promise less",
            )

    def _say(self, line: str) -> None:
        self.notes.append(line)
        self._report.warning(line)

    def note(self, error: str | None) -> None:
        """Leave the catalog's note: when, from which target, how long each phase of each way took, and what went wrong."""
        drilled = Drilled(
            at=self._began_at,
            target=self.target,
            ok=error is None,
            error=error,
            objective_seconds=self._objective_seconds,
            ways=self.ways,
            run_id=self._app.actor.run_id,
        )
        self._app.catalog.leave_note(self.settings.application, drilled)
