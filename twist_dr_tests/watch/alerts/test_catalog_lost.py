"""A catalog that is lost is begun anew, which must not pass for a fresh start."""

from __future__ import annotations

import json

import pytest

from twist_dr.catalog import Catalog
from twist_dr.operations.rebuild import rebuild_catalog
from twist_dr.repository.keys import Keyring, new_key
from twist_dr.settings import Actor
from twist_dr.storage.local import LocalTarget
from twist_dr.watch import audit
from twist_dr.watch.alerts.catalog_lost import is_lost
from twist_dr_tests.apps import application
from twist_dr_tests.watch.alerts.mailbox import Webhook
from twist_dr_tests.watch.alerts.test_reconcile import DAY, HOUR, START, Place, hook, place, proven, subject, titles

__all__ = ["hook", "place"]


def works(place: Place, lines: int = 1) -> None:
    """What each run does: it is written into the audit log."""
    for _ in range(lines):
        audit.record(
            application(place.settings, Actor("ops"), catalog=place.catalog),
            action="launch",
            subject="backup_full",
            result="begun",
        )


def lose(place: Place) -> None:
    for path in (place.folder / "work").glob("catalog.db*"):
        path.unlink()


def rebuild(place: Place) -> None:
    (place.folder / "office").mkdir(exist_ok=True)
    keyring = Keyring("k1", {"k1": new_key("k1")}, "test")
    app = application(place.settings, keyring=keyring, catalog=place.catalog)
    rebuild_catalog(app, LocalTarget("office", place.folder / "office"))


@pytest.mark.promise(11)
def test_a_lost_catalog_is_told_at_once_and_until_it_is_rebuilt(place: Place, hook: Webhook) -> None:
    place.document["objectives"] = {"recovery_point": "26 hours"}
    for night in range(5):
        proven(place, night, started_at=START - (5 - night) * DAY)
    works(place, 3)
    place.tick()
    assert "catalog_lost" not in place.alerts()
    lose(place)
    hook.calls.clear()
    place.tick()
    assert titles(hook)[0] == subject("CRITICAL", "catalog_lost")
    assert f"{place.folder}/work/catalog.db was lost" in hook.calls[0].json["message"]
    assert "twist-dr catalog rebuild --from TARGET" in hook.calls[0].json["message"]
    works(place, 6)
    place.tick(25 * HOUR)
    assert place.alerts()["catalog_lost"].severity == "critical"
    rebuild(place)
    place.tick()
    assert "catalog_lost" not in place.alerts()


def test_a_fresh_start_is_none_and_neither_is_a_log_that_goes_on(place: Place) -> None:
    assert not is_lost(place.app())
    works(place, 5)
    assert not is_lost(place.app())
    # Another machine writes into the same catalog, and moves no anchor of ours.
    for _ in range(3):
        place.catalog.append_audit("erp", who="other", action="launch", subject="x", result="begun", details={})
    assert not is_lost(place.app())


@pytest.mark.parametrize("lines", [0, 2, 3, 9], ids=["empty", "shorter", "as long", "longer"])
def test_a_catalog_that_was_begun_anew_stays_lost_however_much_is_written_into_it(place: Place, lines: int) -> None:
    works(place, 3)
    lose(place)
    works(place, lines)
    assert is_lost(place.app())
    assert is_lost(application(place.settings, catalog=Catalog(place.settings.catalog_url)))


def test_a_catalog_that_was_rebuilt_may_be_lost_again(place: Place) -> None:
    works(place, 3)
    for _ in range(2):
        lose(place)
        assert is_lost(place.app())
        rebuild(place)
        assert not is_lost(place.app())
        works(place)
        assert not is_lost(place.app())


def test_an_older_catalog_in_its_place_lacks_what_was_written_since_although_it_was_rebuilt_before(
    place: Place,
) -> None:
    file = place.folder / "work" / "catalog.db"
    works(place)
    rebuild(place)
    works(place)
    old = file.read_bytes()
    works(place, 2)
    assert not is_lost(place.app())
    lose(place)
    file.write_bytes(old)
    assert is_lost(place.app())
    rebuild(place)
    assert not is_lost(place.app())


def test_an_anchor_that_cannot_be_read_tells_nothing(place: Place) -> None:
    works(place)
    anchor = audit.audit_anchor(place.settings)
    for text in ("", "no anchor", json.dumps({"seq": 1})):
        anchor.write_text(text)
        assert not is_lost(application(place.settings, catalog=Catalog(f"sqlite:///{place.folder}/other.db")))
