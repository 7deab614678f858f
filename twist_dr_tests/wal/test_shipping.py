"""From the spool to the targets: nothing lost, nothing twice, nothing claimed that is not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from twist_dr.errors import StagingFull, TargetUnavailable, WalConflict
from twist_dr.postgres.lsn import Gap
from twist_dr.storage.base import Digest, OnBytes, no_progress
from twist_dr.storage.local import LocalTarget
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.helpers import KEYRING, python
from twist_dr_tests.storage.conftest import mounted_tmpfs
from twist_dr_tests.sweep import instants
from twist_dr_tests.wal.wal_files import MB, NOON, Round, Wal, changed, holdings, plain, said

PAGE = 8192
HISTORY = b"1\t%s\tno recovery target specified\n"


@pytest.fixture
def round_(tmp_path: Path) -> Iterator[Round]:
    made = Round(tmp_path)
    yield made
    made.restart()


def names(wal: Wal, *places: int) -> list[str]:
    return [wal.paths[place].name for place in places]


def on_timeline_2(data: bytes) -> bytes:
    """A segment's bytes as if a later timeline had written them."""
    return changed(
        data,
        lambda copy: [struct.pack_into("<I", copy, at + 4, 2) for at in range(0, MB, PAGE) if any(copy[at : at + 20])],
    )


def history(round_: Round, wal: Wal, fork: int) -> None:
    round_.receive(wal.identifier, "00000002.history", HISTORY % f"{fork >> 32:X}/{fork & 0xFFFFFFFF:X}".encode())


# -- whole segments --------------------------------------------------------------------------------------------------------


def test_a_file_leaves_the_spool_when_every_target_has_it(round_: Round, any_wal: Wal) -> None:
    round_.archive(*any_wal.paths[:3])
    shipped = round_.ship()
    assert not shipped.errors and not shipped.gaps and shipped.advanced and shipped.waiting == 0
    assert round_.spooled() == []
    for name, target in round_.targets.items():
        assert round_.held(name, any_wal.identifier) == names(any_wal, 0, 1, 2)
        for segment, stored in holdings(target, any_wal.identifier).segments.items():
            path = next(path for path in any_wal.paths if path.name == segment.name)
            assert plain(target, any_wal.identifier, stored.key) == path.read_bytes()
        position = shipped.targets[name].position
        assert position is not None and position.lsn == any_wal.segment(2).end
    assert not round_.ship().advanced


