"""Repairing a copy from a good one of another target: good bytes are fetched and checked first, then they take the place of the bad ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.errors import CopyFailed, ObjectExists, ObjectMissing, TargetRefused, TwistDRError
from twist_dr.repository.first_good import CORRUPT, PASSED_OVER, first_good, told_by_all
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import MANIFEST_NAME, ArtifactForm, Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.streams import write_new
from twist_dr.scrub.reading import CopyRead, Damage
from twist_dr.storage.base import Digest, OnBytes, StorageTarget
from twist_dr.storage.chunks import counted, hashed, read_chunks
from twist_dr.system.space import need_space


@dataclass
class Fetched:
    """Good bytes of what was damaged, in a folder. ``sources``: targets that gave them; ``bad``: by target, why one could not although it should."""

    files: list[tuple[Path, Digest]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Others:
    """What a copy may be repaired from: the other targets, and how fast each may be read."""

    repositories: Sequence[Repository]
    progress: Mapping[str, OnBytes]


def fetch_good(read: CopyRead, others: Others, folder: Path, keyring: Keyring, into: Fetched | None = None) -> Fetched:
    """Have the good bytes of everything that is damaged in ``folder``, the manifest last. ``into`` is filled also when it fails.

    Raises ``CopyFailed`` with a sentence when no other target can give something, ``StagingFull`` and ``Cancelled``.
    """
    fetched = into if into is not None else Fetched()
    wanted = sum(damage.stored.size for damage in read.damages if damage.stored is not None)
    who = f"The repair of {read.backup_id} on {read.target}"
    need_space(folder, wanted, who, "free space there or set work_dir to a larger disk")
    for damage in read.damages:
        if damage.stored is not None:
            _fetch(damage, damage.stored, read, others, folder, keyring, fetched)
    if any(damage.artifact is None for damage in read.damages):
        path = folder / MANIFEST_NAME
        write_new(path, [read.sealed])
        fetched.files.append((path, Digest(len(read.sealed), hashlib.sha256(read.sealed).hexdigest())))
    return fetched


def _fetch(
    damage: Damage,
    stored: ArtifactForm,
    read: CopyRead,
    others: Others,
    folder: Path,
    keyring: Keyring,
    fetched: Fetched,
) -> None:
    assert damage.artifact is not None
    path, artifact, failed = folder / stored.name, damage.artifact.name, []

    def write(repository: Repository) -> None:
        progress = others.progress[repository.target.name]
        write_new(path, _good_bytes(repository, read.manifest, artifact, stored, keyring, progress))

    def pass_over(repository: Repository, error: TwistDRError) -> None:
        failed.append(error)
        if isinstance(error, CORRUPT) and not isinstance(error, ObjectMissing):
            fetched.bad[repository.target.name] = str(error)

    found = first_good(others.repositories, write, pass_over, errors=(*PASSED_OVER, CopyFailed))
    if found is None:
        told = told_by_all(failed) or "There is no other storage target."
        raise CopyFailed(
            f"No other storage target can give {read.backup_id}/{stored.name} as {read.target} should hold it. {told}"
        )
    fetched.files.append((path, stored.digest))
    if found[0].target.name not in fetched.sources:
        fetched.sources.append(found[0].target.name)


def _good_bytes(
    repository: Repository, manifest: Manifest, name: str, stored: ArtifactForm, keyring: Keyring, progress: OnBytes
) -> Iterator[bytes]:
    """The bytes of a stored form from a target that holds the same one. Bytes that are stored plain, from any that holds the artifact.

    Packed or encrypted anew they would be other bytes than the manifest names.
    """
    target, key = repository.target, repository.key(manifest.backup_id, stored.name)
    what = f"{manifest.backup_id}/{stored.name}"
    artifact = manifest.artifact(name)
    assert artifact is not None
    same = repository.target.stat(key) is not None

    def chunks() -> Iterator[bytes]:
        with target.open(key) as stream:
            yield from read_chunks(stream)

    if same:
        yield from repository.named(hashed(counted(chunks(), progress), stored.digest, what))
    elif stored.digest == artifact.digest and stored.name == name:
        yield from repository.read(manifest, name, keyring, progress)
    elif any(target.stat(repository.key(manifest.backup_id, each.name)) for each in artifact.stored.values()):
        raise CopyFailed(
            f"it holds {name} in another form, and bytes made anew would not be those that the manifest names: take a new backup.",
            target=target.name,
        )
    else:
        raise ObjectMissing(f"it does not hold {name} of {manifest.backup_id}.", target=target.name)


def store_good(read: CopyRead, fetched: Fetched, repository: Repository, progress: OnBytes) -> None:
    """Put fetched bytes in the place of the bad ones, checked; the manifest last. Killed in between, the next scrub goes on.

    Raises storage errors, and ``Cancelled``; ``TargetRefused`` when the bad object may not be deleted.
    """
    for path, digest in fetched.files:
        key = repository.key(read.backup_id, path.name)
        put_anew(repository.target, path, key, digest, progress)


def put_anew(target: StorageTarget, path: Path, key: str, digest: Digest, progress: OnBytes) -> None:
    """Store a file; other bytes under its key, which are known to be bad, are deleted first. Raises storage errors."""
    try:
        target.put(path, key, digest, progress)
    except ObjectExists:
        try:
            target.delete(key)
        except TargetRefused as error:
            raise TargetRefused(
                f"the bad object {key} may not be deleted, so no good one can take its place: {error}",
                target=target.name,
            ) from error
        target.put(path, key, digest, progress)
