"""What became of a restore, as far as it has come: for the log of restores, the run's page and whoever waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from twist_dr.postgres.schema_changes import SchemaChange
from twist_dr.repository.sources import Sources
from twist_dr.restore.journal import Journal, JournalKind
from twist_dr.restore.plan import Mode

RecordState = Literal["running", "done", "refused", "failed", "undone"]


@dataclass
class RestoreRecord:
    """Filled in as the restore goes on. ``seconds`` by phase; ``gate``, ``impact`` and ``recovery`` are Markdown tables;
    ``schema``: what differs from the backup's to the live one.

    ``recovery_target``: what a recovery to a point was asked for, ``recovery_point``: what that is, ``recovery_options``: what else was asked for, as the
    run config has it.
    """

    restore_id: str
    kind: JournalKind
    mode: Mode
    reason: str
    backup_id: str | None = None
    restored_id: str | None = None
    parts: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    state: RecordState = "running"
    started_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    finished_at: datetime | None = None
    tables: int = 0
    rows: int = 0
    files: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    seconds_locked_out: float | None = None
    database: str | None = None
    replaced: list[str] = field(default_factory=list)
    result: str = ""
    error: str | None = None
    pre_restore_backup: str | None = None
    gate: str = ""
    impact: str = ""
    schema: Sequence[SchemaChange] = ()
    warnings: list[str] = field(default_factory=list)
    recovery: str = ""
    recovery_target: str | None = None
    recovery_options: dict[str, str | int] = field(default_factory=dict)
    recovery_point: str | None = None

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Note how long the block takes, also when it fails."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = round(time.monotonic() - begun, 3)

    def note_sources(self, sources: Sources) -> None:
        """Note which storage targets gave something, and which were passed over."""
        self.sources = list(sources.used)
        self.passed_over = [f"{name}: {why}" for name, why in sources.passed_over.items()]

    def note_switch(self, journal: Journal) -> None:
        """Note what a cutover made live, what it replaced, and for how long it locked the application out."""
        self.seconds_locked_out = journal.seconds_locked_out
        self.replaced = [
            *([journal.database.replaced] if journal.database and journal.database.replaced else []),
            *(str(folder.kept) for folder in journal.folders),
        ]
        if journal.database is not None and journal.database.comes:
            self.database = journal.database.live

    def end(self, state: RecordState, result: str = "", error: str | None = None) -> None:
        """Note the outcome."""
        self.state, self.result, self.error = state, result or self.result, error
        self.finished_at = datetime.now(timezone.utc)
