"""Random instants, new ones each time: of a recovery, and of a kill while the ERP is served."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from twist_dr.postgres.lsn import format_lsn
from twist_dr_tests.orchestrator.jobs.test_restore_served import REPLACE, Stage
from twist_dr_tests.orchestrator.jobs.test_restore_served import stage as stage
from twist_dr_tests.orchestrator.jobs.test_restore_to_time import Recorded, first_after_base, rows_by
from twist_dr_tests.orchestrator.jobs.test_restore_to_time import recorded as recorded
from twist_dr_tests.recorded import recovered_numbers
from twist_dr_tests.sweep import SEEDS

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", SEEDS)
def test_twenty_random_times_lsns_and_transactions_give_exactly_the_rows_of_the_record(
    recorded: Recorded, open_folder: Path, seed: int
) -> None:
    site, written, chance = recorded.site, recorded.written, random.Random(seed)
    # Before the first base backup nothing can be recovered: it ended after the rows that were there then.
    first = first_after_base(site, written)
    for number in range(20):
        row = chance.choice(written[first:-1])
        kind = ("time", "lsn", "xid")[number % 3]
        if kind == "time":
            following = next(each for each in written if each.number == row.number + 1)
            at = row.committed_at + (following.committed_at - row.committed_at) * chance.random() * 0.99
            to, expected = at.isoformat(), rows_by(written, at)
        else:
            to = f"lsn:{format_lsn(row.lsn)}" if kind == "lsn" else f"xid:{row.xid}"
            expected = [each.number for each in written if each.number <= row.number]
        assert recovered_numbers(site, to, open_folder) == expected, f"to {to}, seed {seed}"


@pytest.mark.usefixtures("real_commands")
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_a_random_instant_under_load(stage: Stage, seed: int) -> None:
    site = stage.site
    with stage.history.during("restore"):
        process = site.start("restore", {"restore": {"config": REPLACE}})
        time.sleep(random.Random(seed).uniform(2, 4))
        process.kill()
        process.communicate()
        settled = site.cli("settle").expect(0).text
    live = stage.is_live(stage.after_restore())
    done = site.catalog().restores("erp")[:1]
    assert live == ("then" if "is finished now" in settled or (done and done[0].state == "done") else "now"), settled
