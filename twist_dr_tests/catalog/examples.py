"""Backups to record."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from twist_dr.catalog import Catalog
from twist_dr.repository.keys import Key
from twist_dr.repository.manifest import Artifact, ArtifactForm, KeyName, Manifest

KEY = Key("k1", bytes(32))
NIGHT = datetime(2026, 11, 21, 2, 0, tzinfo=timezone.utc)


def manifest(number: int = 0, **changes: Any) -> Manifest:
    """The backup of the ``number``-th night, of 100 plain bytes and 60 in its two stored forms."""
    started = changes.pop("started_at", NIGHT + timedelta(days=number))
    kind = changes.pop("kind", "full")
    zeros = "0" * 64
    forms = {
        "zstd": ArtifactForm(name="database.dump.zst", size=25, sha256=zeros),
        "zstd+enc": ArtifactForm(name="database.dump.zst.enc", size=35, sha256=zeros),
    }
    values: dict[str, Any] = {
        "format_version": "1.0",
        "application": "erp",
        "app_version": "3.2",
        "git_revision": None,
        "backup_id": f"{started:%Y%m%dT%H%M%SZ}-{kind}-{number:04x}",
        "kind": kind,
        "label": "scheduled",
        "reason": "jede Nacht, wie vereinbart: Größe 10 °",
        "who": "ops@host",
        "parts": ["database", "media"],
        "started_at": started,
        "snapshot_at": started,
        "finished_at": started + timedelta(minutes=3),
        "postgres": None,
        "db_schema_version": "0123456789ab",
        "migrations": {"ledger": ["0001_initial"]},
        "tables": {"public.ledger_entry": 7},
        "large_objects": 0,
        "artifacts": [Artifact(name="database.dump", part="database", size=100, sha256=zeros, stored=forms)],
        "files": {"media": 2},
        "storage_targets": {"local": "zstd", "nas": "zstd+enc"},
        "durations": {"total": 180.0},
        "warnings": ["media: a file vanished"],
        "key": KeyName(id=KEY.id, check_value=KEY.check_value),
    }
    return Manifest(**{**values, **changes})


def record(catalog: Catalog, number: int = 0, *, run_id: str | None = None, **changes: Any) -> str:
    """Record the backup of the ``number``-th night; returns its id."""
    made = manifest(number, **changes)
    catalog.record_backup(made, made.seal(KEY), run_id=run_id)
    return made.backup_id
