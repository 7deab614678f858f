"""From what somebody writes to one exact stop."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.errors import RecoveryPointInvalid, WalMissing
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.recovery.lineage import stop_of
from twist_dr.recovery.plan import RecoveryPlan
from twist_dr.recovery.target import RecoveryTarget
from twist_dr.wal.names import Segment
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.primaries import MB, Primary, Row
from twist_dr_tests.recovery.material import Material, base_manifest, between, ended, facts_of_base

FIRST, SECOND = "20261121T020000Z-base-0001", "20261121T030000Z-base-0002"


class Story:
    """Rows 0 to 9, a base backup, rows to 29, a restore point, a second base, rows to 49, an open segment with rows to 54."""

    def __init__(self, tools_major: int, folder: Path) -> None:
        with Primary(TOOLS[tools_major], folder / "server") as primary:
            self.rows: list[Row] = primary.record(range(10))
            self.material = Material(folder / "archive", primary.tools, primary.identifier)
            self.material.folder.mkdir()
            self.data = primary.copy_of_data(primary.base / "copy")
            self.bases = [facts_of_base(primary, FIRST)]
            self.rows += primary.record(range(10, 20), 20_000)
            self.point = primary.point("before_import")
            self.rows += primary.record(range(20, 30), 200_000)
            self.again = [primary.point("twice"), primary.point("twice")]
            self.bases.append(facts_of_base(primary, SECOND))
            self.rows += primary.record(range(30, 50), 100_000)
            self.archived = primary.archived()
            self.rows += primary.record(range(50, 55))
            source, segment, self.written = primary.open_segment()
            self.partial = PartialSegment(segment, self.written, datetime.now(timezone.utc))
            self.open = folder / "open"
            shutil.copyfile(source, self.open)
            self.tools, self.password = primary.tools, primary.password
            self.material.bases = self.bases
            self.wal = folder / "wal"
            shutil.copytree(primary.archive, self.wal)
            self.material.ship(self.wal)
            kept = folder / "data"
            shutil.move(self.data, kept)
            self.data = kept

    def with_partial(self, folder: Path) -> Material:
        material = self.material.copied(folder)
        material.put_partial(self.open, self.partial)
        return material


@pytest.fixture(scope="session", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(request.param, tmp_path_factory.mktemp("story"))


def test_a_time_stops_before_the_first_later_commit(story: Story) -> None:
    for number in (12, 25, 40):
        plan = story.material.plan(between(story.rows[number], story.rows[number + 1]))
        ended(plan, story.rows[number], story.rows[number + 1])
        assert not plan.stop.inclusive
        assert story.rows[number + 1].before <= plan.stop.lsn < story.rows[number + 1].after
        assert plan.last_commit_at == story.rows[number].at
        assert plan.base.backup_id == (FIRST if number < 30 else SECOND)
        assert plan.lost.transactions == 49 - number and not plan.lost.at_least
        assert (plan.lost.since, plan.lost.until) == (story.rows[number + 1].at, story.rows[49].at)


def test_latest_takes_all_that_is_archived(story: Story) -> None:
    plan = story.material.plan("latest")
    ended(plan, story.rows[49], story.rows[50])
    assert plan.stop.inclusive and plan.partial is None
    assert plan.segments[-1].name == story.archived
    assert plan.segments[0].start <= stop_of(story.bases[1]) and plan.base.backup_id == SECOND
    assert plan.lost.transactions == 0


def test_latest_includes_the_open_segment(story: Story, tmp_path: Path) -> None:
    plan = story.with_partial(tmp_path).plan("latest")
    ended(plan, story.rows[54])
    assert plan.partial == story.partial and plan.partial.segment not in plan.segments
    assert plan.last_commit_at == story.rows[54].at


def test_an_lsn_takes_all_that_begins_before_it(story: Story) -> None:
    row = story.rows[33]
    plan = story.material.plan(f"lsn:{format_lsn(row.after)}")
    ended(plan, row, story.rows[34])
    assert (plan.stop.lsn, plan.stop.inclusive) == (row.after, False)
    # Its COMMIT begins before it by a few bytes only.
    before = story.material.plan(f"lsn:{format_lsn(row.before)}")
    ended(before, story.rows[32], row)


def test_the_end_of_the_archive_is_an_lsn_too(story: Story, tmp_path: Path) -> None:
    material = story.with_partial(tmp_path)
    latest = material.plan("latest")
    plan = material.plan(f"lsn:{format_lsn(latest.end_lsn)}")
    assert (plan.end_lsn, plan.stop) == (latest.end_lsn, latest.stop)


def test_a_transaction_is_taken_with_its_commit(story: Story) -> None:
    for number in (11, 28, 41):
        plan = story.material.plan(f"xid:{story.rows[number].xid}")
        ended(plan, story.rows[number], story.rows[number + 1])
        assert plan.stop.inclusive
    # 64 bits, as pg_current_xact_id() tells after four thousand million transactions.
    assert story.material.plan(f"xid:{(7 << 32) + story.rows[41].xid}").end_lsn == plan.end_lsn


def test_a_restore_point_is_found_by_its_name(story: Story) -> None:
    plan = story.material.plan("name:before_import")
    assert plan.end_lsn == story.point and plan.stop.inclusive
    ended(plan, story.rows[19], story.rows[20])


def test_the_later_of_two_points_of_one_name_is_taken_and_said(story: Story) -> None:
    plan = story.material.plan("name:twice")
    assert plan.end_lsn == story.again[1]
    assert any("2 restore points" in warning for warning in plan.warnings)


def test_a_misspelt_name_is_refused_with_the_near_ones(story: Story) -> None:
    with pytest.raises(
        RecoveryPointInvalid,
        match=r"no restore point 'before_imprt'.*Did you mean 'before_import'.*What can be recovered: from",
    ):
        story.material.plan("name:before_imprt")


def test_what_is_not_there_is_refused_with_what_can_be_recovered(story: Story, tmp_path: Path) -> None:
    material, first, last = story.material, story.rows[0], story.rows[49]
    instead = r"What can be recovered: from 20\d\d-.* UTC until .*timeline 1\)"
    for to, why in {
        (first.at - timedelta(days=3)).isoformat(): "before the end of the oldest base backup",
        (last.at + timedelta(hours=1)).isoformat(): f"everything until .*{last.at.microsecond // 1000}",
        "lsn:0/20": "before the end of the oldest base backup",
        f"lsn:{format_lsn(story.rows[54].after)}": "beyond the archive",
        f"xid:{story.rows[54].xid}": "No COMMIT or ABORT of transaction",
        "xid:9": "No COMMIT or ABORT of transaction",
    }.items():
        with pytest.raises(RecoveryPointInvalid, match=f"{why}.*{instead}"):
            material.plan(to)
    with pytest.raises(RecoveryPointInvalid, match=r"no timeline 7.*What can be"):
        material.plan("latest", timeline=7)
    with pytest.raises(RecoveryPointInvalid, match="no base backup of the cluster"):
        material.plan("latest", bases=[])


def test_a_quiet_time_needs_a_claim_that_nothing_is_missing(story: Story, tmp_path: Path) -> None:
    quiet = story.rows[54].at + timedelta(minutes=1)
    silent = story.material.copied(tmp_path / "silent")
    silent.put_partial(story.open, PartialSegment(story.partial.segment, story.partial.size, None))
    with pytest.raises(RecoveryPointInvalid, match="is known to hold everything until"):
        silent.plan(quiet.isoformat())
    claiming = story.material.copied(tmp_path / "claiming")
    claiming.put_partial(story.open, PartialSegment(story.partial.segment, story.partial.size, quiet))
    plan = claiming.plan(quiet.isoformat())
    ended(plan, story.rows[54])
    assert plan.stop.inclusive and plan.partial is not None
    with pytest.raises(RecoveryPointInvalid, match="is known to hold everything until"):
        claiming.plan((quiet + timedelta(microseconds=1)).isoformat())


def test_a_partial_that_holds_only_its_claim_counts(story: Story, tmp_path: Path) -> None:
    material = story.material.copied(tmp_path)
    claim = story.rows[49].at + timedelta(microseconds=5)
    material.put_partial(story.open, PartialSegment(story.partial.segment, 0, claim))
    plan = material.plan(claim.isoformat())
    ended(plan, story.rows[49])
    assert plan.partial is None


def test_a_gap_is_named_with_what_leads_there_and_what_begins_behind(story: Story, tmp_path: Path) -> None:
    material = story.material.copied(tmp_path)
    missing = Segment.holding(1, story.rows[25].before, MB)
    material.object(missing.name).unlink()
    words = f"{missing.name} is on no storage target.*leads no further than.*transaction of.*next base backup behind the gap is {SECOND}"
    for to in (between(story.rows[26], story.rows[27]), f"lsn:{format_lsn(story.rows[27].before)}"):
        with pytest.raises(RecoveryPointInvalid, match=words) as refused:
            material.plan(to)
    # What the refusal says leads to the last state before it.
    before = re.search(r"For the last state before the gap: to: (lsn:[0-9A-F/]+)\.", str(refused.value))
    assert before is not None
    last = max((row for row in story.rows if row.after <= missing.start), key=lambda row: row.after)
    ended(material.plan(before[1]), last)
    # Before it, and from the base behind it, all goes on.
    ended(material.plan(between(story.rows[15], story.rows[16])), story.rows[15], story.rows[16])
    ended(material.plan(f"xid:{story.rows[12].xid}"), story.rows[12], story.rows[13])
    ended(material.plan("latest"), story.rows[49])
    ended(material.plan(between(story.rows[35], story.rows[36])), story.rows[35], story.rows[36])


def test_a_gap_behind_the_last_base_refuses_the_latest(story: Story, tmp_path: Path) -> None:
    material = story.material.copied(tmp_path)
    missing = Segment.holding(1, story.rows[40].before, MB)
    material.object(missing.name).unlink()
    with pytest.raises(RecoveryPointInvalid, match=f"{missing.name}.*no base backup behind the gap: take one"):
        material.plan("latest")


def test_wal_of_another_cluster_never_enters(story: Story, tmp_path: Path) -> None:
    material = story.material.copied(tmp_path)
    stranger = Material(material.folder, material.tools, "7000000000000000001", bases=material.bases)
    name = Segment.holding(1, story.rows[40].before, MB).name
    # Stored under our cluster's name by somebody who has the key, with the bytes of another.
    other = bytearray((story.wal / name).read_bytes())
    other[24] ^= 0xFF
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_bytes(other)
    material.object(name).unlink()
    material.ship(tmp_path / "other")
    with pytest.raises(WalMissing, match="belongs to the cluster"):
        material.plan(f"xid:{story.rows[41].xid}")
    with pytest.raises(RecoveryPointInvalid, match="no base backup of the cluster 7000000000000000001"):
        stranger.plan("latest")


def test_a_point_after_an_upgrade_says_where_to_begin(story: Story) -> None:
    facts = story.bases[1].base
    assert facts is not None
    later = facts.stopped_at + timedelta(hours=2)
    upgraded = base_manifest(
        "20261121T090000Z-base-0009", "7000000000000000001", 1, "0/1000028", "0/1000100", later, later, MB, 18
    )
    with pytest.raises(
        RecoveryPointInvalid,
        match=r"another cluster, 7000000000000000001.*an upgrade.*begin with 20261121T090000Z-base-0009",
    ):
        story.material.plan((later + timedelta(minutes=1)).isoformat(), bases=[*story.bases, upgraded])


def test_a_chain_that_lacks_a_link_is_passed_over_and_said(story: Story) -> None:
    facts = story.bases[1].base
    assert facts is not None
    child = base_manifest(
        "20261121T030000Z-base-0003", story.material.identifier, 1, facts.start_lsn, facts.stop_lsn,
        facts.started_at, facts.stopped_at, MB, 18, parent=story.bases[1],
    )  # fmt: skip
    plan = story.material.plan("latest", bases=[story.bases[0], child])
    assert plan.base.backup_id == FIRST
    assert any(f"{child.backup_id} is not used: {SECOND}" in warning for warning in plan.warnings)
    whole = story.material.plan("latest", bases=[child, *story.bases])
    assert [link.backup_id for link in whole.chain] == [SECOND, child.backup_id]
    assert whole.stored_bytes == 2 * 1000 + story.material.archives().stored_bytes(whole.segments)


def test_a_plan_says_it_in_words(story: Story, tmp_path: Path) -> None:
    plan = story.with_partial(tmp_path).plan(between(story.rows[35], story.rows[36]))
    page = plan.markdown()
    for words in (
        SECOND,
        plan.segments[0].name,
        format_lsn(plan.end_lsn),
        "19 transactions committed after it in the whole cluster",
    ):
        assert words in page
    assert "19 transactions committed after it in the whole cluster" in plan.sentence()
    # A restore point's name is whatever those who may make one like.
    name = "x | `y` ![p](http://evil/p.png) <b>\n| would be lost | nothing |"
    odd = replace(plan, target=RecoveryTarget("name", f"name:{name}", name=name), warnings=(name,)).markdown()
    assert sum("would be lost" in line for line in odd.splitlines()) == 3, (
        "the row, and the name twice on its own lines"
    )
    table = [line for line in odd.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)
    assert not re.search(r"(?<!\\)[`\[<]", odd)


def replayed(story: Story, plan: RecoveryPlan, folder: Path, material: Material) -> tuple[int, list[int]]:
    """What a server makes of a plan, with its segments and nothing behind them: the LSN where replay paused, and the rows."""
    data = folder / "copy"
    shutil.copytree(story.data, data)
    user, group = unprivileged()
    for path in [data, *data.rglob("*")]:
        if user is not None:
            os.chown(path, user, group or -1)
    wal = Path(tempfile.mkdtemp(prefix="twist-dr-test-"))
    wal.chmod(0o755)
    archives = material.archives()
    for segment in [segment for segment in archives.segments if segment.number < plan.segments[0].number]:
        archives.fetch_segment(segment, wal / segment.name)
    for segment in plan.segments:
        archives.fetch_segment(segment, wal / segment.name)
    if plan.partial is not None:
        archives.fetch_partial(plan.partial, wal / plan.partial.segment.name)
    for path in wal.iterdir():
        path.chmod(0o644)
    (data / "recovery.signal").touch()
    try:
        with Primary(
            story.tools, folder / "server", data=data, password=story.password,
            restore_command=f"cp {wal}/%f %p", recovery_target_lsn=format_lsn(plan.stop.lsn),
            recovery_target_inclusive="on" if plan.stop.inclusive else "off",
            recovery_target_timeline=str(plan.timeline), recovery_target_action="pause",
        ) as server:  # fmt: skip
            wait_until(lambda: server.one("SELECT pg_get_wal_replay_pause_state()") == "paused", "the end of replay")
            rows = server.one("SELECT string_agg(number::text, ',' ORDER BY number) FROM log")
            return parse_lsn(server.one("SELECT pg_last_wal_replay_lsn()")), [int(row) for row in rows.split(",")]
    finally:
        shutil.rmtree(wal)


@pytest.mark.parametrize("kind", ["time", "lsn", "xid", "name", "latest"])
def test_a_server_that_replays_the_plan_ends_exactly_where_it_says(story: Story, tmp_path: Path, kind: str) -> None:
    material = story.with_partial(tmp_path / "archive")
    to, last = {
        "time": (between(story.rows[26], story.rows[27]), 26),
        "lsn": (f"lsn:{format_lsn(story.rows[31].after)}", 31),
        "xid": (f"xid:{story.rows[17].xid}", 17),
        "name": ("name:before_import", 19),
        "latest": ("latest", 54),
    }[kind]
    plan = material.plan(to)
    end, rows = replayed(story, plan, tmp_path / "server", material)
    assert (format_lsn(end), rows) == (format_lsn(plan.end_lsn), list(range(last + 1)))
