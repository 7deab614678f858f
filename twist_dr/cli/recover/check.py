"""Reading a whole backup to its end: every byte fetched, authenticated and hashed, archives held against their index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from twist_dr.repository.archive_index import read_index
from twist_dr.repository.archive_reading import compare_archive
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.storage.chunks import buffered, read_out
from twist_dr.system.progress import Report

#: An archive and its index are read side by side.
_INDEXES = {
    "media.tar": "media.files.jsonl",
    "configuration.tar": "configuration.files.jsonl",
    "dagster.tar": "dagster.files.jsonl",
}


@dataclass(frozen=True)
class Checked:
    """One artifact that was read. ``size`` in plain bytes; without ``problem`` it is what was recorded."""

    name: str
    size: int
    problem: str | None


def check_artifacts(repository: Repository, manifest: Manifest, keyring: Keyring, report: Report) -> Iterator[Checked]:
    """Each artifact as soon as it was read. What is wrong with one is told in the result; storage errors that say nothing
    about it raise."""
    names = {artifact.name for artifact in manifest.artifacts}
    beside = {index for archive, index in _INDEXES.items() if archive in names}
    for artifact in manifest.artifacts:
        if artifact.name in beside:
            continue
        index = _INDEXES.get(artifact.name)
        sizes = [artifact, *(other for other in manifest.artifacts if other.name == index)]
        what = " and ".join(each.name for each in sizes)
        # One that is missing must not make all others unreadable.
        alone = manifest.model_copy(update={"artifacts": sizes})
        try:
            problem = _read(repository, alone, keyring, artifact.name, index if index in names else None, report)
        except CORRUPT as error:
            problem = str(error)
        yield Checked(what, sum(each.size for each in sizes), problem)


def _read(
    repository: Repository, manifest: Manifest, keyring: Keyring, name: str, index: str | None, report: Report
) -> str | None:
    artifact = manifest.artifact(name)
    assert artifact is not None
    stored = max((each.size for each in artifact.stored.values()), default=None)
    with report.part(f"reading {name}", stored) as advance:
        content = repository.read(manifest, name, keyring, advance)
        if index is None:
            for _ in content:
                pass
            return None
        lines = repository.read(manifest, index, keyring)
        with buffered(content) as stream, buffered(lines) as index_stream:
            files, differences = compare_archive(stream, read_index(index_stream), name)
            read_out(stream, index_stream)
    recorded = manifest.files.get(name.removesuffix(".tar"))
    if files != recorded:
        differences.append(f"{files} files where {recorded} were recorded")
    return "; ".join(differences) or None
