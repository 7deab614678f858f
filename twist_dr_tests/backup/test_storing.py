"""A backup on its way to a storage target: it counts as one there when all of it is, and not a moment before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from twist_dr.backup.copies import copy_backup
from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.errors import BackupNotFound, Cancelled, StagingFull, TargetUnavailable, TwistDRError
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.settings import Application
from twist_dr.storage.base import Digest, OnBytes, no_progress
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.helpers import KEYRING

FORM = Form("none", True)


class Breaking(LocalTarget):
    """A storage target that is gone before its object ``at`` is stored, counted from 0."""

    at = 0
    stored = 0

    def put(self, source: Path, key: str, digest: Digest, progress: OnBytes = no_progress) -> None:
        if self.stored == self.at:
            raise TargetUnavailable("it is gone", target=self.name)
        super().put(source, key, digest, progress)
        self.stored += 1


def staged(folder: Path) -> tuple[Manifest, StagingArea]:
    media = folder / "media"
    media.mkdir()
    (media / "file").write_text("x")
    staging = StagingArea(folder / "staging" / "erp")
    plan = BackupPlan(application="erp", targets={"any": FORM}, parts=("media",), media={"uploads": media})
    nowhere = Cluster("postgresql://nobody@127.0.0.1:1/nothing")
    return take_full_backup(plan, nowhere, KEYRING, staging, Report()), staging


def written(target: LocalTarget) -> dict[str, tuple[int, int]]:
    """Each object, with what changes when it is written anew."""
    found = {each.key: (target.path / each.key).stat() for each in target.list("")}
    return {key: (status.st_ino, status.st_ctime_ns) for key, status in found.items()}


@pytest.mark.promise(1, 8)
def test_wherever_it_is_cut_short_the_target_lists_no_backup_and_the_next_attempt_ends_it(tmp_path: Path) -> None:
    manifest, staging = staged(tmp_path)
    assert len(manifest.artifacts) >= 2
    for at in range(len(manifest.artifacts) + 1):
        target = Breaking("office", tmp_path / f"office-{at}")
        target.at = at
        repository = Repository(target, "erp")
        with staging.using(manifest.backup_id) as folder:
            with pytest.raises(TargetUnavailable):
                store_copy(manifest, folder, repository, FORM, Report())
            assert target.stored == at
            assert repository.latest("full") is None, f"a backup of {at} of its objects is listed"
            before = written(target)
            target.at = -1
            store_copy(manifest, folder, repository, FORM, Report())
            assert len(before) == at and before.items() <= written(target).items(), "sent again"
        assert repository.latest("full") == manifest.backup_id
        assert repository.manifest(manifest.backup_id, KEYRING) == manifest
        repository.held(manifest)


class Full(StagingArea):
    def need(self, wanted: int) -> None:
        raise StagingFull("The backup needs more space than there is")


@pytest.mark.parametrize(
    ("why", "tried"),
    [(Cancelled, []), (StagingFull, []), (BackupNotFound, ["office", "nas"])],
    ids=["stopped", "full", "lost"],
)
def test_a_backup_that_is_not_brought_back_for_want_of_space_or_time_is_not_said_to_be_lost(
    tmp_path: Path, why: type[TwistDRError], tried: list[str]
) -> None:
    manifest, staging = staged(tmp_path)
    places = {name: Repository(LocalTarget(name, tmp_path / name), "erp") for name in ("office", "nas")}
    with staging.using(manifest.backup_id) as folder:
        for repository in places.values():
            store_copy(manifest, folder, repository, FORM, Report())
    said: list[str] = []
    report = Report(Lines(warning=said.append))
    if why is Cancelled:
        report.stop.set()
    if why is BackupNotFound:
        for name in places:
            next((tmp_path / name).glob("**/media.tar*")).unlink()
    area = (Full if why is StagingFull else StagingArea)(tmp_path / "elsewhere" / "erp")
    app = SimpleNamespace(
        name="erp", keyring=KEYRING, staging=area, report=report, repositories=lambda: places, settings=None
    )
    with pytest.raises(why):
        list(copy_backup(cast(Application, app), manifest.backup_id, [], own=True))
    assert [line.split()[0] for line in said] == tried
    assert area.sealed() == []
