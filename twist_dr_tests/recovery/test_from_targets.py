"""From the stored objects alone: base backups and WAL on two storage targets, planned, recovered and proved."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from twist_dr.errors import RecoveryFailed
from twist_dr.recovery import fetcher
from twist_dr.recovery.planning import RecoveryRequest, plan_recovery
from twist_dr.recovery.recover import recover
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.backup.base.clusters import Bases
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import MB, Primary
from twist_dr_tests.recovery.material import Material
from twist_dr_tests.recovery.world import archives_of, rows


class Stored:
    """A base and all WAL on the targets ``office`` and, in bundles, ``cellar``; and how many rows there were at ``here``."""

    def __init__(self, major: int, folder: Path) -> None:
        self.folder = folder
        self.primary = Primary(TOOLS[major], folder / "primary")
        self.primary.write(30)
        self.base = Bases(folder).take(self.primary.cluster())
        self.primary.write(2000)
        self.here = self.primary.mark()
        self.primary.write(20)
        self.primary.archived()
        self.rows = int(self.primary.one("SELECT count(*) FROM log"))
        identifier = archives_of(self.primary).identifier
        shutil.copytree(folder / "office", folder / "cellar", dirs_exist_ok=True)
        material = Material(folder, self.primary.tools, identifier, MB, [])
        material.ship(self.primary.archive)
        material.ship_bundled(self.primary.archive, "cellar")

    def recovered(
        self,
        to: str,
        folder: Path,
        scratch: Path,
        report: Report,
        then: Callable[[], None] = lambda: None,
        targets: Sequence[str] = ("office", "cellar"),
    ) -> int:
        """How many rows a recovery has. ``then``: what happens between the plan and its execution."""
        repositories = [Repository(LocalTarget(name, folder / name), "erp") for name in targets]
        work = scratch / "work"
        work.mkdir(exist_ok=True)
        request = RecoveryRequest(to=to)
        found = plan_recovery(
            request, repositories, KEYRING, [self.primary.tools.folder], work, report, now=datetime.now(timezone.utc)
        )
        sources = [Sources(manifest.backup_id, repositories, KEYRING, report) for manifest in found.plan.chain]
        then()
        with recover(found, sources, scratch / "r") as recovered:
            return rows(recovered.cluster())

    def copied(self, folder: Path) -> Path:
        for name in ("office", "cellar"):
            shutil.copytree(self.folder / name, folder / name)
        return folder


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    stored = Stored(request.param, tmp_path_factory.mktemp(f"stored{request.param}"))
    yield stored
    stored.primary.close()


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "PAUSES", (0.05,))


def test_latest_and_a_named_point_come_back_with_just_their_rows(stored: Stored, open_folder: Path) -> None:
    assert stored.recovered("latest", stored.folder, open_folder, Report()) == stored.rows
    rows = stored.recovered("name:here", stored.folder, open_folder, Report(), targets=["cellar"])
    assert rows == stored.here.rows, "from bundles alone"


def test_a_target_with_damaged_objects_is_passed_over_and_said(stored: Stored, open_folder: Path) -> None:
    folder = stored.copied(open_folder)
    objects = [*(folder / "office").rglob("base.tar*"), *sorted((folder / "office").rglob("0000*.zst.enc"))[2:4]]
    for path in objects:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.unlink()
        path.write_bytes(data)
    said: list[str] = []
    assert stored.recovered("latest", folder, open_folder, Report(Lines(warning=said.append))) == stored.rows
    assert any("base.tar" in line for line in said)


def test_a_segment_that_goes_bad_everywhere_after_the_plan_is_named(stored: Stored, open_folder: Path) -> None:
    folder = stored.copied(open_folder)
    segment = sorted((folder / "office").rglob("0000*.zst.enc"))[-3].name

    def truncate() -> None:
        bundles = (path for path in folder.rglob("0*-0*.tar.zst.enc"))
        within = [path for path in bundles if path.name[:24] <= segment[:24] <= path.name[25:49]]
        assert within
        for path in [*folder.rglob(segment), *within]:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data[: len(data) // 2])

    with pytest.raises(RecoveryFailed, match=segment[:24]):
        stored.recovered("name:here", folder, open_folder, Report(), truncate)
    assert not list((open_folder / "r").glob("recovery-*"))


def test_targets_that_go_away_after_the_plan_end_the_recovery(stored: Stored, open_folder: Path) -> None:
    folder = stored.copied(open_folder)

    def away() -> None:
        for name in ("office", "cellar"):
            shutil.rmtree(next((folder / name).rglob("wal")))

    with pytest.raises(RecoveryFailed, match="No storage target gives"):
        stored.recovered("latest", folder, open_folder, Report(), away)
