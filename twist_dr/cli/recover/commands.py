"""``twist-dr recover``: what it does with its options, and what it says."""

from __future__ import annotations

import argparse
import os
import signal
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from twist_dr.cli.output import report as told_beside
from twist_dr.cli.output import say, show, wants_json
from twist_dr.cli.recover.arguments import DATABASE_VARIABLE, check_usage
from twist_dr.cli.recover.check import check_artifacts
from twist_dr.cli.recover.check_base import check_base
from twist_dr.cli.recover.database import recover_database
from twist_dr.cli.recover.files import (
    ROLES,
    look_at_file,
    look_at_folder,
    recover_configuration,
    recover_dump,
    recover_everything,
    recover_media,
)
from twist_dr.cli.recover.found import Found, choose_backup, find_backups, found_document, found_table, taken_at
from twist_dr.cli.recover.place import choose_application, machine_for_now, open_keyring, open_target, target_settings
from twist_dr.cli.recover.point import plan_point, recover_cluster
from twist_dr.cli.recover.reach import Recoverable, base_table, find_reach, reach_document, reach_table
from twist_dr.cli.recover.scratch import need_space_to_recover, scratch_base
from twist_dr.cli.recover.server import look
from twist_dr.errors import (
    BaseBackupMissing,
    ClientToolsMissing,
    CredentialsRefused,
    DatabaseError,
    DatabaseGone,
    DatabaseRefused,
    DatabaseUnreachable,
    RestoreRefused,
    StagingFull,
    TargetReauthorize,
    TargetRefused,
    TargetUnavailable,
    TwistDRError,
    WalVanished,
)
from twist_dr.postgres.extension_members import KEPT
from twist_dr.recovery.planning import RecoveryRequest
from twist_dr.repository.keys import Keyring
from twist_dr.repository.kinds import BASE, CONFIGURATION
from twist_dr.repository.manifest import kind_of
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.settings import AnyTarget
from twist_dr.system.progress import Report, human_bytes, human_seconds
from twist_dr.system.words import counted

#: What to do about the kinds of errors whose remedy elsewhere speaks of twist-dr.yaml, of jobs or of the doctor: none of them is there on this day.
_REMEDIES: dict[type[TwistDRError], str] = {
    BaseBackupMissing: "leave --base out, restore a full backup with --backup, or see what there is with the same command without --to",
    ClientToolsMissing: "install PostgreSQL's programs of that version, or put their folder into PATH",
    CredentialsRefused: "correct --from-target",
    DatabaseError: "see the server's log for why, then run again",
    DatabaseGone: f"correct user, password and database name in {DATABASE_VARIABLE}, or pg_hba.conf",
    DatabaseRefused: f"correct user, password and database name in {DATABASE_VARIABLE}, or pg_hba.conf",
    DatabaseUnreachable: f"see that the server runs, and correct host and port in {DATABASE_VARIABLE}",
    StagingFull: "free space there, or set TMPDIR to a folder on a larger disk",
    TargetReauthorize: "run it again, without the file of --grant if there is one, and do as it says",
    TargetRefused: "correct --from-target, or what is allowed there",
    TargetUnavailable: "see that it is mounted, or can be reached from here, or correct --from-target",
    WalVanished: "say it with --accept-loss",
}


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """The whole command; returns its exit status. Raises ``TwistDRError``, and ``KeyboardInterrupt`` also when terminated."""
    check_usage(parser, options)
    report = told_beside(options)
    now = machine_for_now(options.grant, options.keyring)
    target = target_settings(options.from_target)
    with _interrupted_by_signals(report), _remedies_of_this_day(target), now as machine:
        keyring = open_keyring(options.keyring)
        repository = choose_application(open_target(target, machine), options.application)
        if options.to is not None:
            request = RecoveryRequest(options.to, options.base, options.timeline, options.accept_loss or "")
            if options.plan:
                plan_point(request, repository, keyring, report)
                say("Nothing was changed. To do it, write --cluster-to FOLDER in the place of --plan.")
            else:
                recover_cluster(request, options.cluster_to, repository, keyring, report)
            return 0
        wanted = options.backup or options.check
        if not wanted:
            return _list(repository, keyring, options)
        copy = OneCopy(choose_backup(repository, keyring, wanted, report), repository, keyring)
        if options.check:
            return _check(copy, report, options)
        _Recovery(options, copy, report).run()
        return 0


