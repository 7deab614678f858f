"""A WAL window that became shorter: a mistyped word must not cost a week of recovery points unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twist_dr_tests.retention.test_retention_stayed import _numbers, _segments
from twist_dr_tests.retention_site import NOW, RetentionSite


def _window(site: RetentionSite, wal: str | None) -> None:
    policies: list[dict[str, Any]] = [{"kinds": ["base"], "max_age": "90 days"}]
    site.site.document["storage_targets"]["office"]["retention"] = policies + ([{"wal": wal}] if wal else [])
    site.site.save()


@pytest.fixture
def site(tmp_path: Path) -> RetentionSite:
    """Bases of six days ago and of yesterday, and WAL of three days ago, most of it from before the newer one; a cleanup has seen it."""
    made = RetentionSite(tmp_path, {"office": {"max_age": "90 days"}})
    made.base(8, segment=3)
    made.base(1, segment=18)
    _segments(made, 3, 20)
    _window(made, "7 days")
    assert made.clean().problems == [] and len(_numbers(made)) == 18
    return made


@pytest.mark.promise(5)
def test_a_window_that_became_shorter_asks_before_most_of_the_wal_goes(site: RetentionSite) -> None:
    _window(site, "7 hours")
    outcome = site.clean()
    assert len(_numbers(site)) == 18 and outcome.wal_objects == 0
    (told,) = outcome.problems
    assert "14 of 18 objects of WAL" in told and "is 7 hours, where it was 7 days before" in told
    assert "launch cleanup with allow_delete_fraction: 1" in told
    assert "**Not carried out:** 14 of 18" in site.retention().plan("office", NOW).markdown()


def test_what_was_allowed_is_not_asked_again_and_what_was_put_right_is_not_asked_at_all(site: RetentionSite) -> None:
    _window(site, "7 hours")
    assert site.clean().problems
    _window(site, "7 days")
    assert site.clean().problems == [] and len(_numbers(site)) == 18
    _window(site, "7 hours")
    assert site.clean(allow_fraction=1.0).problems == [] and _numbers(site) == [3, 18, 19, 20]
    _segments(site, 4, 17)
    assert site.clean().problems == [] and _numbers(site) == [3, 18, 19, 20]


@pytest.mark.promise(5)
def test_a_shorter_window_that_costs_little_today_still_asks_when_it_costs_much(site: RetentionSite) -> None:
    for number in range(4, 18):
        _remove(site, number)
    _window(site, "7 hours")
    assert site.clean().problems == []
    _segments(site, 4, 17)
    assert "where it was 7 days before" in site.clean().problems[0] and len(_numbers(site)) == 18


@pytest.mark.promise(5)
def test_a_first_window_asks_before_most_of_the_wal_goes(tmp_path: Path) -> None:
    site = RetentionSite(tmp_path, {"office": [{"kinds": ["base"], "max_age": "90 days"}, {"wal": "1 hour"}]})
    site.base(8, segment=3)
    site.base(1, segment=18)
    _segments(site, 3, 20)
    assert "where no cleanup went by one before" in site.clean().problems[0] and len(_numbers(site)) == 18


def test_a_window_that_stays_as_it_is_frees_what_a_new_base_made_superfluous(site: RetentionSite) -> None:
    _window(site, "12 hours")
    assert site.clean(allow_fraction=1.0).problems == []
    _segments(site, 19, 60)
    site.base(0.6, segment=58)
    outcome = site.clean()
    assert outcome.problems == [] and outcome.wal_objects > 30


def _remove(site: RetentionSite, number: int) -> None:
    (path,) = (site.folder / "targets" / "office" / "erp" / "wal").rglob(f"00000001{number:016X}*")
    path.unlink()
