"""Reading a whole backup to its end: every byte fetched, authenticated and hashed, archives held against their index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from twist_dr.repository.archive_index import beside_index, index_of
from twist_dr.repository.archive_reading import compare_archive
from twist_dr.repository.first_good import CORRUPT
from twist_dr.repository.manifest import Artifact
from twist_dr.repository.sources import OneCopy
from twist_dr.system.progress import Report
from twist_dr.system.words import counted


@dataclass(frozen=True)
class Checked:
    """One artifact that was read. ``size`` in plain bytes; without ``problem`` it is what was recorded."""

    name: str
    size: int
    problem: str | None


def check_artifacts(copy: OneCopy, report: Report) -> Iterator[Checked]:
    """Each artifact as soon as it was read. What is wrong with one is told in the result; storage errors that say nothing
    about it raise."""
    manifest = copy.manifest
    names = {artifact.name for artifact in manifest.artifacts}
    # An archive and its index are read side by side.
    beside = {index_of(name) for name in names if name.endswith(".tar")}
    for artifact in manifest.artifacts:
        if artifact.name in beside:
            continue
        index = index_of(artifact.name)
        sizes = [artifact, *(other for other in manifest.artifacts if other.name == index)]
        what = " and ".join(each.name for each in sizes)
        # One that is missing must not make all others unreadable.
        alone = replace(copy, manifest=manifest.model_copy(update={"artifacts": sizes}))
        try:
            problem = _read(alone, artifact, report, indexed=len(sizes) > 1)
        except CORRUPT as error:
            problem = str(error)
        yield Checked(what, sum(each.size for each in sizes), problem)


def _read(copy: OneCopy, artifact: Artifact, report: Report, *, indexed: bool) -> str | None:
    name = artifact.name
    stored = max((each.size for each in artifact.stored.values()), default=None)
    with report.part(f"reading {name}", stored) as advance:
        read = partial(copy.read, progress=advance)
        if not indexed:
            for _ in read(name):
                pass
            return None
        with beside_index(read, name) as (stream, index):
            files, differences = compare_archive(stream, index, name)
    recorded = copy.manifest.files.get(name.removesuffix(".tar"))
    if files != recorded:
        differences.append(f"{counted(files, 'file')} where {recorded} were recorded")
    return "; ".join(differences) or None