def _list(repository: Repository, keyring: Keyring, options: argparse.Namespace) -> int:
    found, reaches = find_reach(repository, keyring, find_backups(repository, keyring))
    document = {
        "application": repository.application,
        "target": repository.target.location,
        "backups": map(found_document, found),
        "recoverable": map(reach_document, reaches),
    }
    said = f"{repository.application} on {repository.target.location}\n\n"
    show(options, lambda: document, lambda: said + _listed(found, reaches))
    return 1 if any(each.problem and each.sealed for each in found) else 0


def _listed(found: list[Found], reaches: list[Recoverable]) -> str:
    bases, configuration = (
        [each for each in found if kind_of(each.backup_id) == kind.kind] for kind in (BASE, CONFIGURATION)
    )
    full = [each for each in found if each not in bases and each not in configuration]
    if not bases and not reaches and not configuration:
        return found_table(full)
    told = []
    if full:
        told += ["Full backups: dump, media and configuration of one moment, for --backup.", found_table(full)]
    if configuration:
        told += [
            "Configuration backups: configured files, twist-dr's catalog and Dagster's history, for --backup with --configuration-to.",
            found_table(configuration),
        ]
    if not bases and not reaches:
        return "\n\n".join(told)
    if bases:
        told += [
            "Base backups: the files of the whole database server, for --to. WAL leads on from them to any later moment.",
            base_table(bases),
        ]
    return "\n\n".join([*told, "What --to can recover:", reach_table(reaches)])


def _check(copy: OneCopy, report: Report, options: argparse.Namespace) -> int:
    manifest, checked = copy.manifest, []
    check = check_artifacts if manifest.base is None else check_base
    for each in check(copy, report):
        checked.append(each)
        if not wants_json(options):
            say(
                f"{'BAD' if each.problem else 'ok':3}  {each.name}, {human_bytes(each.size)}{f': {each.problem}' if each.problem else ''}"
            )
    bad = [each for each in checked if each.problem]
    said = (
        f"\n{manifest.backup_id} is NOT good here: take it from another storage target, or choose another backup"
        if bad
        else f"\n{manifest.backup_id} is good: all of it was read, authenticated and compared with what was recorded"
    )
    document = {"backup_id": manifest.backup_id, "good": not bad, "artifacts": checked}
    show(options, lambda: document, lambda: said)
    return 1 if bad else 0


