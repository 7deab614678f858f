"""Rules about what will fail before it does: storage targets that can do less than before, answer more slowly, or soon take no more today."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from statistics import median

from twist_dr.catalog import TargetTestRow
from twist_dr.settings import Settings
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import command
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr.watch.alerts.rules_targets import next_copy

#: Seconds. Clocks that are kept by NTP differ by less than one; what is signed with a time (S3, tokens) is refused from minutes on.
_SKEW = 60.0
#: Tests whose median is compared with that of those before them, how many of which there must be: one slow day is none.
_NEWEST, _BEFORE = 3, 5
#: Seconds by which a test must be slower than usual: nobody minds half a second that became two.
_LEAST_SLOWER = 5.0
#: The fraction of a daily limit from which on it is near, whatever the next backup takes: what goes there beside backups is not known so exactly.
_NEAR = 0.9


def _passed(facts: Facts, name: str) -> list[TargetTestRow]:
    """The tests that a target passed, newest first."""
    return [test for test in facts.target_tests if test.target == name and test.ok]


def able(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target can do less than it could in one of its tests before. After two weeks that is what it can do."""
    for name in settings.enabled_targets:
        can = [test.capabilities for test in _passed(facts, name) if test.capabilities]
        lost = []
        if can and not can[0].get("write_once") and any(each.get("write_once") for each in can[1:]):
            lost.append("it does not refuse by itself any more to overwrite an object")
        if (
            can
            and can[0].get("checksum") == "read-back"
            and any(each.get("checksum") != "read-back" for each in can[1:])
        ):
            lost.append("it does not check any more what it receives, so that all is read back after it was stored")
        if lost:
            yield Finding(
                f"capability:{name}", "capability", "warning", f"{name} can do less than it could: {'; '.join(lost)}.",
                f"See what was changed there (its server, its file system, a proxy before it, rights), then run: {command('test_storage_targets')}",
                about=frozenset(lost), target=name,
            )  # fmt: skip


def clocks(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target's clock and ours differ."""
    for name in settings.enabled_targets:
        newest = next(iter(_passed(facts, name)), None)
        skew = (newest.capabilities or {}).get("clock_skew_seconds") if newest else None
        if skew is not None and abs(skew) > _SKEW:
            yield Finding(
                f"target_clock:{name}", "target_clock", "warning",
                f"The clock of {name} is {human_seconds(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's.",
                f"See which of the two is wrong (timedatectl, chronyc tracking) and set it, then run: {command('test_storage_targets')}", target=name,
            )  # fmt: skip


def slower(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The tests of a target take much longer than they did."""
    for name in settings.enabled_targets:
        seconds = [test.seconds for test in _passed(facts, name)]
        if len(seconds) < _NEWEST + _BEFORE:
            continue
        lately, usual = median(seconds[:_NEWEST]), median(seconds[_NEWEST:])
        if lately > usual * settings.alerts.duration_factor and lately - usual > _LEAST_SLOWER:
            yield Finding(
                f"slow_target:{name}", "slow_target", "warning",
                f"{name} gets slow: its last {_NEWEST} tests took {human_seconds(lately)}; {human_seconds(usual)} was usual.",
                "See to its disk, its server or the network to it, before a backup takes too long.", target=name,
            )  # fmt: skip


def upload_limit(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """What a provider takes within 24 hours will not do for the next backup."""
    for name, target in settings.enabled_targets.items():
        limit = target.daily_upload_limit
        if limit is None:
            continue
        stored, largest = facts.uploaded.get(name, 0), next_copy(facts, name)
        so_far = f"{human_bytes(stored)} were stored on {name} within 24 hours, of {human_bytes(limit)} that its provider takes of one user"
        if largest > limit:
            yield Finding(
                f"upload_limit:{name}", "upload_limit", "error",
                f"A backup takes {human_bytes(largest)} on {name}, and its provider takes {human_bytes(limit)} of one user within 24 hours.",
                f"Store less there (storage_targets.{name}.compression, schedules with targets), or use a target without such a limit.", target=name,
            )  # fmt: skip
        elif stored > limit * _NEAR or stored + largest > limit:
            yield Finding(
                f"upload_limit:{name}", "upload_limit", "warning", f"{so_far}; the next backup ({human_bytes(largest)}) may have to wait.",
                "Make fewer backups a day for it, or name its targets in schedules; what it refuses today, the first backup from tomorrow on stores.", target=name,
            )  # fmt: skip
