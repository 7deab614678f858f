"""What the catalog gives out: plain values. Times are UTC, durations seconds, sizes bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError

from twist_dr.engine.manifest import Kind, Label, Manifest, Part
from twist_dr.errors import ManifestInvalid

CopyState = Literal["pending", "stored", "checked", "failed", "corrupt", "deleted"]
VerificationState = Literal["verified", "unverified"]
RestoreKind = Literal["restore", "undo"]
RestoreMode = Literal["plan", "sandbox", "replace", "schema"]
#: ``undone``: the application was not healthy afterwards, and it was taken back at once.
RestoreState = Literal["running", "done", "refused", "failed", "undone"]


@dataclass(frozen=True)
class CopyRow:
    """A backup as one storage target holds it.

    ``stored_bytes`` and ``seconds`` (to store it) are None until known. ``checked_at`` is when its bytes were last found right, whatever
    happened since. ``error`` is one line about the present state.
    """

    backup_id: str
    target: str
    state: CopyState
    form: str
    stored_bytes: int | None
    seconds: float | None
    updated_at: datetime
    checked_at: datetime | None
    error: str | None
    run_id: str | None


@dataclass(frozen=True)
class VerificationRow:
    """One restore into a scratch server, compared with what was recorded. ``restore_seconds`` is the database's part alone."""

    id: int
    backup_id: str
    target: str
    state: VerificationState
    started_at: datetime
    seconds: float
    restore_seconds: float | None
    tables: int
    rows: int
    files: int
    server_version: str | None
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    run_id: str | None

    @property
    def verified(self) -> bool:
        return self.state == "verified"


@dataclass(frozen=True)
class BackupRow:
    """A backup, its copies by target, and its last verification.

    ``plain_bytes`` is what the artifacts hold; ``staged_bytes`` all their stored forms together. ``run_id`` is the run that made it,
    None when only a rebuild has seen it. ``warnings`` is a count.
    """

    backup_id: str
    application: str
    kind: Kind
    label: Label
    reason: str
    who: str
    started_at: datetime
    finished_at: datetime
    parts: tuple[Part, ...]
    plain_bytes: int
    staged_bytes: int
    app_version: str | None
    db_schema_version: str | None
    key_id: str
    run_id: str | None
    warnings: int
    copies: tuple[CopyRow, ...]
    last_verification: VerificationRow | None

    @property
    def complete(self) -> bool:
        """Whether every storage target that should hold it does. Copies deleted on purpose do not count, but one must be left."""
        states = {copy.state for copy in self.copies} - {"deleted"}
        return bool(states) and states <= {"stored", "checked"}


@dataclass(frozen=True)
class SealedBackup(BackupRow):
    """A backup with its sealed manifest, byte for byte as the targets hold it."""

    sealed: bytes

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, to show and to plan with. Its MAC was not checked here: a restore reads that of a target."""
        try:
            document: dict[str, Any] = json.loads(self.sealed)
            document.pop("mac", None)
            return Manifest.model_validate(document)
        except (ValueError, AttributeError, ValidationError):
            raise ManifestInvalid(
                f"The catalog's manifest of {self.backup_id} is damaged; run: twist-dr catalog rebuild"
            ) from None


@dataclass(frozen=True)
class TargetTestRow:
    """One test of a storage target: whether it can be used, and what it can do."""

    id: int
    target: str
    at: datetime
    ok: bool
    location: str
    capabilities: dict[str, Any] | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class RestoreRow:
    """One line of the log of restores: a restore, or the undoing of one (``undone_id``).

    ``verified``: whether the backup was known to be good. ``sources``: storage targets that were read; ``passed_over``: a sentence
    for each that was not good. ``seconds`` by phase. ``database``: the one that was made, or that is live now; ``replaced``: what was
    kept, a database and folders. ``finished_at`` is None while it goes on, and for one that was killed.
    """

    restore_id: str
    application: str
    kind: RestoreKind
    mode: RestoreMode
    who: str
    reason: str
    backup_id: str | None
    undone_id: str | None
    sources: tuple[str, ...]
    passed_over: tuple[str, ...]
    verified: bool
    parts: tuple[str, ...]
    tables: int
    rows: int
    files: int
    state: RestoreState
    started_at: datetime
    finished_at: datetime | None
    seconds: dict[str, float]
    seconds_locked_out: float | None
    database: str | None
    replaced: tuple[str, ...]
    result: str
    error: str | None
    run_id: str | None
