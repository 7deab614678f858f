"""Reading a base backup with all that a recovery from it needs: its chain, and the WAL from its start on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from twist_dr.cli.recover.check import Checked, check_artifacts
from twist_dr.cli.recover.found import find_backup
from twist_dr.cli.recover.reach import archive_of
from twist_dr.cli.recover.scratch import scratch_folder
from twist_dr.errors import WalError
from twist_dr.postgres.lsn import format_lsn
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.coverage import lineage_of, timelines
from twist_dr.recovery.lineage import Lineage, LineageSegment, Run, facts, start_of, stop_of
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.sources import OneCopy
from twist_dr.system.progress import Report
from twist_dr.system.words import counted, few
from twist_dr.wal.names import Segment, history_name

#: Segments read side by side: over a network each takes its time.
_AT_ONCE = 4


def check_base(copy: OneCopy, report: Report) -> Iterator[Checked]:
    """Every artifact of every link, then the WAL of each timeline that leads on. As :func:`check_artifacts` for what raises."""
    base, repository, keyring = copy.manifest, copy.repository, copy.keyring
    for link in facts(base).chain:
        if link == base.backup_id:
            yield from check_artifacts(copy, report)
            continue
        found = find_backup(repository, keyring, link)
        if found.manifest is None:
            yield Checked(link, 0, f"{base.backup_id} builds on it, and {found.problem}")
            continue
        for each in check_artifacts(replace(copy, manifest=found.manifest), report):
            yield replace(each, name=f"{each.name} of {link}")
    yield from _check_wal(base, archive_of(repository, keyring, base), report)


def _check_wal(base: Manifest, archives: Archives, report: Report) -> Iterator[Checked]:
    read, led = set[object](), False
    for timeline in reversed(timelines([base], archives)):
        try:
            lineage = lineage_of(timeline, archives)
        except WalError as error:
            yield Checked(history_name(timeline), 0, str(error))
            continue
        if not lineage.holds(facts(base)):
            continue
        led, run = True, lineage.run(start_of(base))
        parts = [part for part in run.parts if part.source not in read]
        read |= {part.source for part in parts}
        problems = [*_in_the_way(base, lineage, run), *_read(parts, archives, report)]
        if parts or problems:
            yield Checked(_words(timeline, run, parts), _size(parts), "; ".join(problems) or None)
    if not led:
        yield Checked("WAL", 0, "no archived WAL leads on from it")
    for trouble in archives.passed_over.values():
        # It says nothing about what is there.
        raise trouble


def _in_the_way(base: Manifest, lineage: Lineage, run: Run) -> list[str]:
    if not run.parts or run.end < stop_of(base):
        return [f"the segment {run.missing.name} is missing, without which the base backup does not become consistent"]
    if lineage.last_number() > run.parts[-1].number:
        return [
            f"the segment {run.missing.name} is missing, though later WAL is here: from this base backup no recovery leads further than {format_lsn(run.end)}"
        ]
    return []


def _read(parts: Sequence[LineageSegment], archives: Archives, report: Report) -> list[str]:
    """Fetch each part just as a recovery does, every page checked; what is wrong with any, as sentences."""
    sizes = [part.until - part.number * archives.segment_size for part in parts]
    with (
        scratch_folder() as folder,
        report.part("reading WAL", sum(sizes)) as advance,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        problems = []
        for size, problem in zip(sizes, pool.map(lambda part: _fetched(part, archives, folder), parts), strict=True):
            advance(size)
            if problem is not None:
                problems.append(problem)
    return [*problems[:3], *([f"and {len(problems) - 3} more"] if len(problems) > 3 else [])]


def _fetched(part: LineageSegment, archives: Archives, folder: Path) -> str | None:
    path = folder / part.source.name
    try:
        if isinstance(part.source, Segment):
            archives.fetch_segment(part.source, path, durable=False)
        else:
            archives.fetch_partial(part.source, path, durable=False)
    except WalError as error:
        return str(error)
    path.unlink()
    return None


def _size(parts: Sequence[LineageSegment]) -> int:
    return sum(part.source.size for part in parts)


def _words(timeline: int, run: Run, parts: Sequence[LineageSegment]) -> str:
    segments = [part for part in parts if isinstance(part.source, Segment)]
    partials = [part for part in parts if not isinstance(part.source, Segment)]
    what = few([counted(len(segments), "segment"), *(["a partial segment"] if partials else [])])
    return f"WAL of timeline {timeline} from {format_lsn(run.start)} to {format_lsn(run.end)}, {what}"
