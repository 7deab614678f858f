"""A week in which a site runs by itself: what goes wrong in it is told, what goes right is not, and the status is right all the time.

The story is one; who lives it, says what time is: direct calls on a clock of their own (test_unattended.py), or the real daemon with a minute
a day (prove/week.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

from twist_dr.catalog import CatalogUnavailable
from twist_dr.watch.status.collect import collect
from twist_dr_tests.apps import application
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site
from twist_dr_tests.watch.alerts.mailbox import Mailbox, Webhook, mailbox, webhook

KEPT = 3


def now() -> datetime:
    """As the week's clock has it."""
    return datetime.now(timezone.utc)


@dataclass
class Seen:
    """What ``twist-dr status`` would have said at a moment."""

    at: datetime
    state: str
    reasons: tuple[str, ...]


@dataclass
class Watcher:
    """Looks at the status, and remembers what it was."""

    site: Site
    seen: list[Seen] = field(default_factory=list)

    def look(self) -> Seen:
        at = now()
        try:
            status = collect(application(self.site.settings(), catalog=self.site.catalog()), at)
            seen = Seen(at, status.state, tuple(reason.text for reason in status.reasons))
        except CatalogUnavailable as unavailable:
            seen = Seen(at, "unsafe", (str(unavailable),))
        self.seen.append(seen)
        return seen

    def reasons(self, begin: datetime, end: datetime) -> dict[str, set[str]]:
        """The states between two times, with the reasons that were given for each."""
        found: dict[str, set[str]] = {}
        for each in self.seen:
            if begin <= each.at <= end:
                found.setdefault(each.state, set()).update(each.reasons)
        return found


@dataclass
class People:
    """Those who hear of it: a mailbox, a chat, and the watcher outside that expects a heartbeat."""

    box: Mailbox
    hook: Webhook
    beat: Webhook

    @property
    def alerts(self) -> dict[str, Any]:
        """The settings that lead to them. A tiny database: what is compared with the last nights must not mind a process that waits for a processor."""
        return {
            "duration_factor": 50,
            "staging_free": 0,
            "channels": {
                "mail": {"url": self.box.url, "at_least": "error"},
                "chat": {"url": self.hook.url, "at_least": "warning"},
            },
            "heartbeat": {"url": self.beat.http_url},
        }

    def told(self) -> list[str]:
        """The titles of all messages, in order."""
        return [str(call.json["title"]) for call in self.hook.calls]


@contextmanager
def people() -> Iterator[People]:
    with mailbox() as box, webhook() as hook, webhook() as beat:
        yield People(box, hook, beat)


@contextmanager
def lonely_site(folder: Path, them: People, **sections: Any) -> Iterator[Site]:
    """A site with a server of its own, two targets that keep three backups, archived WAL, and nothing scheduled yet."""
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(TOOLS[max(TOOLS)], folder / "server", settings={"fsync": "off"}))
        (folder / "site").mkdir()
        site = make_site(server, folder / "site")
        retention = {"kinds": ["full", "configuration"], "max_count": KEPT}
        for target in site.document["storage_targets"].values():
            target.update(retention=retention, warn_free=0)
        site.set(alerts=them.alerts, **sections)
        yield site


