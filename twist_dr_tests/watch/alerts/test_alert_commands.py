"""twist-dr alerts, as an operator types it, and in a process of its own where that matters."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from twist_dr.catalog import CatalogUnavailable
from twist_dr.cli import alerts as alert_commands
from twist_dr.errors import TwistDRError
from twist_dr.settings import user_of_this_machine
from twist_dr.watch.alerts.telling import telling
from twist_dr_tests.watch.alerts.mailbox import mailbox, silent_server, webhook
from twist_dr_tests.watch.alerts.test_reconcile import DAY, HOUR, MINUTE, Place, proven


class Operator:
    """Types commands; gets what they print and their exit status."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self._capsys = place, capsys

    def types(self, *words: str) -> tuple[int, str]:
        import argparse

        (self.place.folder / "twist-dr.yaml").write_text(yaml.safe_dump(self.place.document))
        parser = argparse.ArgumentParser()
        alert_commands.add_commands(parser.add_subparsers())
        options = parser.parse_args(["alerts", *words])
        status = int(options.run(options) or 0)
        return status, self._capsys.readouterr().out

    def audit(self) -> list[tuple[str, str, str]]:
        return [(row.action, row.subject, row.who) for row in self.place.catalog.audit("erp")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("TWIST_DR_CONFIG", str(tmp_path / "twist-dr.yaml"))
    place = Place(tmp_path)
    place.tick()
    for row in place.catalog.open_alerts("erp"):
        place.catalog.save_alert(row)
    return place


@pytest.fixture
def operator(place: Place, capsys: pytest.CaptureFixture[str]) -> Operator:
    place.ran()
    place.ran(job="scrub")
    place.tick()
    return Operator(place, capsys)


def number(place: Place, cause: str) -> str:
    return str(place.alerts()[cause].id)


def test_the_list_says_what_happened_and_what_to_do(operator: Operator) -> None:
    status, text = operator.types()
    assert status == 0
    assert "cleanup failed in step step: The disk is gone; look." in text
    assert "-> Look at the run" in text
    assert (
        f"{number(operator.place, 'job_failed:scrub')}  ERROR  job failed  since 2026-11-21 05:02 UTC  active" in text
    )


def test_without_alerts_it_says_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.now = datetime.now(timezone.utc)
    proven(place, 1, started_at=place.now - HOUR)
    place.tick()
    assert Operator(place, capsys).types() == (0, "no alerts\n")


def test_the_list_has_what_is_wrong_though_no_daemon_has_looked(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.document["objectives"] = {"recovery_point": "26 hours"}
    place.now = datetime.now(timezone.utc)
    proven(place, 1, started_at=place.now - 4 * DAY)
    place.ran(job="scrub")
    status, text = Operator(place, capsys).types()
    assert status == 0 and "The newest verified recovery point is 4 days old" in text
    # Told when it was mild, worse by now, and not told so yet.
    assert "CRITICAL  no verified recovery point within the objective  since 2026-11-21 05:01 UTC" in text
    assert (
        "-  ERROR  job failed  found now, not told yet\n    scrub failed in step step: The disk is gone; look." in text
    )
    found = json.loads(Operator(place, capsys).types("--json")[1])
    assert {row["cause"]: row["id"] is None for row in found} == {"no_recovery_point": False, "job_failed:scrub": True}


@pytest.mark.parametrize("words", [(), ("--all",), ("acknowledge", "all"), ("resolve", "1")])
def test_a_catalog_that_is_not_there_is_said_and_not_made(
    place: Place, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    file = place.folder / "work" / "catalog.db"
    for path in file.parent.glob("catalog.db*"):
        path.unlink()
    with pytest.raises(CatalogUnavailable, match=r"There is no catalog .*twist-dr catalog rebuild --from TARGET"):
        Operator(place, capsys).types(*words)
    assert not file.exists()


def test_json_is_for_scripts_and_all_has_the_resolved_ones_too(operator: Operator) -> None:
    operator.place.ran("succeeded", job="scrub")
    operator.place.tick()
    open_now: list[dict[str, Any]] = json.loads(operator.types("--json")[1])
    ever: list[dict[str, Any]] = json.loads(operator.types("--all", "--json")[1])
    assert {row["cause"] for row in open_now} == {"no_recovery_point", "job_failed:cleanup"}
    assert {row["cause"] for row in ever} == {"no_recovery_point", "job_failed:cleanup", "job_failed:scrub"}
    (scrub,) = [row for row in ever if row["cause"] == "job_failed:scrub"]
    assert (scrub["state"], scrub["resolved_by"], scrub["raised_at"]) == (
        "resolved",
        "itself",
        "2026-11-21T05:02:00+00:00",
    )
    assert "by itself" in operator.types("--all")[1]


def test_acknowledging_says_who_and_why_and_is_audited(operator: Operator) -> None:
    scrub = number(operator.place, "job_failed:scrub")
    status, text = operator.types("acknowledge", scrub, "--note", "disk is ordered")
    assert (status, text) == (0, f"acknowledged {scrub}: scrub failed in step step: The disk is gone; look.\n")
    row = operator.place.alerts()["job_failed:scrub"]
    assert (row.state, row.acknowledged_by) == ("acknowledged", f"{user_of_this_machine().name} (disk is ordered)")
    assert operator.audit() == [("acknowledge_alert", f"alert {scrub} (job_failed:scrub)", user_of_this_machine().name)]
    assert "by " + user_of_this_machine().name in operator.types()[1]
    assert operator.types("acknowledge", scrub) == (0, "nothing to acknowledge\n")
    assert operator.place.alerts()["job_failed:cleanup"].state == "active"


def test_all_can_be_acknowledged_at_once(operator: Operator) -> None:
    operator.types("acknowledge", "all")
    assert {row.state for row in operator.place.catalog.open_alerts("erp")} == {"acknowledged"}
    assert len(operator.audit()) == 3


def test_a_resolved_alert_comes_back_while_its_cause_lasts(operator: Operator) -> None:
    scrub = number(operator.place, "job_failed:scrub")
    operator.types("resolve", scrub)
    assert "job_failed:scrub" not in operator.place.alerts()
    assert operator.audit()[-1][:2] == ("resolve_alert", f"alert {scrub} (job_failed:scrub)")
    operator.place.tick()
    assert number(operator.place, "job_failed:scrub") != scrub


@pytest.mark.parametrize("words", [("acknowledge", "99"), ("resolve", "99"), ("resolve", "all"), ("acknowledge", "")])
def test_an_alert_that_is_none_is_named(operator: Operator, words: tuple[str, str]) -> None:
    with pytest.raises(TwistDRError, match=r"erp has no open alert .*; see all with: twist-dr alerts"):
        operator.types(*words)


def test_what_is_acknowledged_while_messages_are_sent_is_not_forgotten(operator: Operator) -> None:
    import threading

    held, let_go = threading.Event(), threading.Event()

    def tell() -> None:
        with telling(operator.place.app()):
            held.set()
            let_go.wait(20)

    teller = threading.Thread(target=tell)
    teller.start()
    held.wait(20)
    threading.Timer(0.3, let_go.set).start()
    operator.types("acknowledge", "all")
    assert let_go.is_set()
    teller.join()
    assert operator.place.alerts()["job_failed:scrub"].state == "acknowledged"


def test_the_channels_can_be_tried_and_one_that_fails_is_named_without_its_secrets(operator: Operator) -> None:
    with mailbox() as box, webhook() as hook, silent_server() as port:
        operator.place.channel("mail", box.url, at_least="critical")
        operator.place.channel("chat", hook.url, resolved=False)
        assert operator.types("test") == (0, "chat: sent\nmail: sent\n")
        assert box.mails[0].subject == hook.calls[0].json["title"] == "[erp] TEST: alerts arrive"
        operator.place.channel("pager", f"json://user:hunter2-and-more@127.0.0.1:{port}/hook", timeout_seconds=1)
        status, text = operator.types("test")
        assert status == 1
        assert "mail: sent" in text and "pager: FAILED: " in text and "hunter2" not in text
        assert {row.channel: row.ok for row in operator.place.catalog.deliveries("erp")} == {
            "mail": True,
            "chat": True,
            "pager": False,
        }
        assert [row.result for row in operator.place.catalog.audit("erp")] == ["done", "failed: pager"]


def test_a_test_that_arrives_ends_the_alert_about_its_channel(operator: Operator) -> None:
    with webhook(500) as hook:
        operator.place.channel("chat", hook.url)
        assert operator.types("test")[0] == 1
        operator.place.tick(MINUTE)
        assert "channel:chat" in operator.place.alerts()
        hook.status = 200
        assert operator.types("test")[0] == 0
        operator.place.tick(MINUTE)
        assert "channel:chat" not in operator.place.alerts()


def test_without_channels_a_test_is_a_failure(operator: Operator) -> None:
    with pytest.raises(TwistDRError, match=r"names no alerts\.channels"):
        operator.types("test")