class _Recovery:
    """``--backup``: everything is looked at first, then each part is brought back by itself."""

    def __init__(self, options: argparse.Namespace, copy: OneCopy, report: Report) -> None:
        self._options = options
        self._copy = copy
        self._manifest = manifest = copy.manifest
        self._report = report
        if manifest.base is not None:
            raise RestoreRefused(
                f"{manifest.backup_id} is a base backup, the files of a whole database server",
                remedy="recover from it with --to POINT --cluster-to FOLDER, or choose a full backup",
            )

    def run(self) -> None:
        # All of it is there, before anything begins.
        self._copy.repository.held(self._manifest)
        work = self._look()
        when = f"{taken_at(self._manifest):%Y-%m-%d %H:%M:%S} UTC"
        self._report.info(
            f"{self._manifest.backup_id} of {self._copy.repository.application}, taken {when}, from {self._copy.repository.target.location}"
        )
        told: list[str] = []
        try:
            for each in work:
                told.append(each())
        except BaseException:
            for line in told:
                self._report.warning(f"what follows failed, and this stays: {line}")
            raise
        say("\n" + "\n".join(told) + f"\n\nThis is the state of {when}. Next:\n" + "\n".join(self._next()))

    def _look(self) -> list[Callable[[], str]]:
        """Refuse what cannot be done; gives what is to do. Nothing was changed when this raises."""
        options, work = self._options, list[Callable[[], str]]()
        if options.database:
            work.append(self._look_at_database())
        if options.media_to:
            folder = look_at_folder(options.media_to, "--media-to", self._size("media", "media.tar"))
            work.append(lambda: self._media(folder))
        if options.configuration_to:
            size = self._size("configuration", "configuration.tar")
            if self._manifest.kind == "configuration":
                size = self._manifest.plain_bytes
            place = look_at_folder(options.configuration_to, "--configuration-to", size)
            work.append(lambda: self._configuration(place))
        if options.dump_to:
            file = look_at_file(options.dump_to, "--dump-to", self._size("database", "database.dump"))
            work.append(lambda: self._dump(file))
        return work

    def _size(self, part: str, name: str) -> int:
        artifact = self._manifest.artifact(name)
        if artifact is None:
            raise RestoreRefused(
                f"{self._manifest.backup_id} holds no {part}",
                remedy="leave it out, or choose another backup",
            )
        return artifact.size

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _look_at_database(self) -> Callable[[], str]:
        need_space_to_recover(
            scratch_base(),
            self._size("database", "database.dump"),
            "free space there, or set TMPDIR to a folder on a larger disk",
        )
        facts = self._manifest.postgres
        assert facts is not None
        new = look(os.environ.get(DATABASE_VARIABLE), facts)

        def restore() -> str:
            done = recover_database(new, self._copy, jobs=self._options.jobs, report=self._report)
            made = f", roles made: {', '.join(done.made_roles)}" if done.made_roles else ""
            return f"database: {new.cluster.place}, {counted(done.found.rows, 'row')} in {counted(done.found.tables, 'table')} as recorded{made}, in {human_seconds(done.seconds)}"

        return restore

    def _media(self, folder: Path) -> str:
        found, places = recover_media(folder, self._copy, self._report)
        return f"media: {counted(found.files, 'file')}, {human_bytes(found.bytes)}, in {', '.join(map(str, places))}"

    def _configuration(self, folder: Path) -> str:
        if self._manifest.kind == "configuration":
            return "\n".join(recover_everything(folder, self._copy, self._report))
        found = recover_configuration(folder, self._copy, self._report)
        return f"configuration: {counted(found.files, 'file')} in {folder}, below it by their old paths"

    def _dump(self, file: Path) -> str:
        roles, *more = recover_dump(file, self._copy, self._report)
        kept = f"; of extensions: {', '.join(map(str, more))}" if more else ""
        return f"dump: {file}, {human_bytes(self._size('database', 'database.dump'))}, checked; roles with the hashes of their passwords: {roles}{kept}"

    def _next(self) -> list[str]:
        options, steps = self._options, []
        if options.dump_to and not options.database:
            steps.append(
                f"as a superuser: psql -X -f {ROLES} postgres (roles that exist already are errors to pass over), createdb -T template0 NEW_DATABASE, "
                f"pg_restore -d NEW_DATABASE {options.dump_to.name}; then remove these files"
            )
            if self._manifest.artifact(KEPT) is not None:
                steps.append("what belongs to extensions comes back as docs/what-is-in-a-backup.md says, by hand")
        if options.configuration_to and self._manifest.kind == "configuration":
            steps.append(
                "bring back what was lost, as docs/configuration-backup.md says: contents.json tells where each piece was"
            )
        if options.configuration_to:
            steps.append("compare the configuration with what is there now, and copy what you need: it holds secrets")
        if options.media_to:
            steps.append("see that the application's user may read and write the media folders")
        if options.database or options.media_to:
            steps.append("point the application to what was restored, start it, and look at it")
        if options.database:
            version = self._manifest.app_version
            which = f"version {version}" if version else "that of the backup, which does not say its version"
            steps.append(f"its code must be {which}, or newer: then run its migrations")
            steps.append("twist-dr init NAME (or bring back twist-dr.yaml), keep the old keyring, twist-dr doctor")
            steps.append(
                "make a new backup, and read the old ones into the catalog: twist-dr catalog rebuild --from TARGET"
            )
        return [f"  {number}. {step}" for number, step in enumerate(steps, 1)]


@contextmanager
def _remedies_of_this_day(target: AnyTarget) -> Iterator[None]:
    try:
        yield
    except TwistDRError as error:
        remedy = remedy_of_this_day(error, target)
        if remedy is None:
            raise
        raise type(error)(error.what, remedy=remedy, target=error.target) from error


def remedy_of_this_day(error: TwistDRError, target: AnyTarget) -> str | None:
    """What to do about an error whose own remedy speaks of what is not there; None where that is as good as ever."""
    setting = f" of storage_targets.{error.target}"
    remedy = error.remedy or ""
    # Of a key's passphrase and the like the error knows more than the kind; of an access key that a URL leaves to the environment it does not.
    knows = type(error) is not CredentialsRefused or bool(target.url_variables)
    if knows and setting in remedy and f"the credentials{setting}" not in remedy:
        for name, variable in target.url_variables.items():
            remedy = remedy.replace(name, f"{name} (with a URL: {variable})")
        return remedy.replace(setting, " of --from-target")
    if type(error) is CredentialsRefused and target.credentials_remedy:
        return f"{target.credentials_remedy}, or {_REMEDIES[CredentialsRefused]}"
    if type(error) is TargetUnavailable and target.folder is None:
        return "see that it can be reached from here, or correct --from-target"
    return _REMEDIES.get(type(error))


@contextmanager
def _interrupted_by_signals(report: Report) -> Iterator[None]:
    """What was begun is removed also when the process is asked to end.

    Python drops an exception that comes up in its own callbacks, of which there are some around a fork: the report is told as
    well, so that the work stops at its next look. By another thread, as the main one may hold the event's lock right now.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        start_new_thread(report.stop.set, ())
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