class Week:
    """A site that runs by itself, and those who hear of it."""

    #: Of the week's clock: longer than whatever is waited for takes, once.
    patience: ClassVar[timedelta]

    def __init__(self, site: Site, them: People) -> None:
        self.site, self.people, self.watcher = site, them, Watcher(site)

    def pass_time(self) -> None:
        """A little of it."""
        raise NotImplementedError

    def schedule(self, action: str, name: str) -> None:
        """Start or stop a schedule, as the switch in the page does."""
        raise NotImplementedError

    # -- what is waited for ------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], object], what: str, times: int = 1) -> None:
        deadline = now() + times * self.patience
        while not condition():
            assert now() < deadline, f"no {what}; told: {self.people.told()}; seen last: {self.watcher.seen[-3:]}"
            self.pass_time()

    def until_state(self, state: str) -> datetime:
        """Wait until the status is that; returns when it was seen."""
        seen = self.watcher.seen
        self.until(lambda: seen and seen[-1].state == state, f"status {state}")
        return seen[-1].at

    def more_verified(self, number: int) -> None:
        """So many more scheduled full backups that were proven."""
        begin = len(self.verified())
        self.until(lambda: len(self.verified()) >= begin + number, f"{number} more verified backups", number)

    def all_resolved(self) -> None:
        self.until(lambda: not self.site.catalog().open_alerts("erp"), "end of all alerts")

    def verified(self) -> list[str]:
        """Scheduled full backups that were proven, newest first."""
        rows = self.site.catalog().backups(application="erp", kind="full")
        proofs = ((row, row.last_verification) for row in rows if row.label != "manual")
        return [row.backup_id for row, proof in proofs if proof is not None and proof.verified]

    def tells(self, *words: str) -> bool:
        return any(all(word in title for word in words) for title in self.people.told())

    # -- the story ---------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """The whole week."""
        self.quiet_days()
        self.a_target_breaks_and_is_repaired()
        spoiled = self.a_byte_goes_bad()
        self.a_schedule_is_forgotten()
        self.what_is_left_of_it(spoiled)

    def quiet_days(self) -> None:
        """Nothing happens that anybody need know of."""
        # Until the first write-ahead log has arrived, a target does not know how far it reaches.
        begun = self.until_state("safe")
        self.more_verified(2)
        quiet = now()
        assert self.people.told() == [], self.people.told()
        assert self.watcher.reasons(begun, quiet) == {"safe": set()}
        assert "UTC  full" in self.site.cli("status").expect(0).text.partition("\nnext:\n")[2]
        assert len(self.people.beat.calls) >= 2

    def a_target_breaks_and_is_repaired(self) -> None:
        """The other one goes on, somebody is told and says that they have seen it."""
        folder = self.site.folder / "targets" / "archive"
        away = folder.with_name("away")
        folder.rename(away)
        folder.write_text("not a folder")
        self.until(lambda: self.tells("archive"), "word of the broken target")
        broken = self.until_state("degraded")
        self.site.cli("status").expect(1)
        self.site.cli("alerts", "acknowledge", "all").expect(0)
        self.more_verified(1)
        folder.unlink()
        away.rename(folder)
        repaired = now()
        assert set(self.watcher.reasons(broken, repaired)) == {"degraded"}, self.watcher.reasons(broken, repaired)
        self.until_state("safe")
        self.all_resolved()
        assert self.tells("resolved") or self.tells("RESOLVED")

    def a_byte_goes_bad(self) -> str:
        """Nobody looks at the copy but the scrub, which repairs it from the other target. Returns the backup, which is held."""
        spoiled = self.verified()[1]
        self.site.cli("hold", spoiled, "--reason", "to be looked at").expect(0)
        (path,) = (self.site.folder / "targets" / "archive" / "erp" / "backups" / spoiled).glob("database.dump*")
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.unlink()
        path.write_bytes(bad)
        self.until(lambda: self.tells("integrity") or self.tells("corrupt"), "word of the corrupt copy")
        self.until(lambda: path.exists() and path.read_bytes() == good, "repair")
        self.until_state("safe")
        return spoiled

    def a_schedule_is_forgotten(self) -> None:
        """Somebody stops it and forgets it: silence is an alarm."""
        self.schedule("stop", "full_schedule")
        self.until(lambda: self.tells("missed"), "word of the missed backup")
        silent = self.until_state("unsafe")
        self.site.cli("status").expect(2)
        off = "not full: somebody switched it off"
        self.until(lambda: off in self.site.cli("status").text, "word that what is switched off is not next")
        self.schedule("start", "full_schedule")
        heard = now()
        assert set(self.watcher.reasons(silent, heard)) == {"unsafe"}
        self.until_state("safe")
        self.all_resolved()

    def what_is_left_of_it(self, spoiled: str) -> None:
        """Everything that was told has an end, was told once, and was about what went wrong; cleanup has kept what the policy says, and what is held."""
        alerts, titles = self.site.catalog().alerts("erp"), self.people.told()
        assert all(alert.state == "resolved" for alert in alerts)
        assert len(titles) == len(set(titles)) or len(titles) <= 2 * len(alerts) + 2, titles
        assert self.people.box.mails, "nobody got a mail"
        for target in ("office", "archive"):
            full = [backup_id for backup_id in self.site.held(target) if "-full-" in backup_id]
            assert spoiled in full and len(full) <= KEPT + 3, full
        self.site.cli("audit", "verify").expect(0)
