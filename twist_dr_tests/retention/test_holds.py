"""Holds: marks that forbid deletion, with who, why and until when; as a person places them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from twist_dr.__main__ import main
from twist_dr.errors import SettingsError
from twist_dr.operations.holds import HoldConfig, hold, parse_until
from twist_dr.retention.holds import HoldNote, HoldNotes
from twist_dr.retention.model import Hold
from twist_dr.system.lock import FileLocks
from twist_dr.system.progress import Report
from twist_dr.watch.runs import look_after
from twist_dr_tests.retention_site import NOW, RetentionSite


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RetentionSite:
    made = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}}, cleanup={"max_delete_fraction": 1})
    for days in (40, 30, 1):
        made.backup(days, verified=True)
    for name, value in made.site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.mark.promise(5)
def test_a_held_backup_outlives_every_cleanup_until_it_is_released(
    site: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _, newest = site.listed()
    assert main(["hold", first, "--reason", "the audit of 2026"]) == 0
    assert "is held for ever; end it with: twist-dr release" in capsys.readouterr().out
    site.clean()
    assert site.listed() == [first, newest]
    assert main(["release", first]) == 0
    assert "1 hold ended" in capsys.readouterr().out
    site.clean()
    assert site.listed() == [newest]
    told = [(line.action, line.subject) for line in site.catalog.audit("erp") if line.action in ("hold", "release")]
    assert told == [("hold", first), ("release", first)]


def test_holds_are_listed_with_who_why_and_until_when(site: RetentionSite, capsys: pytest.CaptureFixture[str]) -> None:
    first = site.listed()[0]
    assert main(["hold"]) == 0
    assert "nothing is held" in capsys.readouterr().out
    assert main(["hold", first[:15], "--until", "90 days", "--reason", "waiting for the court"]) == 0
    capsys.readouterr()
    assert main(["hold"]) == 0
    text = capsys.readouterr().out
    assert first in text and "waiting for the court" in text and f"until {NOW + timedelta(days=90):%Y-%m-%d}" in text
    assert main(["hold", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["backup_id"] == first and row["active"] and "@" in row["who"]
    assert main(["release", first]) == 0
    capsys.readouterr()
    assert main(["hold", "--all"]) == 0
    assert "released" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hold", "latest"], "needs its reason"),
        (["hold", "latest", "--reason", " "], "needs its reason"),
        (["hold", "latest", "--reason", "x", "--until", "2020-01-01"], "that is past"),
        (["hold", "latest", "--reason", "x", "--until", "next week"], "neither a day"),
        (["hold", "latest", "--reason", "x", "--until", "999999 weeks"], "neither a day"),
        (["hold", "latest", "--reason", "x", "--until", "9999-12-31T23:59:59-05:00"], "neither a day"),
        (["hold", "2019", "--reason", "x"], "has no backup"),
        (["release", "latest"], "Nothing holds"),
    ],
)
def test_a_mistake_is_told_and_holds_nothing(
    site: RetentionSite, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(arguments) == 1
    assert expected in capsys.readouterr().err
    assert site.catalog.holds("erp") == []


def test_a_day_means_its_end_and_a_moment_itself() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
    assert parse_until("2026-11-21", now) == datetime(2026, 11, 22, tzinfo=timezone.utc)
    assert parse_until("2026-11-21T13:00:00+01:00", now - timedelta(hours=1)) == now
    assert parse_until("2 weeks", now) == now + timedelta(days=14)
    with pytest.raises(SettingsError, match="that is past"):
        parse_until("2026-11-20", now)


@pytest.mark.promise(5)
def test_a_hold_waits_for_a_deletion_that_is_at_its_last_look_and_then_tells_that_nothing_is_left(
    site: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    first = site.listed()[0]
    settings, held = site.site.settings(), threading.Event()

    def delete() -> None:
        with FileLocks(settings.lock_dir, "erp").deciding("Deleting a copy"):
            held.set()
            time.sleep(0.5)
            site.catalog.record_copy(first, "office", state="deleted", form="zstd+enc")

    deletion = threading.Thread(target=delete)
    deletion.start()
    held.wait()
    assert main(["hold", first, "--reason", "too late"]) == 1
    deletion.join()
    assert "deleted from every storage target" in capsys.readouterr().err
    assert site.catalog.holds("erp") == []


class Elsewhere:
    """Locks that this machine's files know nothing of."""

    def __init__(self) -> None:
        self.held: list[str] = []

    @contextmanager
    def hold(self, operation: str, **options: Any) -> Iterator[None]:
        self.held.append(operation)
        yield

    def deciding(self, what: str) -> AbstractContextManager[None]:
        return self.hold(what)

    def in_use(self, backup_ids: Sequence[str], what: str) -> AbstractContextManager[None]:
        return self.hold(f"{what}: {len(backup_ids)}")

    def used_now(self) -> dict[str, str]:
        return {"20261101T020000Z-full-aaaa": "another machine reads it"}


