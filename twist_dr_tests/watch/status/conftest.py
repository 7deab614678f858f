"""An installation whose catalog tells what a test makes it tell: a status asks neither the database nor a storage target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from twist_dr.catalog import AttemptRow, Catalog, VerificationRow
from twist_dr.catalog.rows import AttemptState
from twist_dr.watch.status.collect import collect
from twist_dr.watch.status.model import Status
from twist_dr_tests.apps import application
from twist_dr_tests.catalog.examples import manifest, record
from twist_dr_tests.site import Site

HOUR = timedelta(hours=1)
TARGETS = ("office", "archive")


@dataclass
class Story:
    """What happened at a site. Ages are hours before now."""

    site: Site

    def __post_init__(self) -> None:
        self.now = datetime.now(timezone.utc)
        self.catalog: Catalog = self.site.catalog()
        self._number = 0

    def backup(
        self, age: float = 1, *, copies: dict[str, str] | None = None, verified: bool | None = True, **changes: Any
    ) -> str:
        """A backup of that age with its copies, by target, and its verification."""
        self._number += 1
        started = self.now - age * HOUR
        values = {"started_at": started, "finished_at": started + timedelta(minutes=3), **changes}
        backup_id = record(self.catalog, self._number, run_id=uuid4().hex, **values)
        for target, state in (dict.fromkeys(TARGETS, "checked") if copies is None else copies).items():
            error = f"{target}: no answer" if state == "failed" else None
            self.catalog.record_copy(backup_id, target, state=state, form="zstd+enc", stored_bytes=1000, error=error)  # type: ignore[arg-type]
        if verified is not None:
            self.catalog.record_verification(VerificationRow(
                backup_id, "office", state="verified" if verified else "unverified", started_at=started + timedelta(minutes=5),
                seconds=4.0, restore_seconds=2.0, tables=1, rows=7, differences=() if verified else ("rows differ",),
            ))  # fmt: skip
        return backup_id

    def attempt(
        self, job: str = "backup_full", state: AttemptState = "succeeded", age: float = 1, error: str | None = None
    ) -> str:
        """A run."""
        run_id = uuid4().hex
        started = self.now - age * HOUR
        self.catalog.begin_attempt(AttemptRow(run_id, "erp", job, None, None, "ops@host", started))
        if state != "running":
            self.catalog.end_attempt(run_id, state=state, error=error)
        return run_id

    def status(self) -> Status:
        return collect(application(self.site.settings(), catalog=self.catalog), self.now)


@pytest.fixture
def bare_site(tmp_path: Path) -> Site:
    """A site whose database nobody asks."""
    (tmp_path / "media").mkdir()
    return Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media")


@pytest.fixture
def story(bare_site: Site) -> Story:
    return Story(bare_site)


__all__ = ["Story", "manifest"]
