"""The job cleanup, launched as a script launches it: the plan is shown, what may go goes, and what is left can be restored."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from twist_dr.postgres.lsn import parse_lsn
from twist_dr.restore.journal import DatabaseSwitch, FileJournals, Journal
from twist_dr.wal.names import Segment
from twist_dr_tests.conftest import TOOLS, make_site
from twist_dr_tests.recorded import RecordedLoad, recovered_numbers, resident, wait_until_archived
from twist_dr_tests.retention_site import FORM, NOW, WORDS, RetentionSite, made_up, store
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Outcome, Site


def _add_old(site: Site, days: float) -> str:
    """A backup of some days ago on both targets, as the catalog knows it."""
    manifest = made_up(site.keyring, days)
    site.catalog().record_backup(manifest, manifest.seal(site.keyring.primary), run_id=None)
    for name in site.settings().enabled_targets:
        store(site.repository(name), manifest, site.keyring, site.folder)
        site.catalog().record_copy(
            manifest.backup_id, name, state="checked", form=FORM.name, stored_bytes=2 * len(WORDS)
        )
    return manifest.backup_id


def _policy(site: Site, target: str, retention: Any) -> None:
    site.document["storage_targets"][target]["retention"] = retention
    site.save()


def _cleanup(site: Site, **config: Any) -> Outcome:
    return site.job("cleanup", {"cleanup": {"config": config}} if config else None)


@pytest.mark.usefixtures("as_commands")
@pytest.mark.promise(5)
def test_the_plan_is_shown_a_dry_run_deletes_nothing_and_a_run_only_what_the_plan_said(backed_up: Site) -> None:
    site = backed_up
    _policy(site, "office", [{"daily": 2}, {"labels": ["pre-update"], "last": {"pre-update": 3}}])
    (real,) = site.held("office")
    assert site.cli("catalog", "rebuild", "--from", "office").status == 0
    old = [_add_old(site, days) for days in (30, 20, 1)]
    shown = _cleanup(site, dry_run=True).expect(0).text
    assert "Not carried out: the catalog was rebuilt" in shown
    assert f"\n{old[0]}  scheduled, checked  delete  " in shown and "daily: the newest of" in shown
    assert "archive: no retention policy, so nothing is ever deleted there" in shown
    assert len(site.held("office")) == 4
    assert "launch cleanup with allow_rebuilt: true" in _cleanup(site).expect(1).text
    assert len(site.held("office")) == 4
    said = _cleanup(site, allow_rebuilt=True).expect(0).text
    assert "Dagster's history: 0 runs forgotten" in said
    assert "Dagster's history: " in site.cli("status").text and "after the cleanup of" in site.cli("status").text
    assert site.held("office") == [old[2], real] and len(site.held("archive")) == 4
    for name in ("office", "archive"):
        used = sum(each.size for each in site.repository(name).target.list("erp"))
        assert used in [sample.used_bytes for sample in site.catalog().space(name)]
    lines = [line for line in site.catalog().audit("erp") if line.action == "delete copy"]
    assert {line.subject for line in lines} == {f"{each} on office" for each in old[:2]}
    site.replace(backup=real, source="office").expect(0)


def test_a_target_that_fails_stops_no_other_and_fails_the_run(backed_up: Site) -> None:
    site = backed_up
    assert site.cli("catalog", "rebuild", "--from", "office").status == 0
    assert site.cli("catalog", "rebuild", "--from", "archive").status == 0
    old = _add_old(site, 30)
    for name in ("office", "archive"):
        _policy(site, name, {"max_age": "7 days"})
    target = site.folder / "targets" / "office"
    target.rename(site.folder / "targets" / "unplugged")
    text = _cleanup(site, allow_rebuilt=True).expect(1).text
    assert "office: nothing was deleted" in text
    assert old not in site.held("archive") and len(site.held("archive")) == 1


def test_a_server_that_is_down_keeps_no_target_from_being_cleaned(tmp_path: Path) -> None:
    made = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}}, cleanup={"max_delete_fraction": 1})
    old, new = made.backup(9, verified=True), made.backup(1, verified=True)
    journal = Journal(
        restore_id="20261120T000000Z-restore-3f9a", kind="restore", application="erp", began_at=NOW, phase="done",
        keep_until=NOW + timedelta(days=7), folders=[], database=DatabaseSwitch(live="erp", live_oid=1, incoming="i", kept="k"),
    )  # fmt: skip
    FileJournals(made.site.settings().restores_dir).save(journal)
    shown = _cleanup(made.site, dry_run=True).expect(1).text
    assert "the plan for office" in shown and made.listed() == [old, new]
    text = _cleanup(made.site).expect(1).text
    assert "What restores replaced: " in text and made.listed() == [new]


def test_too_much_at_once_stops_and_the_message_says_how_to_go_on(backed_up: Site) -> None:
    site = backed_up
    assert site.cli("catalog", "rebuild", "--from", "office").status == 0
    old = [_add_old(site, days) for days in (30, 20, 10)]
    _policy(site, "office", {"max_age": "7 days"})
    text = _cleanup(site, targets="office").expect(1).text
    assert "max_delete_fraction" in text and "launch cleanup with allow_delete_fraction: 1" in text
    assert len(site.held("office")) == 4
    _cleanup(site, targets="office", allow_delete_fraction=1.0, allow_rebuilt=True).expect(0)
    assert set(site.held("office")).isdisjoint(old)


@pytest.mark.promise(5)
def test_after_a_cleanup_of_bases_and_wal_every_second_of_the_window_is_recovered_and_no_gap_is_told(
    tmp_path: Path, open_folder: Path
) -> None:
    settings = {"fsync": "off", "track_commit_timestamp": "on"}
    with PostgresServer(TOOLS[max(TOOLS)], tmp_path / "server", settings=settings) as server:
        (tmp_path / "site").mkdir()
        site = make_site(server, tmp_path / "site")
        del site.document["storage_targets"]["archive"]
        site.set(wal={"follow_seconds": 0.2}, cleanup={"max_delete_fraction": 1})
        with resident(site, "wal", "receive"), resident(site, "wal", "ship", "--follow"):
            with RecordedLoad(site.database_url, seconds=0.02) as load:
                for _ in range(3):
                    load.wait_for(len(load.written) + 10)
                    site.job("backup_base", {"base_backup": {"config": {"type": "full", "label": "scheduled"}}}).expect(
                        0
                    )
                    for _ in range(4):
                        site.query("SELECT pg_switch_wal()")
                        load.wait_for(len(load.written) + 5)
                time.sleep(5)
                load.wait_for(len(load.written) + 10)
            wait_until_archived(site, load.written[-1].lsn)
            _check_the_window(site, load, open_folder)


def _check_the_window(site: Site, load: RecordedLoad, scratch: Path) -> None:
    first, second, third = site.held("office")
    facts = {each: site.repository("office").manifest(each, site.keyring).base for each in (first, second, third)}
    last = facts[third]
    assert last is not None
    _policy(site, "office", {"kinds": ["base"], "max_count": 1, "wal": "2 seconds"})
    site.cli("hold", first, "--reason", "the books of the year").expect(0)
    before = _segments(site)
    _cleanup(site).expect(0)
    # The held one stays with its own WAL; between its end and the window's base there is nothing any more.
    assert site.held("office") == [first, third]
    left = _segments(site)
    assert len(left) < len(before) - 3 and left[-1] == before[-1]
    assert any(later != earlier.next for earlier, later in pairwise(left))
    status = json.loads(site.cli("wal", "status", "--json").text)
    assert [target["gaps"] for target in status["targets"]] == [[]]
    assert [each["base"] for each in status["targets"][0]["ranges"]] == [first, third]
    within = [row for row in load.written if row.committed_at > last.stopped_at]
    for row in (within[0], within[len(within) // 2]):
        expected = [each.number for each in load.written if each.number <= row.number]
        assert recovered_numbers(site, f"xid:{row.xid}", scratch) == expected
    assert recovered_numbers(site, "latest", scratch) == [row.number for row in load.written]
    # A hole within the window is told as ever.
    lost = Segment.holding(1, parse_lsn(last.stop_lsn), last.wal_segment_size).next
    (path,) = (site.folder / "targets" / "office" / "erp" / "wal").rglob(f"{lost.name}.zst.enc")
    path.unlink()
    told = site.cli("wal", "status")
    assert told.status == 1 and f"the WAL from {lost.name} to {lost.name}" in told.text


def _segments(site: Site) -> list[Segment]:
    names = (site.folder / "targets" / "office" / "erp" / "wal").rglob("*.zst.enc")
    return sorted(Segment.named(path.name[:24], 16 << 20) for path in names if "partial" not in path.name)
