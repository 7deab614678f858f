"""What a base backup builds upon."""

from __future__ import annotations

from pathlib import Path

import pytest

from twist_dr.backup.base.take import BaseType
from twist_dr.backup.from_settings import choose_parent
from twist_dr_tests.retention_site import FORM, RetentionSite


@pytest.fixture
def site(tmp_path: Path) -> RetentionSite:
    return RetentionSite(tmp_path, {"office": {}})


def chosen(site: RetentionSite, wanted: BaseType, max_chain: int = 7) -> str | None:
    return choose_parent(site.app(), wanted=wanted, max_chain=max_chain, targets={"office": FORM}).backup_id


def test_a_differential_base_builds_upon_the_last_full_one_and_an_incremental_one_upon_the_newest(
    site: RetentionSite,
) -> None:
    assert chosen(site, "differential") is None
    site.base(20)
    full = site.base(9)
    assert chosen(site, "differential") == chosen(site, "incremental") == full
    first = site.base(8, full)
    second = site.base(7, full, first)
    assert (chosen(site, "differential"), chosen(site, "incremental")) == (full, second)
    differential = site.base(6, full)
    assert (chosen(site, "differential"), chosen(site, "auto"), chosen(site, "full")) == (full, differential, None)


def test_a_differential_base_begins_a_short_chain_where_a_long_one_is_full_or_broken(site: RetentionSite) -> None:
    full = site.base(9)
    first = site.base(8, full)
    second = site.base(7, full, first)
    assert (chosen(site, "incremental", 3), chosen(site, "differential", 3)) == (None, full)
    assert chosen(site, "differential", 1) is None
    site.catalog.record_copy(first, "office", state="corrupt", form=FORM.name)
    assert (chosen(site, "incremental"), chosen(site, "differential")) == (None, full)
    site.catalog.record_copy(full, "office", state="corrupt", form=FORM.name)
    assert chosen(site, "differential") is None
    assert second
