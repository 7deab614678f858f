"""The report: one page that needs nothing beside it, and Markdown for Dagster's page."""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from xml.etree import ElementTree

import dagster as dg

from twist_dr.catalog import SpaceRow
from twist_dr.operations.table import STATUS
from twist_dr.orchestrator.around import APPLICATION
from twist_dr.orchestrator.assets.report import report_asset
from twist_dr.orchestrator.jobs.asset_job import asset_job
from twist_dr.watch.status.plots import plots
from twist_dr.watch.status.report import html, markdown
from twist_dr_tests.watch.status.conftest import HOUR, Story

EVIL = '<script>alert("1")</script> | `x` ]]> & ![y](http://evil.example/z)'


def eventful(story: Story) -> None:
    for day in range(60, 0, -1):
        story.backup(day * 24 - 20, kind="full" if day % 7 else "base", verified=day % 2 == 0)
        story.attempt(
            age=day * 24, state="failed" if day % 9 == 0 else "succeeded", error=EVIL if day % 9 == 0 else None
        )
        story.catalog.record_space(
            SpaceRow("office", story.now - timedelta(days=day), (90 - day) * 10**7, 10**10, 2 * 10**10)
        )
    story.attempt("cleanup", "failed", age=0.5, error=EVIL)


def page(story: Story) -> str:
    status = story.status()
    return html(status, plots(story.site.app(catalog=story.catalog), status))


def test_the_page_is_well_formed_and_fetches_and_runs_nothing(story: Story) -> None:
    eventful(story)
    text = page(story)
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert len(root.findall(".//figure")) == 4
    # Namespaces are names, not addresses.
    shown = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text).replace("http://evil.example/z", "")
    assert not re.search(r"https?://|//\w+\.\w|@import|<script|<link|<img|javascript:", shown)
    assert all(each.startswith("#") for each in re.findall(r'href="([^"]*)"', text))
    assert "&lt;script&gt;alert" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_the_page_says_what_the_status_says_to_those_who_do_not_see_plots(story: Story) -> None:
    eventful(story)
    text = page(story)
    status = story.status()
    assert status.reasons[0].text.partition("<")[0].partition('"')[0] in text
    assert re.search(r"\d+ runs succeeded, \d+ failed", text)
    assert all(
        f'role="img" aria-label="{title}"' in text
        for title in ("Durations of backups", "Sizes of backups", "Runs by day")
    )
    assert 'lang="en"' in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_a_site_where_nothing_has_happened_has_a_report_too(story: Story) -> None:
    story.attempt("status", "succeeded")
    text = page(story)
    ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert "no backup was ever made" in text and "nothing yet" in text


def test_markdown_carries_its_pictures_and_leaves_no_foreign_markup(story: Story) -> None:
    eventful(story)
    status = story.status()
    text = markdown(status, plots(story.site.app(catalog=story.catalog), status))
    pictures = re.findall(r"!\[[^\n]*?\]\(data:image/svg\+xml;base64,([^)]+)\)", text)
    assert len(pictures) == 4
    for picture in pictures:
        assert ElementTree.fromstring(base64.b64decode(picture)).tag.endswith("svg")
    assert "<script" not in text and "![y]" not in text
    # Dagster keeps it with every materialization.
    assert len(text) < 300_000


def test_the_job_materializes_the_report_and_writes_the_file(story: Story) -> None:
    story.backup(2)
    settings = story.site.settings()
    report = report_asset(settings, dg.AssetKey(["erp", "verification"]))
    definitions = dg.Definitions(
        assets=[report], jobs=[asset_job(settings, STATUS, report)], resources={APPLICATION: story.site.app()}
    )
    result = definitions.get_job_def("status").execute_in_process(instance=dg.DagsterInstance.ephemeral())
    assert result.success
    (event,) = result.asset_materializations_for_node("erp__report")
    assert str(event.metadata["state"].value) == "safe"
    assert "data:image/svg+xml" in str(event.metadata["report"].value)
    file = story.site.folder / "work" / "report" / "erp.html"
    assert str(event.metadata["file"].value) == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "SAFE" in file.read_text()


def test_the_oldest_times_are_those_of_ninety_days(story: Story) -> None:
    story.backup(24 * 91)
    story.backup(24 * 2)
    status = story.status()
    drawn = plots(story.site.app(catalog=story.catalog), status)
    assert drawn[0].told.startswith("full: 1,")
    assert status.now - story.now < HOUR
