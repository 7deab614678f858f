"""A site that runs by itself: for a week on a clock of its own, and for half a minute under the real daemon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest
import time_machine
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from twist_dr.wal import primary
from twist_dr.wal.from_settings import Shipping
from twist_dr.watch.alerts import channels
from twist_dr.watch.schedules import ScheduleEntry, entries, last_due, next_due
from twist_dr_tests.daemon import dagster_dev, receiving, schedule
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.site import Site
from twist_dr_tests.watch.alerts.mailbox import send_here
from twist_dr_tests.week import People, Week, lonely_site, now, people

#: Beside much other work.
pytestmark = pytest.mark.timeout(600)

#: A Monday, far from a month's end.
_BEGIN = datetime(2037, 3, 9, 12, tzinfo=timezone.utc)
#: How often the sensors look when nothing is due.
_TICK = timedelta(hours=12)


class OwnClock(Week):
    """What the daemon would do is done by direct calls when the clock says so: schedules and sensors are asked, and what they ask for is run here."""

    patience = timedelta(days=2)

    def __init__(self, site: Site, them: People, clock: time_machine.Traveller) -> None:
        super().__init__(site, them)
        self._clock = clock
        # Of what it keeps, only the switches of the schedules count here; what runs tell is kept in memory.
        self._instance = dg.DagsterInstance.from_config(str(site.folder / "dagster"))
        self._runs = dg.DagsterInstance.ephemeral()
        self._asked: set[str | None] = set()
        self._stopped: set[str] = set()
        self.read_settings()

    def read_settings(self) -> None:
        """As a code location does that is loaded anew."""
        from twist_dr.definitions import build_definitions

        self._app = self.site.app()
        self._definitions = build_definitions(self._app)

    def run(self, job: str, config: object = None, tags: object = None) -> bool:
        """Run a job here; whether it succeeded."""
        found = self._definitions.resolve_job_def(job)
        return found.execute_in_process(config, self._runs, tags=tags, raise_on_error=False).success

    def pass_time(self) -> None:
        """Until the next schedule is due, twelve hours at most; then the sensors look."""
        dues = {next_due(entry, now()): entry for entry in self._running()}
        at = min(*filter(None, dues), now() + _TICK)
        self._clock.move_to(at)
        self.ship()
        if due := dues.get(at):
            with dg.build_schedule_context(self._instance, at) as context:
                asked = self._definitions.resolve_schedule_def(due.schedule).evaluate_tick(context).run_requests
            self._launch(asked or (), due.job)
        # One thing leads to another: the proof to the cleanup, the cleanup to the report.
        while self._launch(self._sensed("after_backups")):
            pass
        self._sensed("watch")
        self.watcher.look()

    def ship(self) -> None:
        """As the resident process would all the time."""
        with Shipping(self.site.app()) as shipping:
            shipping.once()

    def schedule(self, action: str, name: str) -> None:
        stopped = action == "stop"
        self._stopped ^= {name}
        target = LoadableTargetOrigin(module_name="twist_dr.definitions")
        location = InProcessCodeLocationOrigin(target, location_name="twist_dr")
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
        status = InstigatorStatus.STOPPED if stopped else InstigatorStatus.RUNNING
        state = InstigatorState(origin, InstigatorType.SCHEDULE, status, ScheduleInstigatorData("0 2 * * *"))
        (self._instance.add_instigator_state if stopped else self._instance.update_instigator_state)(state)

    def _running(self) -> list[ScheduleEntry]:
        return [entry for entry in entries(self._app.settings) if entry.schedule not in self._stopped]

    def _sensed(self, name: str) -> list[dg.RunRequest]:
        sensor = self._definitions.resolve_sensor_def(name)
        with dg.build_sensor_context(self._instance, sensor_name=name) as context:
            return list(sensor.evaluate_tick(context).run_requests or ())

    def _launch(self, requests: Iterable[dg.RunRequest], job: str | None = None) -> bool:
        """Whether there was any that was not asked for before."""
        fresh = [each for each in requests if each.run_key not in self._asked]
        for each in fresh:
            self._asked.add(each.run_key)
            self.run(each.job_name or job or "", each.run_config, each.tags)
        return bool(fresh)


@pytest.fixture
def week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnClock]:
    ask = primary.Primary.ask
    # A server of the same time.
    monkeypatch.setattr(primary.Primary, "ask", lambda self: replace(ask(self), at=now()))
    monkeypatch.setattr(channels, "_run_sender", send_here)
    sections = {"wal": {"follow_seconds": 1}, "objectives": {"wal": "10 days"}, "scrub": {"period": "1 day"}}
    with (
        time_machine.travel(_BEGIN) as clock,
        people() as them,
        lonely_site(tmp_path, them, **sections) as site,
    ):
        for name, value in site.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(site.folder)
        with receiving(site):
            lived = OwnClock(site, them, clock)
            for job in ("backup_full", "verify_backup", "backup_base"):
                assert lived.run(job)
            # Only now: what is written down and has no daemon yet would have been missed.
            # A test of targets would find that the clock of their disk is not that of this story.
            site.set(schedules={"base_incremental": None, "drill": None, "test_targets": None})
            lived.read_settings()
            yield lived


@pytest.mark.promise(5, 11)
def test_a_week_alone(week: OwnClock) -> None:
    week.live()


def test_the_real_daemon_launches_what_is_due_and_what_was_missed_proves_it_and_looks_whether_all_is_well(
    site: Site,
) -> None:
    site.set(schedules={"full": "0 2 * * *", "configuration": "* * * * *", "drill": None, "cleanup": False})
    schedule(site, "stop", "scrub_schedule")
    _began_three_days_ago("full_schedule", "0 2 * * *", site)
    (full,) = (entry for entry in entries(site.settings()) if entry.kind == "full")
    missed, begun, catalog = last_due(full, now()), now(), site.catalog()

    def due_of(job: str) -> list[datetime | None]:
        return [each.scheduled_for for each in catalog.attempts("erp", job=job) if each.state == "succeeded"]

    with dagster_dev(site):
        wait_until(lambda: due_of("verify_backup"), "the proof of the backup that was missed", 120)
        wait_until(lambda: due_of("backup_configuration"), "a backup of the configuration", 120)
        told = "not scrub: somebody switched it off"
        wait_until(lambda: told in site.cli("status").text, "a word of the schedule that is switched off", 120)
    # Once, however many nights it was: for the last one.
    assert due_of("backup_full") == [missed]
    assert site.latest().last_verification is not None and site.latest().last_verification.verified
    assert {each.who for each in catalog.attempts("erp", job="backup_full")} == {"schedule full_schedule"}
    assert all(due is not None and due > begun and due.second == 0 for due in due_of("backup_configuration"))


def _began_three_days_ago(name: str, cron: str, site: Site) -> None:
    """As if the daemon had begun with a schedule then, and had not been there since. The place of one that is switched off is known."""
    with dg.DagsterInstance.from_config(str(site.folder / "dagster")) as instance:
        (off,) = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        origin = RemoteInstigatorOrigin(off.origin.repository_origin, name)
        begun = ScheduleInstigatorData(cron, (now() - timedelta(days=3)).timestamp())
        in_code = InstigatorStatus.DECLARED_IN_CODE
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, in_code, begun))
