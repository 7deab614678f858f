"""One verification from beginning to end: the backup chosen, proven from its first good copy, and what came out recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from twist_dr.errors import BackupNotFound, LaunchRefused, StorageError, TwistDRError, VerificationFailed, WalError
from twist_dr.repository.first_good import CORRUPT, PASSED_OVER, first_good, told_by_all
from twist_dr.repository.kinds import KINDS
from twist_dr.repository.labels import is_meant, split_label
from twist_dr.repository.manifest import Kind, kind_of
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import OneCopy
from twist_dr.settings import Application
from twist_dr.system.events import Proven
from twist_dr.system.words import no_good_copy
from twist_dr.verify.choosing import Choice, choose_newest, lacks, note_bad, summed_up
from twist_dr.verify.proof import prove, record_verification
from twist_dr.verify.verification import VerificationResult
from twist_dr.watch.audit import note_key_use

#: What ``backup`` may name beside an id.
_NEWEST: Mapping[str, Kind] = {each.latest: each.kind for each in KINDS.values()}


@dataclass(frozen=True)
class Verified:
    """What came out. ``meant``: whether it is a state that somebody would want back, and none that a restore was about to replace.

    ``corrupt``: targets whose copies are bad or gone; ``missing``: a sentence for each newer backup that is not there.
    """

    application: str
    result: VerificationResult
    meant: bool
    corrupt: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def of_data(self) -> bool:
        return KINDS[kind_of(self.result.backup_id)].brings_data

    def raise_failures(self) -> None:
        """Raise ``VerificationFailed`` when it is not as it was recorded; also when something newer, or another copy, is lost."""
        result = self.result
        if not result.verified:
            raise VerificationFailed(
                f"{result.backup_id} from {result.target} is NOT verified: {_some(result.differences) or result.unproven}. "
                f"{_advice(result)} {summed_up(self.missing)}".rstrip()
            )
        told = list(self.missing)
        if self.corrupt:
            place = f"{self.application}/{KINDS[kind_of(result.backup_id)].copies}"
            keys = " or ".join(f"key:{place}/{name}" for name in self.corrupt)
            told.insert(
                0,
                f"its copy on {', '.join(self.corrupt)} is bad. Store it anew while "
                f"it is the newest: dagster asset materialize -m twist_dr.definitions --select '{keys}'",
            )
        if told:
            raise VerificationFailed(f"{result.backup_id} is verified from {result.target}, but {summed_up(told)}")


def verify(app: Application, wanted: str, target: str) -> Verified:
    """Prove a backup from the first good copy, and write down what came out.

    ``wanted``: an id, or one of ``latest``, ``latest-base``, ``latest-configuration``, with a label behind a colon; ``target``: a name, or ``any``.
    Raises ``VerificationFailed`` when no copy is good, and what :func:`choose_newest` raises; what is found bad is in the result.
    """
    repositories = _repositories(app, target)
    choice = _chosen(app, wanted, repositories)
    backup_id = choice.backup_id
    started_at = datetime.now(timezone.utc)
    corrupt: list[str] = []
    with app.locks.in_use([backup_id], "a verification reads it"):
        result = _verify_first_good(app, backup_id, repositories, corrupt)
    record_verification(app, result, started_at)
    note_key_use(app, "verify", result.backup_id)
    known = app.catalog.backup(app.name, backup_id)
    meant = known is None or is_meant(known.label, None)
    found = Verified(app.name, result, meant, tuple(corrupt), tuple(choice.missing))
    if result.verified and found.of_data:
        app.report.emit(Proven(backup_id))
    return found


def _repositories(app: Application, wanted: str) -> list[Repository]:
    names = list(app.targets)
    if wanted not in ("any", *names):
        raise LaunchRefused(
            f"{wanted!r} is no enabled storage target",
            remedy=f"choose among {', '.join(names)}, or write 'any' in target",
        )
    return [place for name, place in app.repositories().items() if wanted in ("any", name)]


def _chosen(app: Application, wanted: str, repositories: list[Repository]) -> Choice:
    word, label = split_label(wanted)
    kind = _NEWEST.get(word)
    return Choice(wanted) if kind is None else choose_newest(app, kind, repositories, label)


def _verify_first_good(
    app: Application, backup_id: str, repositories: list[Repository], corrupt: list[str]
) -> VerificationResult:
    """The result from the first good copy. Names of targets whose copies are bad are added to ``corrupt``."""
    catalog, failed = app.catalog, list[TwistDRError]()

    def verify(repository: Repository) -> VerificationResult:
        manifest, sealed = repository.sealed(backup_id, app.keyring)
        if catalog.backup(manifest.application, backup_id) is None:
            catalog.record_backup(manifest, sealed, run_id=None)
        app.report.info(f"verifying {backup_id} from {repository.target.name}")
        return prove(app, OneCopy(manifest, repository, app.keyring))

    def pass_over(repository: Repository, error: TwistDRError) -> None:
        name = repository.target.name
        failed.append(error)
        app.report.warning(f"passed over {name}: {error.clause}")
        if isinstance(error, CORRUPT) or (isinstance(error, BackupNotFound) and catalog.is_held(backup_id, name)):
            corrupt.append(name)
            note_bad(catalog, backup_id, name, error)

    # What a target lacks of the WAL that a base needs makes its copy useless, too.
    found = first_good(repositories, verify, pass_over, errors=(*PASSED_OVER, WalError))
    if found is None:
        asked = [repository.target.name for repository in repositories]
        raise VerificationFailed(f"{no_good_copy(asked, backup_id)} {told_by_all(failed)}")
    # The other targets' copies are not read, but they must be there.
    corrupt += _lacking(app, backup_id, repositories[len(failed) + 1 :])
    return found[1]


def _lacking(app: Application, backup_id: str, repositories: list[Repository]) -> list[str]:
    """Those of the targets that should have a copy and have none. One that does not answer is only said: it is not its copy's fault."""
    found = []
    for repository in repositories:
        try:
            found += [repository.target.name] if lacks(app.catalog, backup_id, repository) else []
        except StorageError as error:
            app.report.warning(f"passed over {repository.target.name}: {error.clause}")
    return found


def _advice(result: VerificationResult) -> str:
    if result.differences:
        return "Make a new backup now, and keep this one until the cause is known."
    return "Let twist-dr doctor say what is missing, then take a new base backup."


def _some(lines: list[str]) -> str:
    return "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
