"""What the page shows of a backup that was just made, whatever its kind."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import dagster as dg

from twist_dr.orchestrator.metadata import in_list, in_markdown, in_words
from twist_dr.repository.manifest import Manifest
from twist_dr.system.progress import human_bytes


def metadata(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    """Bare numbers, which the page plots over time, and a table for people."""
    stored = sum(form.size for artifact in manifest.artifacts for form in artifact.stored.values())
    rows = [
        f"| {artifact.name} | {human_bytes(artifact.size)} | "
        + ", ".join(f"{name} {human_bytes(form.size)}" for name, form in artifact.stored.items())
        + " |"
        for artifact in manifest.artifacts
    ]
    return {
        "backup_id": in_words(manifest.backup_id),
        "label": in_words(manifest.label),
        "plain_bytes": dg.MetadataValue.int(manifest.plain_bytes),
        "dagster/size_bytes": dg.MetadataValue.int(stored),
        "rows": dg.MetadataValue.int(sum(manifest.tables.values())),
        "tables": dg.MetadataValue.int(len(manifest.tables)),
        "duration_seconds": dg.MetadataValue.float(manifest.durations["total"]),
        "ratio": dg.MetadataValue.float(round(manifest.plain_bytes / stored, 2) if stored else 0.0),
        "warnings": dg.MetadataValue.int(len(manifest.warnings)),
        "artifacts": in_markdown("\n".join(["| artifact | plain | stored |", "| --- | --- | --- |", *rows])),
    }


def nothing_left_out(manifest: Manifest) -> dg.AssetCheckResult:
    """The check of that name: a backup with warnings is one, and says so."""
    return dg.AssetCheckResult(
        check_name="nothing_left_out",
        passed=not manifest.warnings,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"warnings": in_list(manifest.warnings)},
    )