def test_a_target_that_is_gone_stops_no_other_and_gets_all_of_it_later(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    away = round_.folder / "unplugged"
    (round_.folder / "archive").rename(away)
    for place in (1, 2):
        round_.archive(wal.paths[place])
        shipped = round_.ship()
        assert set(shipped.errors) == {"archive"} and shipped.waiting == place
        assert round_.held("office", wal.identifier) == names(wal, *range(place + 1))
    assert round_.spooled() == names(wal, 1, 2)
    # Said once, not every second.
    assert len(round_.warnings) == 1 and "archive" in round_.warnings[0]
    away.rename(round_.folder / "archive")
    shipped = round_.ship()
    assert not shipped.errors and not shipped.gaps
    assert round_.held("archive", wal.identifier) == names(wal, 0, 1, 2) and round_.spooled() == []


def test_an_emptied_target_is_not_begun_anew(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    round_.restart()
    shutil.rmtree(round_.folder / "archive")
    (round_.folder / "archive").mkdir()
    round_.archive(wal.paths[1])
    shipped = round_.ship()
    assert "held WAL before and holds none now" in str(shipped.errors["archive"])
    assert not any((round_.folder / "archive").iterdir()) and round_.spooled() == names(wal, 1)


def test_with_required_targets_met_another_that_was_down_has_a_recorded_gap(tmp_path: Path, wal: Wal) -> None:
    round_ = Round(tmp_path, required=["office"])
    round_.archive(wal.paths[0])
    round_.ship()
    (tmp_path / "archive").rename(tmp_path / "unplugged")
    round_.archive(*wal.paths[1:3])
    assert set(round_.ship().errors) == {"archive"}
    assert round_.spooled() == []
    (tmp_path / "unplugged").rename(tmp_path / "archive")
    round_.archive(wal.paths[3])
    shipped = round_.ship()
    (gap,) = shipped.gaps
    assert (gap.target, gap.gap) == ("archive", Gap(1, wal.segment(1).start, wal.segment(3).start))
    assert any("take a new base backup" in line for line in round_.warnings)
    shipped = round_.ship()
    assert not shipped.gaps and shipped.gaps_of("office") == []
    round_.restart()
    # Noticed once; whoever has not heard of it hears of it in any later round.
    assert round_.ship().gaps_of("archive") == [gap.gap]
    round_.restart()


class _Hanging(LocalTarget):
    """A mount that gives no answer."""

    hangs = threading.Event()

    def prepare(self) -> None:
        self.hangs.wait(30)

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        self.hangs.wait(30)


def test_a_target_that_hangs_is_left_out(tmp_path: Path, wal: Wal) -> None:
    hanging = _Hanging("archive", tmp_path / "archive")
    round_ = Round(tmp_path, {"archive": hanging, "office": LocalTarget("office", tmp_path / "office")}, patience=0.5)
    round_.archive(wal.paths[0])
    begun = time.monotonic()
    shipped = round_.ship()
    assert time.monotonic() - begun < 5
    assert isinstance(shipped.errors["archive"], TargetUnavailable)
    assert round_.held("office", wal.identifier) == names(wal, 0)
    hanging.hangs.set()
    round_.restart()


class _Slow(LocalTarget):
    """A thin line: slow, and alive."""

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        for _ in range(6):
            time.sleep(0.2)
            progress(1)
        super().put(source, key, digest, progress)


def test_a_slow_target_that_moves_is_waited_for(tmp_path: Path, wal: Wal) -> None:
    round_ = Round(tmp_path, {"office": _Slow("office", tmp_path / "office")}, patience=0.7)
    round_.archive(wal.paths[0])
    assert not round_.ship().errors
    round_.restart()


def test_the_same_name_with_the_same_bytes_is_a_success(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    # The server's archiver was killed before it could say so, and our own memory is gone as well.
    shutil.rmtree(round_.spool.root / "stored")
    round_.spool.state_path.unlink()
    round_.restart()
    round_.archive(wal.paths[0])
    shipped = round_.ship()
    assert not shipped.errors and round_.spooled() == []
    assert round_.held("office", wal.identifier) == names(wal, 0)


def test_the_same_name_with_other_bytes_is_refused_both_are_kept_and_nothing_overtakes(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    before = {path: path.read_bytes() for path in (round_.folder / "office").rglob("*.enc")}
    other = changed(wal.paths[0].read_bytes(), lambda copy: copy.__setitem__(PAGE * 3 + 500, copy[PAGE * 3 + 500] ^ 1))
    round_.archive(wal.paths[0]).write_bytes(other)
    round_.archive(wal.paths[1])
    for _ in range(2):
        shipped = round_.ship()
        assert isinstance(shipped.errors["office"], WalConflict) and isinstance(shipped.errors["archive"], WalConflict)
        assert "two servers wrote the same timeline" in str(shipped.errors["office"])
        assert round_.spooled() == names(wal, 0, 1)
        position = shipped.targets["office"].position
        assert position is not None and position.lsn == wal.segment(0).end
    assert {path: path.read_bytes() for path in before} == before


def test_other_bytes_are_refused_even_while_the_first_file_still_lies_in_the_spool(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, wal.paths[0].name, wal.paths[0].read_bytes())
    assert not round_.ship().errors
    assert round_.spooled() == names(wal, 0)  # pg_receivewal goes on after it
    other = changed(wal.paths[0].read_bytes(), lambda copy: copy.__setitem__(PAGE * 3 + 500, copy[PAGE * 3 + 500] ^ 1))
    round_.archive(wal.paths[0]).write_bytes(other)
    assert isinstance(round_.ship().errors["office"], WalConflict)


# -- what is not accepted ---------------------------------------------------------------------------------------------------


def test_a_segment_of_another_cluster_is_put_aside_and_said(round_: Round, wals: dict[int, Wal]) -> None:
    ours, theirs = wals[18], wals[15]
    round_.archive(ours.paths[0])
    round_.ship(said(ours.identifier, ours.segment(0).end))
    round_.archive(theirs.paths[-1])
    round_.archive(ours.paths[1])
    shipped = round_.ship(said(ours.identifier, ours.segment(1).end))
    (sentence,) = shipped.refused
    assert theirs.identifier in sentence and ours.identifier in sentence and "refused" in sentence
    assert not shipped.gaps and round_.held("office", ours.identifier) == names(ours, 0, 1)
    assert round_.held("office", theirs.identifier) == [] == round_.spooled()
    assert [path.read_bytes() for path in round_.spool.refused.iterdir()] == [theirs.paths[-1].read_bytes()]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wal: bytes(MB),
        lambda wal: b"",
        lambda wal: wal.paths[1].read_bytes()[:-1],
        lambda wal: wal.paths[1].read_bytes()[:PAGE],
        lambda wal: wal.paths[2].read_bytes(),
        lambda wal: wal.paths[1].read_bytes()[: MB // 2] + wal.paths[2].read_bytes()[MB // 2 :],
        lambda wal: b"hello" * 1000,
    ],
    ids=["zeros", "empty", "cut", "one page", "another segment", "half another", "text"],
)
def test_what_is_not_the_segment_that_its_name_says_is_put_aside_and_said(
    round_: Round, wal: Wal, spoil: Callable[[Wal], bytes]
) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    place = round_.archive(wal.paths[1])
    place.write_bytes(spoil(wal))
    os.utime(place, (time.time() - 60,) * 2)
    round_.archive(wal.paths[2])
    shipped = round_.ship()
    assert len(shipped.refused) == 1 and wal.paths[1].name in shipped.refused[0]
    assert [each.gap.begin for each in shipped.gaps] == [wal.segment(1).start] * 2
    assert round_.held("office", wal.identifier) == names(wal, 0, 2)
    assert len(list(round_.spool.refused.iterdir())) == 1


def test_a_file_that_is_still_being_copied_is_left_to_its_writer(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    data = wal.paths[1].read_bytes()
    place = round_.archive(wal.paths[1], age=0)
    place.write_bytes(data[: MB // 2])
    round_.archive(wal.paths[2])
    shipped = round_.ship()
    assert not shipped.refused and not shipped.gaps and shipped.waiting == 2
    place.write_bytes(data)
    shipped = round_.ship()
    assert not shipped.gaps and round_.held("office", wal.identifier) == names(wal, 0, 1, 2)


@pytest.mark.parametrize("ahead", [30, 86400], ids=["a clock a little ahead", "tomorrow"])
def test_a_strange_file_dated_in_the_future_does_not_stop_shipping(round_: Round, wal: Wal, ahead: float) -> None:
    round_.archive(wal.paths[1])
    strange = round_.archive(wal.paths[0], age=-ahead)
    strange.write_bytes(wal.paths[0].read_bytes()[: MB // 2])
    os.utime(strange, (time.time() + ahead,) * 2)
    shipped = round_.ship()
    if ahead < 60:  # the host that copies it may be so much ahead of this one
        assert not shipped.refused and shipped.waiting == 2
    else:
        assert [wal.paths[0].name in sentence for sentence in shipped.refused] == [True]
        assert round_.held("office", wal.identifier) == names(wal, 1)


def test_a_foreign_server_that_writes_all_the_time_does_not_hold_up_ours(round_: Round, wals: dict[int, Wal]) -> None:
    ours, theirs = wals[18], wals[15]
    round_.ship(said(ours.identifier, ours.segment(0).start))
    # Names of theirs come before ours: what waits for them waits for ever.
    name = "00000001" + "0" * 16
    round_.archive(theirs.paths[0], name=name, age=0)
    round_.archive(ours.paths[0])
    shipped = round_.ship()
    assert name in shipped.refused[0] and theirs.identifier in shipped.refused[0]
    assert round_.held("office", ours.identifier) == names(ours, 0) and round_.spooled() == []


def test_backup_labels_are_informational_and_no_gap(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    label = round_.archive(wal.paths[0], name=f"{wal.paths[0].name}.00000028.backup")
    label.write_text("START WAL LOCATION: 0/2000028\n")
    shipped = round_.ship()
    assert not shipped.refused and not shipped.gaps and not shipped.errors
    assert round_.spooled() == [] and round_.held("office", wal.identifier) == names(wal, 0)


def test_a_file_that_is_no_history_is_put_aside(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.archive(wal.paths[0], name="00000002.history")
    assert "no timeline history" in round_.ship().refused[0]
    assert holdings(round_.targets["office"], wal.identifier).histories == set()


# -- timelines ----------------------------------------------------------------------------------------------------------------


def test_a_history_file_is_kept_for_ever_and_shipped_before_what_needs_it(round_: Round, wal: Wal) -> None:
    fork = wal.segment(1).start + 5 * PAGE
    round_.archive(wal.paths[0])
    round_.archive(wal.paths[1], name=f"{wal.paths[1].name}.partial")
    history(round_, wal, fork)
    second = "00000002" + wal.paths[1].name[8:]
    later = on_timeline_2(wal.paths[1].read_bytes())
    round_.receive(wal.identifier, second, later)
    # Only the history fails: another one lies there.
    place = round_.folder / "office" / f"erp/wal/{wal.identifier}/00000002.history.enc"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another")
    shipped = round_.ship()
    assert isinstance(shipped.errors["office"], WalConflict)
    assert round_.held("office", wal.identifier) == []
    assert round_.held("archive", wal.identifier) == [wal.paths[0].name, second]
    place.unlink()
    shipped = round_.ship()
    assert not shipped.errors and not shipped.gaps
    for target in round_.targets.values():
        held = holdings(target, wal.identifier)
        assert held.histories == {2} and sorted(each.name for each in held.segments) == [wal.paths[0].name, second]
        # What the first timeline wrote last was archived as .partial: PostgreSQL never asks for it by that name, we do.
        (partial,) = held.partials
        assert partial.segment.name == wal.paths[1].name and partial.claim is None
        data = wal.paths[1].read_bytes()
        assert plain(target, wal.identifier, held.partials[partial].key) == data[: partial.size] and not data[
            partial.size :
        ].strip(b"\0")
        position = shipped.targets[target.name].position
        assert position is not None and (position.timeline, position.lsn) == (2, wal.segment(1).end)
    assert round_.spooled() == [second]


def test_a_switch_to_a_timeline_that_forked_earlier_is_no_gap_and_a_hole_after_the_fork_is_one(
    round_: Round, wal: Wal
) -> None:
    round_.archive(*wal.paths[:4])
    round_.ship()
    # The standby that was promoted had come to segment 1 only; then something of the new timeline is lost.
    history(round_, wal, wal.segment(1).start + PAGE)
    round_.receive(wal.identifier, "00000002" + wal.paths[1].name[8:], on_timeline_2(wal.paths[1].read_bytes()))
    shipped = round_.ship()
    position = shipped.targets["office"].position
    assert not shipped.gaps and position is not None and position.lsn == wal.segment(1).end
    round_.receive(wal.identifier, "00000002" + wal.paths[3].name[8:], on_timeline_2(wal.paths[3].read_bytes()))
    assert [(each.gap.begin, each.gap.end) for each in round_.ship().gaps] == [
        (wal.segment(2).start, wal.segment(3).start)
    ] * 2


def test_a_hole_at_the_switch_is_found_by_the_history(round_: Round, wal: Wal) -> None:
    round_.archive(*wal.paths[:4])
    round_.ship()
    history(round_, wal, wal.segment(1).start + PAGE)
    round_.receive(wal.identifier, "00000002" + wal.paths[2].name[8:], on_timeline_2(wal.paths[2].read_bytes()))
    gaps = round_.ship().gaps
    assert [each.gap for each in gaps] == [Gap(2, wal.segment(1).start + PAGE, wal.segment(2).start)] * 2


def test_partials_of_a_new_timeline_are_shipped_before_it_has_overtaken_the_old_one(round_: Round, wal: Wal) -> None:
    round_.archive(*wal.paths[:4])
    round_.ship()
    start = wal.segment(1).start
    history(round_, wal, start + PAGE)
    name = "00000002" + wal.paths[1].name[8:]
    round_.receive(
        wal.identifier, f"{name}.partial", on_timeline_2(wal.paths[1].read_bytes()[: 3 * PAGE]) + bytes(MB - 3 * PAGE)
    )
    shipped = round_.ship(said(wal.identifier, start + 3 * PAGE, received=start + 3 * PAGE, timeline=2))
    assert not shipped.gaps and any(partial.startswith(name) for partial in round_.partials("office", wal.identifier))


def test_an_upgraded_cluster_is_archived_beside_the_old_one(round_: Round, wals: dict[int, Wal]) -> None:
    old, new = wals[15], wals[18]
    # The old one had come further, and to a later timeline.
    for place, name in ((4, old.paths[4].name), (5, f"{old.paths[5].name}.partial")):
        round_.receive(old.identifier, "00000003" + name[8:], on_timeline_2(old.paths[place].read_bytes()))
    round_.receive(old.identifier, "00000003.history", b"1\t0/1000000\tx\n\n2\t0/1800000\tx\n")
    round_.ship(said(old.identifier, old.segment(5).start + PAGE, received=old.segment(5).start + PAGE, timeline=3))
    round_.receive(new.identifier, new.paths[0].name, new.paths[0].read_bytes())
    partial = round_.receive(new.identifier, f"{new.paths[1].name}.partial", new.paths[1].read_bytes())
    sample = said(new.identifier, new.segment(1).start + PAGE, received=new.segment(1).start + PAGE, minutes=1)
    for _ in range(2):
        shipped = round_.ship(sample)
        position = shipped.targets["office"].position
        assert not shipped.gaps and not shipped.errors and position is not None
        assert (position.system_identifier, position.lsn) == (new.identifier, new.segment(1).start + PAGE)
        assert partial.exists(), "pg_receivewal still writes to it"
    assert round_.held("office", new.identifier) == names(new, 0)
    assert round_.held("office", old.identifier) == ["00000003" + old.paths[4].name[8:]]
    # Of the old one nothing stays in the spool, and its last bytes are on the target.
    assert not any(round_.spool.received(old.identifier).iterdir())
    assert any(partial.endswith(".none.partial") for partial in round_.partials("office", old.identifier))


# -- the open segment ---------------------------------------------------------------------------------------------------------


def test_the_partial_grows_and_the_older_one_goes(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, wal.paths[0].name, wal.paths[0].read_bytes())
    path = round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    start = wal.segment(1).start
    for minutes, size in enumerate((3 * PAGE, 3 * PAGE + 800, 7 * PAGE + 24)):
        shipped = round_.ship(said(wal.identifier, start + size, received=start + size, minutes=minutes))
        for name, target in round_.targets.items():
            held = holdings(target, wal.identifier).partials
            assert [partial.size for partial in held] == [size], name
            (partial,) = held
            assert partial.claim == NOON + timedelta(minutes=minutes)
            assert plain(target, wal.identifier, held[partial].key) == wal.paths[1].read_bytes()[:size]
            position = shipped.targets[name].position
            assert position is not None and (position.lsn, position.at) == (start + size, partial.claim)
    path.rename(path.with_suffix(""))
    round_.receive(wal.identifier, f"{wal.paths[2].name}.partial", wal.paths[2].read_bytes())
    end = wal.segment(2).start + PAGE
    assert not round_.ship(said(wal.identifier, end, received=end, minutes=4)).gaps
    assert [partial[:24] for partial in round_.partials("office", wal.identifier)] == names(wal, 2)
    assert round_.held("office", wal.identifier) == names(wal, 0, 1)
    assert round_.spooled() == [wal.paths[1].name, f"{wal.paths[2].name}.partial"]


def test_nothing_is_claimed_that_was_not_received(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    start = wal.segment(1).start
    # The primary is ahead of its receiver.
    shipped = round_.ship(said(wal.identifier, start + 9 * PAGE, received=start + 2 * PAGE))
    position = shipped.targets["office"].position
    assert position is not None and (position.lsn, position.at) == (start + 2 * PAGE, None)
    # The receiver has come to where the primary was a minute ago, and no further.
    shipped = round_.ship(said(wal.identifier, start + 20 * PAGE, received=start + 9 * PAGE, minutes=1))
    position = shipped.targets["office"].position
    assert position is not None and (position.lsn, position.at) == (start + 9 * PAGE, NOON)


def test_a_slot_that_was_made_anew_lends_no_zeros_to_a_partial(round_: Round, wal: Wal) -> None:
    data = wal.paths[1].read_bytes()
    path = round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", data[: 9 * PAGE] + bytes(MB - 9 * PAGE))
    start = wal.segment(1).start
    round_.ship(said(wal.identifier, start + 9 * PAGE, received=start + 9 * PAGE))
    good = round_.partials("office", wal.identifier)
    # pg_receivewal begins the file anew; the slot says far more than lies in it.
    path.write_bytes(data[: 2 * PAGE] + bytes(MB - 2 * PAGE))
    for sample in (
        said(wal.identifier, start + 9 * PAGE, received=start + 9 * PAGE, minutes=5),
        said(wal.identifier, wal.segment(4).start, received=wal.segment(4).start, minutes=6),
    ):
        shipped = round_.ship(sample)
        position = shipped.targets["office"].position
        assert position is not None and position.lsn == start + 9 * PAGE
        assert round_.partials("office", wal.identifier) == good


def test_an_idle_servers_claim_is_made_anew_from_time_to_time(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    end = wal.segment(1).start + 2 * PAGE
    claims = []
    for minutes in (0, 0.5, 1, 1.5, 5):
        assert round_.ship(said(wal.identifier, end, received=end, minutes=minutes)).advanced
        (partial,) = holdings(round_.targets["office"], wal.identifier).partials
        assert partial.end == end and partial.claim is not None
        claims.append((partial.claim - NOON).total_seconds() / 60)
    assert claims == [0, 0, 1, 1, 5]


def test_a_claim_made_while_the_servers_clock_was_ahead_is_replaced_when_it_is_put_right(
    round_: Round, wal: Wal
) -> None:
    data = wal.paths[0].read_bytes()[: 5 * PAGE]
    round_.receive(wal.identifier, f"{wal.paths[0].name}.partial", data + bytes(MB - len(data)))
    end = wal.segment(0).start + 5 * PAGE
    round_.ship(said(wal.identifier, end, received=end, minutes=60))
    for minutes in (1, 2):
        shipped = round_.ship(said(wal.identifier, end, received=end, minutes=minutes))
        (partial,) = holdings(round_.targets["office"], wal.identifier).partials
        assert partial.claim == NOON + timedelta(minutes=minutes)
        assert shipped.targets["office"].position.at == partial.claim  # type: ignore[union-attr]


def test_a_moment_that_has_not_come_is_claimed_of_nothing(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    start = wal.segment(1).start
    round_.ship(said(wal.identifier, start + PAGE, received=start + PAGE))
    # An hour ahead, and put right, while the receiver was behind.
    round_.ship(said(wal.identifier, start + 5 * PAGE, received=start + 2 * PAGE, minutes=60))
    shipped = round_.ship(said(wal.identifier, start + 9 * PAGE, received=start + 6 * PAGE, minutes=1))
    assert shipped.targets["office"].position.at == NOON  # type: ignore[union-attr]
    assert {partial.claim for partial in holdings(round_.targets["office"], wal.identifier).partials} == {NOON}


def test_with_whole_segments_only_the_claim_is_stored_alone(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    end = wal.segment(0).end
    round_.ship(said(wal.identifier, end, minutes=0))
    (partial,) = holdings(round_.targets["office"], wal.identifier).partials
    assert (partial.size, partial.end, partial.claim) == (0, end, NOON)
    # A position inside the open segment is claimed only when that has come.
    for minutes in (1, 2):
        shipped = round_.ship(said(wal.identifier, end + 500 + minutes, minutes=minutes))
        assert shipped.targets["office"].position.at == NOON  # type: ignore[union-attr]
    round_.archive(wal.paths[1])
    shipped = round_.ship(None)
    assert shipped.targets["office"].position.at == NOON + timedelta(minutes=2)  # type: ignore[union-attr]
    # The server's clock was put right between the two.
    for minutes in (9, 5):
        round_.ship(said(wal.identifier, wal.segment(1).end, minutes=minutes))
        (partial,) = holdings(round_.targets["office"], wal.identifier).partials
        assert partial.claim == NOON + timedelta(minutes=minutes)


def test_after_a_lost_slot_the_hole_before_a_partial_is_a_gap(round_: Round, wal: Wal) -> None:
    partial = round_.receive(wal.identifier, f"{wal.paths[0].name}.partial", wal.paths[0].read_bytes())
    end = wal.segment(0).start + 4 * PAGE
    round_.ship(said(wal.identifier, end, received=end))
    # As the receiver leaves it: what was received lies in archived, and the stream goes on elsewhere.
    partial.write_bytes(wal.paths[0].read_bytes()[: 4 * PAGE] + bytes(MB - 4 * PAGE))
    partial.rename(round_.spool.archived / partial.name)
    round_.receive(wal.identifier, f"{wal.paths[3].name}.partial", wal.paths[3].read_bytes())
    end = wal.segment(3).start + PAGE
    shipped = round_.ship(said(wal.identifier, end, received=end, minutes=1))
    assert {(each.target, each.gap.end) for each in shipped.gaps} == {
        (name, wal.segment(3).start) for name in ("office", "archive")
    }
    # What was received before the gap is still there: it is the end of what can be recovered.
    (before,) = {partial[:24] for partial in round_.partials("office", wal.identifier)} - {wal.paths[3].name}
    assert before == wal.paths[0].name
    assert not round_.ship(said(wal.identifier, end, received=end, minutes=2)).gaps


def test_a_partial_waits_for_the_segment_before_it(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, wal.paths[0].name, wal.paths[0].read_bytes())
    round_.ship()
    # Other bytes under the name of the next one: the target refuses, and has nothing after it either.
    other = changed(wal.paths[1].read_bytes(), lambda copy: copy.__setitem__(PAGE + 500, copy[PAGE + 500] ^ 1))
    round_.receive(wal.identifier, wal.paths[1].name, wal.paths[1].read_bytes())
    round_.ship()
    round_.restart()
    shutil.rmtree(round_.spool.root / "stored")
    round_.receive(wal.identifier, wal.paths[1].name, other)
    round_.receive(wal.identifier, f"{wal.paths[2].name}.partial", wal.paths[2].read_bytes())
    end = wal.segment(2).start + PAGE
    shipped = round_.ship(said(wal.identifier, end, received=end))
    assert isinstance(shipped.errors["office"], WalConflict) and not shipped.gaps
    assert round_.partials("office", wal.identifier) == []


def test_the_clock_of_this_machine_does_not_matter_to_claims(
    round_: Round, wal: Wal, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    real = time.time
    for minutes, moved in enumerate((0, -86400 * 400, 86400 * 400)):
        monkeypatch.setattr(time, "time", lambda moved=moved: real() + moved)
        end = wal.segment(1).start + (minutes + 1) * PAGE
        shipped = round_.ship(said(wal.identifier, end, received=end, minutes=minutes))
        assert not shipped.errors and not shipped.gaps
        assert shipped.targets["office"].position.at == NOON + timedelta(minutes=minutes)  # type: ignore[union-attr]


def test_claims_made_while_the_open_segment_is_hours_behind_are_kept_from_all_of_that_time(
    round_: Round, wal: Wal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twist_dr.wal.state._MOST_CLAIMS", 20)
    round_.archive(wal.paths[0])
    end = wal.segment(0).end
    for minutes in range(60):
        round_.ship(said(wal.identifier, end + 100 + minutes * 20_000, minutes=minutes))
    claims = round_.spool.load_state().claims
    assert len(claims) <= 20 and claims[0][1] == end + 100
    round_.archive(wal.paths[1])
    # Those that lie in the segment that came at last, not only the last ones of all, which lie after it.
    at = round_.ship(None).targets["office"].position.at  # type: ignore[union-attr]
    assert at is not None and at >= NOON + timedelta(minutes=40)


def test_a_target_that_is_no_longer_in_the_settings_is_forgotten(tmp_path: Path, wal: Wal) -> None:
    round_ = Round(tmp_path)
    round_.archive(wal.paths[0])
    round_.ship(said(wal.identifier, wal.segment(0).end))
    round_.restart()
    del round_.targets["archive"]
    round_.archive(wal.paths[1])
    shipped = round_.ship(said(wal.identifier, wal.segment(1).end, minutes=5))
    assert not shipped.errors and set(shipped.targets) == {"office"} and round_.spooled() == []
    round_.restart()


# -- killed, and full ---------------------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from twist_dr.wal import packing, spool
from twist_dr.wal.objects import WalArchive
from twist_dr_tests.wal.wal_files import Round, said

folder, identifier, end, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
count = 0

def counted(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **options):
        step("before " + name)
        result = real(*arguments, **options)
        step("after " + name)
        return result
    setattr(owner, name, call)

def step(name):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)

counted(packing, "pack")
counted(WalArchive, "put")
counted(WalArchive, "remove")
for name in ("note_stored", "remove", "keep", "save_state"):
    counted(spool.Spool, name)
made = Round(folder)
made.ship(said(identifier, end, received=end, minutes=9))
print(count)
"""


def _prepared(folder: Path, wal: Wal) -> Round:
    """A spool with a history, whole segments, and a partial segment that grew since the last round."""
    round_ = Round(folder)

    round_.receive(wal.identifier, wal.paths[0].name, wal.paths[0].read_bytes())
    path = round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    end = wal.segment(1).start + PAGE
    round_.ship(said(wal.identifier, end, received=end))
    path.rename(path.with_suffix(""))
    round_.receive(
        wal.identifier, f"{wal.paths[2].name}.partial", wal.paths[2].read_bytes()[: 5 * PAGE] + bytes(MB - 5 * PAGE)
    )
    round_.restart()

    return round_


@pytest.mark.sweep
def test_killed_at_any_point_of_a_round_the_next_one_finishes_it(tmp_path: Path, wal: Wal) -> None:
    template = _prepared(tmp_path / "template", wal)
    end = wal.segment(2).start + 5 * PAGE
    shutil.copytree(template.folder, tmp_path / "counted")
    with python(_KILLED, tmp_path / "counted", wal.identifier, end, 0) as process:
        said_, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said_
    steps = int(said_)
    assert steps >= 15
    for at in instants(range(1, steps + 1, 4), every=range(1, steps + 1)):
        folder = tmp_path / f"killed{at}"
        shutil.copytree(template.folder, folder)
        with python(_KILLED, folder, wal.identifier, end, at) as process:
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL
        round_ = Round(folder)
        shipped = round_.ship(said(wal.identifier, end, received=end, minutes=11))
        assert not shipped.errors and not shipped.gaps and not shipped.refused, at
        for name, target in round_.targets.items():
            held = holdings(target, wal.identifier)
            assert sorted(each.name for each in held.segments) == names(wal, 0, 1), at
            assert [(partial.segment.name, partial.size) for partial in held.partials] == [
                (wal.paths[2].name, 5 * PAGE)
            ], at
            for segment, stored in held.segments.items():
                path = next(path for path in wal.paths if path.name == segment.name)
                assert plain(target, wal.identifier, stored.key) == path.read_bytes()
            for partial, stored in held.partials.items():
                assert plain(target, wal.identifier, stored.key) == wal.paths[2].read_bytes()[: partial.size]
            assert shipped.targets[name].position.lsn == end  # type: ignore[union-attr]
        assert round_.spooled() == [wal.paths[1].name, f"{wal.paths[2].name}.partial"], at
        assert not list(round_.spool.packed.iterdir())
        round_.restart()


_KILLED_REMOVING = """
import os, signal, sys
from pathlib import Path
from twist_dr.wal import spool
from twist_dr_tests.wal.wal_files import Round

real = spool.Spool.remove
def remove(self, file):
    real(self, file)
    os.kill(os.getpid(), signal.SIGKILL)
spool.Spool.remove = remove
Round(Path(sys.argv[1])).ship()
"""


@pytest.mark.promise(8)
def test_killed_when_a_file_has_just_left_the_spool_nothing_counts_as_missing(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    round_.restart()
    round_.archive(*wal.paths[1:3])
    with python(_KILLED_REMOVING, round_.folder) as process:
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    assert round_.spooled() == names(wal, 2)
    position = round_.spool.load_state().position("office")
    assert position is not None and position.lsn == wal.segment(2).end
    round_.archive(wal.paths[3])
    assert not round_.ship().gaps and not round_.warnings
    assert round_.held("office", wal.identifier) == names(wal, 0, 1, 2, 3)


def test_a_state_that_is_damaged_inside_counts_as_none(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    whole = json.loads(round_.spool.state_path.read_text())
    for damaged in ({"positions": {"office": {}}}, {"gaps": [{}]}, {"positions": {"office": 7}}):
        round_.spool.state_path.write_text(json.dumps({**whole, **damaged}))
        assert round_.spool.load_state().position("office") is None and not round_.spool.load_state().known_gaps()


def test_a_state_with_the_names_of_earlier_versions_is_read(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    state = round_.spool.load_state()
    document = json.loads(round_.spool.state_path.read_text())
    document["frontiers"] = {
        name: {**each, "head": each.pop("partial")} for name, each in document.pop("positions").items()
    }
    document["heads"] = {"office": ["a/key"], **document.pop("partials")}
    round_.spool.state_path.write_text(json.dumps(document))
    read = round_.spool.load_state()
    assert read.position("office") == state.position("office") is not None
    assert read.partials == {"office": ["a/key"], **state.partials} and read.claims == state.claims


def test_what_a_target_holds_is_no_gap_though_the_state_in_the_spool_is_older(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship()
    old = round_.spool.state_path.read_bytes()
    round_.archive(*wal.paths[1:3])
    round_.ship()
    round_.restart()
    round_.spool.state_path.write_bytes(old)
    round_.archive(wal.paths[3])
    shipped = round_.ship()
    assert not shipped.gaps and not round_.warnings
    assert shipped.targets["office"].position.lsn == wal.segment(3).end  # type: ignore[union-attr]
    # Of a stretch that is partly there, only what is missing is told.
    round_.restart()
    round_.spool.state_path.write_bytes(old)
    round_.archive(wal.paths[5])
    assert {(each.gap.begin, each.gap.end) for each in round_.ship().gaps} == {
        (wal.segment(4).start, wal.segment(5).start)
    }


def test_a_dead_primarys_last_bytes_are_shipped_once_though_we_are_killed_between(round_: Round, wal: Wal) -> None:
    data = wal.paths[1].read_bytes()[: 5 * PAGE]
    round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", data + bytes(MB - 5 * PAGE))
    round_.ship(None)
    (stored,) = round_.partials("office", wal.identifier)
    # The partial segment is there, and nothing that was written down about it.
    round_.spool.state_path.unlink()
    round_.restart()
    round_.spool.save_state(type(round_.spool.load_state())(clusters=[wal.identifier], segment_size=MB))
    shipped = round_.ship(None)
    assert not shipped.errors and round_.partials("office", wal.identifier) == [stored]
    partial = PartialSegment.named(stored, MB)
    assert partial is not None and partial.size >= 5 * PAGE - 8 and partial.claim is None


def test_a_spool_that_filled_its_disk_empties_itself_when_the_target_is_back(tmp_path: Path, wal: Wal) -> None:
    disk = tmp_path / "disk"
    targets = {"office": LocalTarget("office", tmp_path / "office")}
    with mounted_tmpfs(disk, "size=4m"):
        round_ = Round(disk, dict(targets))
        round_.archive(*wal.paths[:3])
        with pytest.raises(OSError, match="No space left"):
            (round_.spool.root / "filler").write_bytes(bytes(8 * MB))
        shipped = round_.ship()
        assert not shipped.errors and round_.spooled() == []
        assert round_.held("office", wal.identifier) == names(wal, 0, 1, 2)
        round_.restart()
    disk.rmdir()


def test_when_there_is_no_space_anywhere_the_disks_are_named(
    tmp_path: Path, wal: Wal, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    with mounted_tmpfs(disk, "size=4m"):
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        round_ = Round(disk, {"office": LocalTarget("office", tmp_path / "office")})
        round_.archive(*wal.paths[:2])
        with pytest.raises(OSError, match="No space left"):
            (round_.spool.root / "filler").write_bytes(bytes(8 * MB))
        with pytest.raises(StagingFull, match=f"disks of {round_.spool.root} and {disk} are full"):
            round_.ship()
        (round_.spool.root / "filler").unlink()
        assert not round_.ship().errors and round_.spooled() == []
        round_.restart()


def test_the_keyring_may_change_between_two_rounds(round_: Round, wal: Wal) -> None:
    from twist_dr.repository.keys import Keyring, new_key

    round_.archive(wal.paths[0])
    round_.ship()
    round_.restart()
    key = new_key("newer")
    round_.keyring = Keyring("newer", {**KEYRING.keys, "newer": key}, "keyring.yaml")
    # The first one again: it was written with the old key, and is the same all the same.
    round_.archive(*wal.paths[:2])
    assert not round_.ship().errors and round_.spooled() == []
