"""The week of test_unattended.py under the real daemon, a minute a day."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from twist_dr_tests.daemon import dagster_dev, receiving, schedule, watching
from twist_dr_tests.week import Week, lonely_site, people

pytestmark = pytest.mark.timeout(1500)


class RealClock(Week):
    """A day has a minute, and a run may have to share its processors."""

    patience = timedelta(minutes=4)

    def pass_time(self) -> None:
        time.sleep(0.5)

    def schedule(self, action: str, name: str) -> None:
        schedule(self.site, action, name)


@pytest.fixture
def week(tmp_path: Path, as_commands: None) -> Iterator[RealClock]:
    with ExitStack() as stack:
        them = stack.enter_context(people())
        objectives = {"recovery_point": "300 seconds", "wal": "600 seconds"}
        sections = {"wal": {"follow_seconds": 1}, "scrub": {"period": "1 minute"}, "objectives": objectives}
        site = stack.enter_context(lonely_site(tmp_path, them, **sections))
        site.backup().expect(0)
        site.verify().expect(0)
        stack.enter_context(receiving(site, ["wal", "ship", "--follow"]))
        site.job("backup_base").expect(0)
        # Only now: what is written down and has no daemon yet would have been missed.
        site.set(
            schedules={
                "full": "* * * * *",
                "configuration": "*/5 * * * *",
                "base": "*/3 * * * *",
                "base_incremental": None,
                "drill": None,
                "scrub": "* * * * *",
            },
        )
        stack.enter_context(dagster_dev(site))
        lived = RealClock(site, them)
        stack.enter_context(watching(lived.watcher))
        yield lived


def test_a_week_under_the_real_daemon(week: RealClock) -> None:
    week.live()