def test_locks_may_lie_where_several_machines_see_them_and_nobody_takes_another(
    site: RetentionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = Elsewhere()
    first, second, newest = site.listed()
    app = site.app(locks=locks, report=Report())
    hold(app, HoldConfig(backup=first, reason="the audit"))
    monkeypatch.setattr(site, "app", lambda **made: app)
    site.clean()
    assert site.listed() == [first, newest] and site.state(second) == "deleted"
    look_after(app)
    assert {"Placing a hold", "Deleting a copy", "Writing the audit log"} < set(locks.held)
    assert not app.settings.lock_dir.exists()


# -- on the storage targets --------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RetentionSite:
    """Two targets; the oldest backup is to go from both."""
    made = RetentionSite(
        tmp_path,
        {"office": {"max_age": "7 days"}, "archive": {"max_age": "7 days"}},
        cleanup={"max_delete_fraction": 1},
    )
    for days in (40, 1):
        made.backup(days, verified=True)
    for name, value in made.site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return made


def _notes(site: RetentionSite, name: str) -> list[Path]:
    return sorted((site.folder / "targets" / name / "erp" / "holds").rglob("*.json"))


def _lose_the_catalog(site: RetentionSite) -> None:
    path = site.folder / "work" / "catalog.sqlite"
    for each in path.parent.glob("catalog.*"):
        each.unlink()
    assert not path.exists()
    site.catalog = site.site.catalog()


@pytest.mark.promise(5)
def test_a_hold_outlives_the_catalog_and_comes_back_with_it(
    two: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = two.listed()
    assert main(["hold", old, "--until", "90 days", "--reason", "the audit of 2026"]) == 0
    (before,) = two.catalog.holds("erp")
    for name in ("office", "archive"):
        (path,) = _notes(two, name)
        assert path.parent.name == old and json.loads(path.read_text())["reason"] == "the audit of 2026"
    _lose_the_catalog(two)
    assert main(["catalog", "rebuild", "--from", "office"]) == 0
    assert "1 hold brought back" in capsys.readouterr().out
    (after,) = two.catalog.holds("erp")
    assert (after.backup_id, after.who, after.reason, after.until) == (old, before.who, before.reason, before.until)
    assert main(["catalog", "rebuild", "--from", "archive"]) == 0
    assert len(two.catalog.holds("erp")) == 1
    for name in ("office", "archive"):
        assert two.clean(name, allow_rebuilt=True, allow_clock=True).problems == []
        assert two.listed(name) == [old, new]
    assert main(["release", old]) == 0
    assert two.clean(allow_rebuilt=True, allow_clock=True).deleted == [old] and two.listed() == [new]


@pytest.mark.promise(5)
def test_what_a_target_holds_stays_there_though_the_catalog_knows_of_no_hold(two: RetentionSite) -> None:
    old, new = two.listed()
    assert main(["hold", old, "--reason", "the audit of 2026"]) == 0
    two.catalog.release_hold("erp", old, who="another machine")
    planned = two.retention().plan("office", NOW)
    (decision,) = [each for each in planned.plan.decisions if each.backup.id == old]
    assert decision.keep and "for ever: the audit of 2026" in decision.reason
    two.clean()
    assert two.listed() == [old, new]
    assert main(["release", old]) == 0
    assert two.clean().deleted == [old]


#: A moment that a calendar has, and no clock of UTC.
_BEYOND = json.dumps(
    {"format_version": 1, "backup_id": "ID", "who": "eva", "reason": "x", "placed_at": "2026-01-01T00:00:00+00:00", "until": "9999-12-31T23:59:59-05:00"}
)  # fmt: skip


@pytest.mark.promise(5)
@pytest.mark.parametrize(
    "damage",
    ["", "{}", "null", '{"format_version": 2}', "half of it {", pytest.param("[" * 200_000, id="deep"), _BEYOND],
)
def test_a_hold_that_cannot_be_read_holds_for_ever_and_says_what_to_do(two: RetentionSite, damage: str) -> None:
    old, new = two.listed()
    assert main(["hold", old, "--until", "90 days", "--reason", "x"]) == 0
    two.catalog.release_hold("erp", old, who="another machine")
    _notes(two, "office")[0].write_text(damage.replace("ID", old))
    two.clean()
    assert two.listed() == [old, new]
    planned = two.retention().plan("office", NOW)
    (decision,) = [each for each in planned.plan.decisions if each.backup.id == old]
    assert f"cannot be read (erp/holds/{old}/" in decision.reason and "twist-dr release" in decision.reason


@pytest.mark.promise(5)
def test_a_hold_that_another_machine_writes_between_plan_and_deletion_is_respected(two: RetentionSite) -> None:
    old, new = two.listed()
    retention = two.retention()
    planned = retention.plan("office", NOW)
    assert main(["hold", old, "--reason", "in time"]) == 0
    two.catalog.release_hold("erp", old, who="another machine")
    assert retention.carry_out(planned).deleted == [] and two.listed() == [old, new]


def test_a_target_that_is_away_is_named_when_a_hold_is_placed_and_when_it_ends(
    two: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    old = two.listed()[0]
    away = two.folder / "unplugged"
    (two.folder / "targets" / "archive").rename(away)
    assert main(["hold", old, "--reason", "x"]) == 0
    told = capsys.readouterr()
    assert "is held for ever" in told.out and "the hold was not written on archive" in told.err
    assert len(_notes(two, "office")) == 1
    away.rename(two.folder / "targets" / "archive")
    assert main(["hold", old, "--reason", "x"]) == 0
    (two.folder / "targets" / "archive").rename(away)
    capsys.readouterr()
    assert main(["release", old]) == 0
    told = capsys.readouterr()
    assert "except on archive (2 holds ended)" in told.out and "archive" in told.err
    away.rename(two.folder / "targets" / "archive")
    assert len(_notes(two, "archive")) == 1 and main(["release", old]) == 0
    assert _notes(two, "archive") == _notes(two, "office") == []


def test_what_targets_hold_without_the_catalog_is_listed_with_where_it_lies(
    two: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = two.listed()
    assert main(["hold", old, "--reason", "the audit of 2026"]) == main(["hold", new, "--reason", "the court"]) == 0
    capsys.readouterr()
    assert main(["hold"]) == 0 and "only" not in capsys.readouterr().out
    two.catalog.release_hold("erp", old, who="another machine")
    _notes(two, "archive")[0].unlink()
    assert main(["hold"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if old in line and "for ever, on office only" in line]) == 1
    assert len([line for line in lines if new in line and "only" not in line]) == 1
    assert main(["hold", "--json"]) == 0
    told = {row["backup_id"]: (row["active"], row["only_on"]) for row in json.loads(capsys.readouterr().out)}
    assert told == {old: (True, ["office"]), new: (True, [])}


def test_a_list_of_holds_names_the_targets_that_do_not_answer(
    two: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    (two.folder / "targets" / "archive").rename(two.folder / "unplugged")
    assert main(["hold"]) == 0
    told = capsys.readouterr()
    assert "nothing is held, as far as could be asked" in told.out
    assert "archive" in told.err and "office" not in told.err


def test_a_hold_that_ran_out_is_gone_with_its_backup(two: RetentionSite) -> None:
    old = two.listed()[0]
    note = HoldNote(Hold(old, "eva", "x", NOW - timedelta(hours=1)), NOW - timedelta(days=1))
    for name in ("office", "archive"):
        HoldNotes(two.repository(name), two.keyring).place(note, two.folder)
    (path,) = _notes(two, "office")
    planned = two.retention().plan("office", NOW)
    assert planned.facts.used_bytes == sum(each.size for each in two.targets["office"].list("erp"))
    outcome = two.clean(allow_clock=True)
    assert outcome.deleted == [old] and not path.exists() and len(_notes(two, "archive")) == 1


def test_a_forged_reason_writes_nothing_of_its_own_to_the_terminal(
    two: RetentionSite, capsys: pytest.CaptureFixture[str]
) -> None:
    old = two.listed()[0]
    assert main(["hold", old, "--reason", "the audit"]) == 0
    _lose_the_catalog(two)
    note = _notes(two, "office")[0]
    forged = "\x1b[2J\x1b]0;all is well\x07\rnothing is held\nnothing is held\u202e\x9b"
    note.write_text(json.dumps({**json.loads(note.read_text()), "reason": forged, "who": "\x1b[1A"}))
    capsys.readouterr()
    assert main(["hold"]) == 0
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert all(letter == "\n" or letter.isprintable() for letter in text)
        assert not any(line.startswith("nothing is held") for line in text.splitlines())
    assert "\\x1b[2J" in told.out


@pytest.mark.parametrize("words", [["hold", "latest", "--reason", "the audit"], ["release", "latest"]], ids=" ".join)
def test_with_a_keyring_that_cannot_be_read_nothing_is_held_or_released_by_halves(
    site: RetentionSite, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    newest = site.listed()[-1]
    assert main(["hold", newest, "--reason", "before"]) == 0
    site.site.keyring_path.write_text("keys: none of them")
    lines = len(site.catalog.audit("erp"))
    assert main(words) == 1
    assert "keyring" in capsys.readouterr().err
    (row,) = site.catalog.holds("erp")
    assert (row.reason, row.released_at) == ("before", None) and len(site.catalog.audit("erp")) == lines
