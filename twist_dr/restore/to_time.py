"""Recoveries to a point from the settings: planned, then into a sandbox, a data folder, or in the place of the live database."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.errors import IsolationMissing, LockTimeout, RecoveryFailed
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.confinement import Confinement, Isolation, need_isolation
from twist_dr.postgres.lock_waits import RECOVERED_SERVER_SECONDS
from twist_dr.postgres.scratch import scratch_base
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.recovery.finish import finish_cluster
from twist_dr.recovery.planning import PlannedRecovery, RecoveryRequest, plan_recovery
from twist_dr.recovery.recover import Recovered, clear_recovery_leftovers, recover, recovered_in
from twist_dr.recovery.sandbox import ClusterSandbox, clear_unfinished, unfinished
from twist_dr.recovery.untar import Owner
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.restore.journal import new_restore_id
from twist_dr.restore.plan import Mode, RestoreRequest, restore_place
from twist_dr.restore.record import RestoreRecord
from twist_dr.restore.restore import Restore
from twist_dr.settings import Application, Settings
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import human_bytes
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.wal.archived import Known

#: What holds the dump that a replaced database comes from, below the work folder.
_DUMPED = "recovered-"
_PLANNING = "planning-"
#: The one storage target that it has.
_RECOVERED = "recovered"


@dataclass(frozen=True)
class RecoveryOrder:
    """What somebody asked for. ``folder`` for mode cluster, ``port`` for a sandbox (0: a free one)."""

    request: RecoveryRequest
    mode: Mode = "plan"
    reason: str = ""
    folder: Path | None = None
    port: int = 0
    run_migrations: bool = True


class Recovery:
    """One recovery. ``known``: how far archives were known to reach; ``back_up`` and ``note`` as in ``Restore``."""

    def __init__(
        self,
        app: Application,
        order: RecoveryOrder,
        repositories: Sequence[Repository],
        *,
        known: Sequence[Known] = (),
        back_up: Callable[[], str] | None = None,
        note: Callable[[RestoreRecord], None] = lambda record: None,
    ) -> None:
        self._app = app
        self._settings = app.settings
        self._order = order
        self._repositories = repositories
        self._report = app.report
        self._known = known
        self._back_up = back_up
        self._note = note
        began_at = datetime.now(timezone.utc)
        self.record = RestoreRecord(
            new_restore_id("restore", began_at), "restore", order.mode, order.reason, parts=["database"],
            recovery_target=order.request.to, recovery_point=order.request.to, started_at=began_at,
            recovery_options=_options(order, repositories),
        )  # fmt: skip
        self.sources: list[Sources] = []

    def run(self) -> RestoreRecord:
        """Recover as asked. Call it under the application's lock unless it is a plan.

        Raises the errors under ``WalError`` and ``RestoreError``, and what targets, servers and disks raise. In every case the
        live system is as it was, as with a restore.
        """
        record, work_dir = self.record, self._settings.work_dir
        self._note(record)
        work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with record.timed("total"):
            clear_left_over(work_dir, _PLANNING)
            if self._order.mode != "plan":
                need_isolation(self._isolation)  # now, rather than when all has been planned
                self._clear_leftovers()
            with ScratchFolder(work_dir, _PLANNING) as folder, record.timed("plan"):
                planned = plan_recovery(
                    self._order.request,
                    self._repositories,
                    self._app.keyring,
                    self._settings.database.client_tools,
                    folder,
                    self._report,
                    now=datetime.now(timezone.utc),
                    known=self._known,
                )
            self._tell(planned)
            if self._order.mode == "plan":
                record.end(
                    "done",
                    f"{_said(planned)}; nothing was changed. Set mode to sandbox, replace or cluster to do it.",
                )
            else:
                modes = {"sandbox": self._to_sandbox, "cluster": self._to_cluster, "replace": self._replace}
                try:
                    modes[self._order.mode](planned)
                finally:
                    self._note_passed_over(planned)
        return record

    def _clear_leftovers(self) -> None:
        """What killed recoveries left: servers died with them, folders stayed."""
        clear_left_over(self._settings.work_dir, _DUMPED)
        clear_recovery_leftovers(self._base())
        clear_unfinished(sandbox_base(self._settings))

    def _base(self) -> Path:
        scratch = self._settings.scratch_dir
        scratch.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return scratch_base(scratch)

    @property
    def _isolation(self) -> Isolation:
        return self._settings.verification.isolation

    def _tell(self, planned: PlannedRecovery) -> None:
        plan, record = planned.plan, self.record
        record.backup_id = plan.base.backup_id
        record.recovery_point = _said(planned)
        record.recovery = plan.markdown()
        if self._order.mode == "plan":
            self._report.page(f"\n{record.recovery}")
        else:
            self._report.info(_said(planned))
        for line in (*plan.warnings, *self._isolation_warnings()):
            record.warnings.append(line)
            self._report.warning(line)
        self._note_passed_over(planned)
        self._note(record)

    def _isolation_warnings(self) -> Iterator[str]:
        """Why what is planned would be refused."""
        try:
            need_isolation(self._isolation)
        except IsolationMissing as missing:
            yield f"this machine would refuse to do it: {missing}"

    def _note_passed_over(self, planned: PlannedRecovery) -> None:
        """Storage targets that gave nothing, and what was bad on those that did, of the WAL as of the base backups."""
        archives = planned.archives
        found = [*archives.unreachable.items(), *archives.passed_over.items()]
        found += [(name, why) for (name, _), why in archives.corrupt.items()]
        told = [(name, why.clause) for name, why in found]
        told += [each for source in self.sources for each in source.passed_over.items()]
        self.record.passed_over = [f"{name}: {why}" for name, why in told]

    # -- the recovered server ------------------------------------------------------------------------------------------

    def _sources(self, planned: PlannedRecovery) -> list[Sources]:
        self.sources = planned.sources(self._settings.restore.stall_seconds)
        return self.sources

    @contextmanager
    def _recovered(self, planned: PlannedRecovery) -> Iterator[Recovered]:
        """The server in a folder that goes with it."""
        with recover(planned, self._sources(planned), self._base(), isolation=self._isolation) as recovered:
            self._note_recovered(recovered, planned)
            yield recovered

    def _note_recovered(self, recovered: Recovered, planned: PlannedRecovery) -> None:
        record = self.record
        record.seconds |= {f"recovery_{phase}": round(spent, 3) for phase, spent in recovered.seconds.items()}
        used = [*planned.archives.used, *(name for source in self.sources for name in source.used)]
        record.sources = [name for name in self._names() if name in used]
        self._note_passed_over(planned)
        for line in recovered.warnings:
            record.warnings.append(line)
            self._report.warning(line)
        self._report.info(f"recovered and proved: {_said(planned)}")

    def _names(self) -> list[str]:
        return [repository.target.name for repository in self._repositories]

    # -- the modes -----------------------------------------------------------------------------------------------------

    def _to_sandbox(self, planned: PlannedRecovery) -> None:
        facts = planned.plan.base.postgres
        assert facts is not None
        folder = sandbox_base(self._settings) / self.record.restore_id
        with self._lasting(planned, folder) as sandbox:
            sandbox.note(
                user=facts.bootstrap_role,
                database=facts.database,
                point=f"{self._order.request.to}, from {planned.plan.base.backup_id}",
            )
        try:
            sandbox.start()
        except BaseException:
            sandbox.remove()
            raise
        self.record.database = facts.database
        self.record.end(
            "done",
            f"{_said(planned)}; the sandbox is a server of its own on 127.0.0.1:{sandbox.port}, with the roles and passwords of then; on this machine, without a "
            f"password: {sandbox.where()}; to be rid of it: twist-dr sandboxes remove {self.record.restore_id}",
        )

    def _to_cluster(self, planned: PlannedRecovery) -> None:
        folder = self._order.folder
        assert folder is not None
        finished = finish_cluster(planned, self._sources(planned), folder, self._base(), isolation=self._isolation)
        self._note_recovered(finished, planned)
        for note in finished.notes:
            self._report.info(note)
        program, log = planned.tools.program("pg_ctl"), folder / "server.log"
        start = shlex.join([str(program), "start", f"--pgdata={finished.data}", f"--log={log}"])
        who = "" if unprivileged()[0] is None else f" as the user {finished.data.owner()}"
        self.record.end(
            "done",
            f"{_said(planned)}; the cluster lies ready in {finished.data}, stopped. {' '.join(finished.notes)} Start it{who} with: {start}",
        )

    @contextmanager
    def _lasting(self, planned: PlannedRecovery, folder: Path) -> Iterator[ClusterSandbox]:
        """A cluster recovered durably into a folder that stays, its server stopped again. If the block fails, it is removed."""
        with Confinement(folder.parent, self._isolation) as confinement, unfinished(folder):
            owner = Owner(confinement.user, confinement.user)
            planned = planned.reachable_for(owner.user, self._base())
            with recovered_in(folder, planned, self._sources(planned), confinement, durable=True) as recovered:
                self._note_recovered(recovered, planned)
            # Chosen only now: a recovery may take hours, and a port that was free then be taken.
            yield ClusterSandbox(folder, planned.tools, owner, self._order.port or free_port())

    def _replace(self, planned: PlannedRecovery) -> None:
        """The database is taken out of the recovered server by a dump, and restored and switched in like every other."""
        facts = planned.plan.base.postgres
        assert facts is not None
        with ScratchFolder(self._settings.work_dir, _DUMPED) as folder:
            with self._recovered(planned) as recovered, self.record.timed("dump"):
                manifest = self._dump(recovered.cluster(facts.database), folder)
            repository = Repository(LocalTarget(_RECOVERED, folder), self._settings.application)
            self._restore(manifest, repository, planned)

    def _dump(self, cluster: Cluster, folder: Path) -> Manifest:
        settings = self._settings
        plan = BackupPlan(
            application=settings.application,
            # On the disk of the recovered files, for minutes: neither packed nor encrypted, but for what never lies open.
            targets={_RECOVERED: Form("none", False)},
            app_version=None,
            reason=self.record.recovery_point or "",
            parts=("database",),
            client_tools=settings.database.client_tools,
            lock_timeout=RECOVERED_SERVER_SECONDS,
            compression_level=1,
        )
        # A staging area is laid out as a storage target is.
        staging = StagingArea(folder / settings.application / "backups")
        try:
            manifest = take_full_backup(plan, cluster, self._app.keyring, staging, self._report)
        except LockTimeout as error:
            raise RecoveryFailed(
                f"At that point the database cannot be taken out of the recovered server: {error}",
                remedy="recover to before it was prepared or to after its end, or with mode: sandbox, and end it there",
            ) from error
        self._report.info(f"dumped {human_bytes(manifest.plain_bytes)} out of the recovered server")
        return manifest

    def _restore(self, manifest: Manifest, repository: Repository, planned: PlannedRecovery) -> None:
        order, record = self._order, self.record
        base_id, sources, passed_over = record.backup_id, list(record.sources), list(record.passed_over)

        def note(changed: RestoreRecord) -> None:
            # Whoever reads the log knows base backups and storage targets; the dump in between is gone tomorrow.
            changed.backup_id, changed.sources, changed.passed_over = base_id, sources, passed_over
            self._note(changed)

        request = RestoreRequest(
            backup_id=manifest.backup_id,
            mode="replace",
            parts=("database",),
            run_migrations=order.run_migrations,
            reason=order.reason,
            name=f"the recovery to {order.request.to}",
            as_of=planned.plan.last_commit_at,
        )
        place = restore_place(self._app, [repository], "replace")
        restore = Restore(request, place, self._report, back_up=self._back_up, note=note, record=record)
        try:
            restore.run()
        finally:
            record.backup_id, record.sources, record.passed_over = base_id, sources, passed_over


def _options(order: RecoveryOrder, repositories: Sequence[Repository]) -> dict[str, str | int]:
    """What was asked for beside the point, in the words of the run config."""
    options: dict[str, str | int] = {}
    if order.request.base is not None:
        options["base"] = order.request.base
    if order.request.accept_loss:
        options["accept_loss"] = order.request.accept_loss
    if order.request.timeline is not None:
        options["timeline"] = order.request.timeline
    if len(repositories) == 1:
        options["source"] = repositories[0].target.name
    return options


def _said(planned: PlannedRecovery) -> str:
    return planned.plan.sentence().removesuffix(".")


def sandbox_base(settings: Settings) -> Path:
    """Where recovered clusters lie that somebody looks at; a place that the server's user can enter."""
    settings.work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return scratch_base(settings.work_dir / "cluster-sandboxes")


def why_port_is_taken(port: int) -> str:
    """Why nobody can listen on a TCP port on loopback; empty when one can."""
    with socket.socket() as probe:
        # As PostgreSQL does: connections of who listened before do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return os.strerror(error.errno or 0)
    return ""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
