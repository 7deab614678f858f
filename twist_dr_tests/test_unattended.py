"""A compressed week under the real daemon, a minute a day: what went wrong is told, what went right is not, and the status is right all the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from twist_dr_tests.alerts.mailbox import Mailbox, Webhook, mailbox, webhook
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.daemon import Watcher, dagster_dev, schedule, shipping, watched
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

pytestmark = pytest.mark.timeout(1500)

#: A day has a minute, and a run may have to share its processors.
_PATIENCE = 240.0
_KEPT = 3


class Week:
    """A site that runs by itself, and those who hear of it."""

    def __init__(self, site: Site, box: Mailbox, hook: Webhook, beat: Webhook, watcher: Watcher) -> None:
        self.site, self.box, self.hook, self.beat, self.watcher = site, box, hook, beat, watcher

    def until(self, condition: Callable[[], object], what: str, seconds: float = _PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            log = (self.site.folder / "dagster-dev.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"no {what} in {seconds} s; told: {self.told()}; {log}"
            time.sleep(0.5)

    def until_state(self, state: str) -> float:
        """Wait until the status is that; returns when it was seen."""
        self.until(
            lambda: self.watcher.seen and self.watcher.seen[-1].state == state,
            f"status {state}: {self.watcher.seen[-1:]}",
        )
        return time.monotonic()

    def told(self) -> list[str]:
        """The titles of all messages, in order."""
        return [str(call.json["title"]) for call in self.hook.calls]

    def tells(self, *words: str) -> bool:
        return any(all(word in title for word in words) for title in self.told())

    def verified(self) -> list[str]:
        """Scheduled full backups that were proven, newest first."""
        rows = self.site.catalog().backups(application="erp", kind="full")
        return [
            row.backup_id
            for row in rows
            if row.label != "manual" and row.last_verification is not None and row.last_verification.verified
        ]

    def more_verified(self, number: int) -> None:
        begin = len(self.verified())
        self.until(
            lambda: len(self.verified()) >= begin + number, f"{number} more verified backups", number * _PATIENCE
        )


@pytest.fixture
def week(tmp_path: Path) -> Iterator[Week]:
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings={"fsync": "off"}))
        (tmp_path / "site").mkdir()
        site = make_site(server, tmp_path / "site")
        box, hook, beat = stack.enter_context(mailbox()), stack.enter_context(webhook()), stack.enter_context(webhook())
        office, archive = site.document["storage_targets"].values()
        retention = {"kinds": ["full", "configuration"], "max_count": _KEPT}
        site.set(
            storage_targets={
                "office": {**office, "retention": retention},
                "archive": {**archive, "retention": retention},
            },
            wal={"follow_seconds": 1},
            objectives={"recovery_point": "300 seconds", "wal": "600 seconds"},
            scrub={"period": "1 minute"},
            # A tiny database: what is compared with the last nights must not mind a process that waits for a processor.
            alerts={
                "duration_factor": 50,
                "staging_free": 0,
                "channels": {
                    "mail": {"url": box.url, "at_least": "error"},
                    "chat": {"url": hook.url, "at_least": "warning"},
                },
                "heartbeat": {"url": beat.http_url},
            },
        )
        for target in site.document["storage_targets"].values():
            target["warn_free"] = 0
        site.save()
        site.backup().expect(0)
        site.verify().expect(0)
        stack.enter_context(shipping(site))
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
        watcher = stack.enter_context(watched(site))
        yield Week(site, box, hook, beat, watcher)


@pytest.mark.promise(5, 11)
def test_a_week_alone(week: Week) -> None:
    site = week.site
    # Until the first write-ahead log has arrived, a target does not know how far it reaches.
    begun = week.until_state("safe")

    # Nothing happens that anybody need know of.
    week.more_verified(2)
    quiet = time.monotonic()
    assert week.told() == []
    assert week.watcher.reasons(begun, quiet) == {"safe": set()}
    assert "UTC  full" in site.cli("status").expect(0).text.partition("\nnext:\n")[2]
    assert len(week.beat.calls) >= 2

    # A target breaks: the other one goes on, somebody is told and says that they have seen it; it is mended.
    folder = site.folder / "targets" / "archive"
    folder.rename(folder.with_name("away"))
    folder.write_text("not a folder")
    week.until(lambda: week.tells("archive"), "word of the broken target")
    broken = week.until_state("degraded")
    site.cli("status").expect(1)
    site.cli("alerts", "acknowledge", "all").expect(0)
    week.more_verified(1)
    folder.unlink()
    folder.with_name("away").rename(folder)
    mended = time.monotonic()
    assert set(week.watcher.reasons(broken, mended)) == {"degraded"}, week.watcher.reasons(broken, mended)
    week.until_state("safe")
    week.until(lambda: not site.catalog().open_alerts("erp"), "end of all alerts")
    assert week.tells("resolved") or week.tells("RESOLVED")

    # A byte of a copy goes bad. Nobody looks at it but the scrub, which mends it from the other target.
    spoiled = week.verified()[1]
    site.cli("hold", spoiled, "--reason", "to be looked at").expect(0)
    (path,) = (folder / "erp" / "backups" / spoiled).glob("database.dump*")
    good = path.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    path.unlink()
    path.write_bytes(bad)
    week.until(lambda: week.tells("integrity") or week.tells("corrupt"), "word of the corrupt copy")
    week.until(lambda: path.exists() and path.read_bytes() == good, "repair")
    week.until_state("safe")

    # Somebody stops the schedule and forgets it: silence is an alarm.
    schedule(site, "stop", "full_schedule")
    week.until(lambda: week.tells("missed"), "word of the missed backup")
    silent = week.until_state("unsafe")
    site.cli("status").expect(2)
    week.until(
        lambda: "not full: somebody switched it off" in site.cli("status").text,
        "word that what is switched off is not next",
    )
    schedule(site, "start", "full_schedule")
    heard = time.monotonic()
    assert set(week.watcher.reasons(silent, heard)) == {"unsafe"}
    week.until_state("safe")
    week.until(lambda: not site.catalog().open_alerts("erp"), "end of all alerts")

    # Everything that was told has an end, was told once, and was about what went wrong.
    alerts = site.catalog().alerts("erp")
    assert all(alert.state == "resolved" for alert in alerts)
    titles = week.told()
    assert len(titles) == len(set(titles)) or len(titles) <= 2 * len(alerts) + 2, titles
    assert week.box.mails, "nobody got a mail"
    # Cleanup has kept what the policy says, and what is held.
    for target in ("office", "archive"):
        full = [backup_id for backup_id in site.held(target) if "-full-" in backup_id]
        assert spoiled in full and len(full) <= _KEPT + 3, full
    site.cli("audit", "verify").expect(0)
