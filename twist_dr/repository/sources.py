"""The copies of one backup, from first to last: a copy that is missing, slow, corrupt or out of reach is passed over for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from twist_dr.errors import BackupNotFound, RestoreFailed, TwistDRError, about
from twist_dr.repository.first_good import CORRUPT, first_good, told_by_all
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.storage.base import OnBytes, no_progress
from twist_dr.storage.patience import patient
from twist_dr.system.progress import Report
from twist_dr.system.words import no_good_copy

T = TypeVar("T")

#: How much longer the last target may take: there is no other to turn to.
_LAST_PATIENCE = 10


@dataclass(frozen=True)
class OneCopy:
    """The copy of a backup that one storage target holds. Each method raises what :class:`~twist_dr.repository.repository.Repository` raises."""

    manifest: Manifest
    repository: Repository
    keyring: Keyring

    def read(self, name: str, progress: OnBytes = no_progress) -> Iterator[bytes]:
        """An artifact's plain bytes, good only when the iterator has ended without an error."""
        return self.repository.read(self.manifest, name, self.keyring, progress)

    def fetch(self, name: str, path: Path, progress: OnBytes = no_progress, *, durable: bool = False) -> None:
        """Write an artifact's plain bytes, all of them checked, to a new file; it is used at once unless ``durable``."""
        self.repository.fetch(self.manifest, name, self.keyring, path, progress, durable=durable)

    def read_small(self, name: str) -> bytes:
        """A small artifact whole, checked."""
        return self.repository.read_small(self.manifest, name, self.keyring)

    def stored_size(self, name: str) -> int:
        """Bytes of an artifact as it is stored, for progress."""
        return self.repository.held(self.manifest)[name][1].size

    def attempt(self, work: Callable[[OneCopy], T]) -> T:
        """As of several copies: there is no other. An error about it names its storage target."""
        with about(self.repository.target.name):
            return work(self)


class Sources:
    """Where one backup is read from. ``patience``: seconds without a sign of life after which a target is given up, for all targets but the last.

    A target that failed once is not asked again. ``failed`` says by target why, ``used`` names those that gave something. The constructor finds the manifest; it raises ``BackupNotFound`` when no target has the
    backup whole, else what the keyring raises.
    """

    def __init__(
        self,
        backup_id: str,
        repositories: Sequence[Repository],
        keyring: Keyring,
        report: Report,
        *,
        patience: float | None = None,
    ) -> None:
        self.backup_id = backup_id
        self.failed: dict[str, TwistDRError] = {}
        self.used: list[str] = []
        self._keyring = keyring
        self._report = report
        last = len(repositories) - 1
        self._left = [
            replace(
                repository,
                target=patient(repository.target, patience and patience * (_LAST_PATIENCE if place == last else 1)),
            )
            for place, repository in enumerate(repositories)
        ]
        self._seen: set[str] = set()
        self.manifest: Manifest = self._attempt(lambda repository: self._look(repository), BackupNotFound)

    def fetch(self, name: str, path: Path, progress: OnBytes = no_progress) -> None:
        """Write an artifact's plain bytes, all of them checked, to a new file that is used at once."""
        self.attempt(lambda copy: copy.fetch(name, path, progress))

    def read_small(self, name: str) -> bytes:
        """A small artifact whole, checked."""
        return self.attempt(lambda copy: copy.read_small(name))

    def attempt(self, work: Callable[[OneCopy], T]) -> T:
        """The result of the first target with which the work succeeds. Work that failed must have left nothing.

        Raises ``RestoreFailed`` when none is left.
        """

        def look_first(repository: Repository) -> T:
            if repository.target.name not in self._seen:
                self._look(repository)
            return work(OneCopy(self.manifest, repository, self._keyring))

        return self._attempt(look_first, RestoreFailed)

    @property
    def passed_over(self) -> dict[str, str]:
        """Why, by target, in words that do not name it."""
        return {name: error.clause for name, error in self.failed.items()}

    @property
    def corrupt(self) -> dict[str, TwistDRError]:
        """The targets whose copy itself is bad."""
        return {name: error for name, error in self.failed.items() if isinstance(error, CORRUPT)}

    def stored_size(self, name: str) -> int:
        """Bytes of an artifact as the present target stores it, for progress."""
        return self.attempt(lambda copy: copy.stored_size(name))

    def _look(self, repository: Repository) -> Manifest:
        """The manifest, when all that it names is there in the right size."""
        manifest = repository.manifest(self.backup_id, self._keyring)
        repository.readable(manifest)
        self._seen.add(repository.target.name)
        return manifest

    def _attempt(self, work: Callable[[Repository], T], failure: type[TwistDRError]) -> T:
        found = first_good(list(self._left), work, self._pass_over)
        if found is None:
            none = no_good_copy(list(self.failed), self.backup_id)
            raise failure(f"{none} {told_by_all(self.failed.values())}".rstrip())
        repository, result = found
        if repository.target.name not in self.used:
            self.used.append(repository.target.name)
        return result

    def _pass_over(self, repository: Repository, error: TwistDRError) -> None:
        self._left.remove(repository)
        self.failed[repository.target.name] = error
        self._report.warning(f"passed over {repository.target.name}: {error.clause}")
