"""twist-dr list: filters as a person types them, CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import pytest

from twist_dr.catalog import CopyState
from twist_dr.cli.backups import CSV_COLUMNS, KINDS, LABELS, STATES, moment
from twist_dr.repository.manifest import Kind, Label
from twist_dr_tests.catalog.examples import record
from twist_dr_tests.site import Site


@pytest.fixture
def listed(tmp_path: Path) -> Site:
    """A site with three backups in its catalog."""
    (tmp_path / "media").mkdir()
    site = Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media")
    catalog = site.catalog()
    now = datetime.now(timezone.utc)
    old = record(
        catalog, 1, started_at=now - timedelta(days=30), label="manual", reason='=HYPERLINK("x")', who="+eve@host"
    )
    base = record(catalog, 2, started_at=now - timedelta(days=3), kind="base", reason='Umbau, "groß"\nzweite Zeile')
    record(catalog, 3, started_at=now - timedelta(hours=1))
    catalog.record_copy(old, "office", state="checked", form="zstd", stored_bytes=10)
    catalog.record_copy(base, "office", state="corrupt", form="zstd")
    catalog.record_copy(base, "archive", state="checked", form="zstd")
    return site


def numbers(site: Site, *arguments: str) -> list[int]:
    rows = json.loads(site.cli("list", "--json", *arguments).expect(0).text)
    return [int(row["backup_id"][-4:], 16) for row in rows]


def test_each_filter_and_several_together(listed: Site) -> None:
    assert numbers(listed) == [3, 2, 1]
    assert numbers(listed, "--kind", "base") == [2]
    assert numbers(listed, "--label", "manual") == [1]
    assert numbers(listed, "--target", "office") == [2, 1]
    assert numbers(listed, "--target", "office", "--state", "checked") == [1]
    assert numbers(listed, "--since", "7 days") == [3, 2]
    assert numbers(listed, "--until", "7 days ago") == [1]
    assert numbers(listed, "--search", "UMBAU") == [2]
    assert numbers(listed, "--search", "100%") == []
    assert numbers(listed, "--limit", "1") == [3]
    assert "no backups fulfil all conditions" in listed.cli("list", "--kind", "tenant").expect(0).text


@pytest.mark.parametrize(
    "arguments",
    [["--kind", "ful"], ["--label", "x"], ["--state", "good"], ["--since", "yesterday"], ["--until", "2026-13-01"], ["--limit", "-1"],
     ["--limit", "many"], ["--target", "offce"], ["--since", "1 day", "--until", "2 days"], ["--json", "--csv"], ["--since", "999999 weeks"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_values_are_named_as_wrong_usage(listed: Site, arguments: list[str]) -> None:
    assert arguments[0] in listed.cli("list", *arguments).expect(2).text


def test_csv_has_stable_columns_and_no_cell_that_a_spreadsheet_would_calculate(listed: Site) -> None:
    text = listed.cli("list", "--csv").expect(0).text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["kind"] for row in rows] == ["full", "base", "full"]
    assert rows[1]["reason"] == 'Umbau, "groß"\nzweite Zeile'
    assert rows[1]["copies"] == "archive:checked office:corrupt"
    assert (rows[2]["reason"], rows[2]["who"]) == ('\'=HYPERLINK("x")', "'+eve@host")
    assert (rows[0]["plain_bytes"], rows[0]["verified"], rows[0]["warnings"]) == ("100", "never", "1")


def test_words_that_are_written_out_are_those_of_the_catalog() -> None:
    assert set(KINDS) == set(get_args(Kind))
    assert set(LABELS) == set(get_args(Label))
    assert set(STATES) == set(get_args(CopyState))


def test_times_as_people_type_them() -> None:
    assert moment("2026-11-21") == datetime(2026, 11, 21, tzinfo=timezone.utc)
    assert moment("2026-11-21T02:00Z") == moment("2026-11-21 02:00") == moment("2026-11-21T03:00+01:00")
    assert abs(datetime.now(timezone.utc) - timedelta(days=7) - moment("7 days")) < timedelta(minutes=1)
