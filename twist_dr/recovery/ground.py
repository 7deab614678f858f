"""What a recovery can stand on: timelines, base backups and runs of WAL of one cluster, and the sentences of a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from twist_dr.backup.base.summary import PlannedBase
from twist_dr.errors import BaseBackupMissing, RecoveryPointInvalid, WalInvalid, WalMissing
from twist_dr.postgres.lsn import format_lsn
from twist_dr.postgres.tools import Tools
from twist_dr.recovery.archives import Archives
from twist_dr.recovery.bases import by_cluster
from twist_dr.recovery.coverage import Stretch, lineage_of, recoverable, stretches, timelines, whole_chains
from twist_dr.recovery.lineage import Lineage, Run, facts, start_of, stop_of
from twist_dr.recovery.reader import Reader
from twist_dr.recovery.search import last_ending
from twist_dr.recovery.target import RecoveryTarget, moment
from twist_dr.recovery.vanished import Vanished, known_by_bases
from twist_dr.system.progress import Report
from twist_dr.wal.archived import Known
from twist_dr.wal.names import history_name


class ClusterArchive:
    """``bases``: usable ones by their stop; only ``base`` when that names one. ``pinned``: the timeline to follow instead of the newest that has the point.
    ``warnings`` grows. Segments of the archive are read into ``work``, which is the caller's to remove.

    ``known_reach``: how far the archives were known to reach; ``vanished``: what of that is not there, once it was asked for; ``accepted``:
    how far what is there must reach for that to be accepted.

    Raises ``BaseBackupMissing`` when there is nothing to begin with.
    """

    def __init__(
        self,
        bases: Sequence[PlannedBase],
        archives: Archives,
        tools: Tools,
        work: Path,
        report: Report,
        pinned: int | None = None,
        base: str | None = None,
        known_reach: Sequence[Known] = (),
        accepted: RecoveryTarget | None = None,
    ) -> None:
        self.archives = archives
        self.size = archives.segment_size
        self.base = base
        self.accepted = accepted
        self.recorded = bool(known_reach)
        self.known_reach = [*known_reach, *known_by_bases(bases)]
        self.vanished: Vanished | None = None
        self._all = list(bases)
        self._tools, self._work, self._report = tools, work, report
        self._readers = 0
        self._whole, self.warnings = whole_chains(bases, archives)
        self.bases = [each for each in self._whole if base is None or each.backup_id == base]
        if not self.bases:
            nothing = f"There is no base backup of the cluster {archives.system_identifier} to begin with."
            raise BaseBackupMissing(" ".join([nothing, *self.warnings]), remedy="launch the job backup_base")
        for name, reason in archives.unreachable.items():
            self.warnings.append(f"{name} could not be listed and may hold more: {reason.clause}")
        known = timelines(self.bases, archives)
        if pinned is not None and pinned not in known:
            raise self.refusal(f"There is no timeline {pinned} in the archive; it has {', '.join(map(str, known))}.")
        #: Timelines to follow, the newest first.
        self.timelines = [pinned] if pinned is not None else known[::-1]
        self.known = known
        self.pinned = pinned
        self._lineages: dict[int, Lineage] = {}

    # -- timelines and stretches -------------------------------------------------------------------------------------

    def lineage(self, timeline: int) -> Lineage:
        """Raises ``RecoveryPointInvalid``, naming the file, without the histories that recovery on that timeline needs."""
        if timeline not in self._lineages:
            try:
                self._lineages[timeline] = lineage_of(timeline, self.archives)
            except (WalMissing, WalInvalid) as error:
                older = (
                    f" Without it timeline {timeline - 1} can still be followed: timeline: {timeline - 1}."
                    if timeline > 1
                    else ""
                )
                raise self.refusal(f"{error}{older}") from error
        return self._lineages[timeline]

    def stretches(self, lineage: Lineage) -> list[Stretch]:
        """Raises ``RecoveryPointInvalid`` when there is none."""
        found = stretches(lineage, self.bases, self.archives)
        if not found:
            raise self.refusal(
                f"No base backup has the WAL on timeline {lineage.timeline} that it needs to become consistent."
            )
        return found

    def histories(self, lineage: Lineage, base: PlannedBase) -> tuple[int, ...]:
        """Timelines whose history files replay from ``base`` on may ask for. Raises ``RecoveryPointInvalid`` when one is missing."""
        needed = []
        for timeline, _, _ in reversed(lineage.stretches):
            if timeline == 1:
                continue
            if timeline > facts(base).timeline or timeline == lineage.timeline:
                if timeline not in self.archives.histories:
                    raise self.refusal(
                        f"{history_name(timeline)}, which tells how timeline {lineage.timeline} came about, is on no storage target; "
                        "put the file (it is in pg_wal of the server) into the archive."
                    )
                needed.append(timeline)
        return tuple(needed)

    @contextmanager
    def reader(self, lineage: Lineage, run: Run) -> Iterator[Reader]:
        self._readers += 1
        folder = self._work / f"scan-{self._readers}"
        with Reader(self.archives, run, self._tools, lineage.timeline, folder, self._report) as reader:
            yield reader

    def progress(self, what: str, total: int) -> Callable[[int], None]:
        """Tells, and hears of a stop, after each batch of segments."""
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            self._report.info(f"{what}: {done} of {total} segments looked at")

        return tell

    # -- refusals ----------------------------------------------------------------------------------------------------

    def refusal(self, why: str) -> RecoveryPointInvalid:
        """What is wrong, what may be the matter elsewhere, and what can be recovered instead."""
        return RecoveryPointInvalid(" ".join(part for part in (why, self.elsewhere(), self.instead()) if part))

    def instead(self) -> str:
        """What can be recovered, as a sentence."""
        ranges = recoverable(self._all, self.archives)
        if not ranges:
            return f"Nothing of the cluster {self.archives.system_identifier} can be recovered: no base backup of it has all the WAL that it needs."
        told = []
        for each in ranges:
            until = f"{moment(each.until_at)} or a little later" if each.until_at else "the last transaction"
            told.append(
                f"from {moment(each.from_at)} until {until} ({format_lsn(each.from_lsn)} to {format_lsn(each.until_lsn)}, timeline {each.timeline})"
            )
        return f"What can be recovered: {'; '.join(told)}."

    def elsewhere(self) -> str:
        """Other places where the point may be: other base backups, targets that did not answer, and other clusters."""
        told = []
        if self.base is not None:
            told.append(
                f"Nothing but {self.base} was looked at, for it was named; name no base to begin with another one."
            )
        unbased = self.newer_without_base
        told += [f"{name} could not be listed and may hold more." for name in self.archives.unreachable]
        for identifier in unbased:
            told.append(
                f"WAL of a newer cluster, {identifier}, is archived (an upgrade makes a new one), of which there is no whole base backup: "
                "launch the job backup_base."
            )
        newer, older = self._other_clusters()
        for identifier, bases in newer.items():
            told.append(
                f"Since then another cluster, {identifier}, has been backed up (an upgrade makes a new one), and no recovery leads across: "
                f"for what came after {moment(facts(bases[0]).stopped_at)} begin with {bases[0].backup_id}."
            )
        for identifier, bases in older.items():
            last = f", the last of them {bases[-1].backup_id}" if len(bases) > 1 else ""
            told.append(
                f"Before that another cluster, {identifier}, was backed up, and no recovery leads across: for a point of that one name "
                f"the base to begin with; the first is {bases[0].backup_id}, complete at {moment(facts(bases[0]).stopped_at)}{last}."
            )
        return " ".join(told)

    @cached_property
    def newer_without_base(self) -> list[str]:
        """Clusters whose WAL is archived, that came after this one, and of which there is no base backup to recover from. The targets are asked once."""
        others = self.archives.clusters() - set(by_cluster(self._all))
        # The upper half of an identifier is the time of initdb (BootStrapXLOG in xlog.c); times of files change when they are copied.
        newer = sorted(each for each in others if int(each) > int(self.archives.system_identifier))
        # Where nothing was ever recorded, nobody can tell what was put there from what was damaged.
        return [each for each in newer if not self.recorded or self.archives.has_wal_of(each)]

    def more_elsewhere(self) -> bool:
        """Whether something later may lie where nobody looked: on a target that did not answer, or in a newer cluster."""
        newer, _ = self._other_clusters()
        return bool(newer or self.newer_without_base or self.archives.unreachable)

    def _other_clusters(self) -> tuple[dict[str, list[PlannedBase]], dict[str, list[PlannedBase]]]:
        """The base backups of other clusters, oldest first: of those backed up after this one, and of those before, the nearest first."""
        groups = list(by_cluster(self._all).items())
        place = [identifier for identifier, _ in groups].index(self.archives.system_identifier)
        return dict(groups[:place][::-1]), dict(groups[place + 1 :])

    def gap(self, lineage: Lineage, run: Run) -> bool:
        """Whether a run ends although later WAL is archived."""
        return lineage.last_number() > (run.parts[-1].number if run.parts else -1)

    def gap_words(self, lineage: Lineage, stretch: Stretch) -> str:
        """A gap: the first missing segment, until when the stretch before it leads, and the next base backup behind it."""
        run = stretch.run
        with self.reader(lineage, run) as reader:
            last, whole = last_ending(reader, run.end), reader.last_record()
        until = f", the transaction of {moment(last.at)}" if last else ""
        words = f"The segment {run.missing.name} is on no storage target, though later WAL is: replay leads no further than {format_lsn(run.end)}{until}."
        later = [base for base in self._whole if start_of(base) >= run.end]
        if later:
            words += f" The next base backup behind the gap is {later[0].backup_id}, complete at {moment(facts(later[0]).stopped_at)}."
        else:
            words += " There is no base backup behind the gap: take one."
        # A record that goes on in the missing segment is not there: what can be asked for is the end of the one before it.
        if whole is not None and any(stop_of(base) <= whole.end(self.size) for base in stretch.bases):
            words += f" For the last state before the gap: to: lsn:{format_lsn(whole.end(self.size))}."
        return words
