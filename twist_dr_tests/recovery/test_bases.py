"""Base backups as storage targets hold them, in the order in which they were complete."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from twist_dr.backup.base.summary import BaseSummary
from twist_dr.recovery.bases import by_cluster, find_bases
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import MB
from twist_dr_tests.recovery.material import Material, base_manifest

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
OLD, NEW = "7000000000000000001", "7700000000000000001"


def base(backup_id: str, cluster: str, minutes: int) -> Manifest:
    """Complete so many minutes after noon."""
    stopped = NOON + timedelta(minutes=minutes)
    return base_manifest(backup_id, cluster, 1, "0/1000028", "0/1000100", NOON, stopped, MB, max(TOOLS))


def test_base_backups_are_in_the_order_of_their_recorded_ends_whatever_they_are_called(tmp_path: Path) -> None:
    # Ids bear the clock of the machine that took them, which was wrong, and two of them lie on the other target only.
    last_of_old = base("20200101T000000Z-base-0001", OLD, 20)
    first_of_old = base("20300101T000000Z-base-0002", OLD, 10)
    last_of_new = base("20190101T000000Z-base-0003", NEW, 40)
    first_of_new = base("20310101T000000Z-base-0004", NEW, 15)
    (tmp_path / "office").mkdir()
    material = Material(tmp_path, TOOLS[max(TOOLS)], OLD)
    material.store_bases(last_of_new, first_of_old)
    material.store_bases(first_of_new, last_of_old, target="nas")
    repositories = [Repository(LocalTarget(name, tmp_path / name), "erp") for name in ("office", "nas")]
    found = find_bases(repositories, KEYRING, Report())
    order = (first_of_old, first_of_new, last_of_old, last_of_new)
    assert found == [BaseSummary.of(each) for each in order]
    groups = by_cluster(order)
    assert list(groups.items()) == [(NEW, [first_of_new, last_of_new]), (OLD, [first_of_old, last_of_old])]
    assert by_cluster(order[::-1]) == groups
