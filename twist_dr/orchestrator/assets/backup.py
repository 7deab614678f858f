"""The backups: made once and sealed, one asset for each kind."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from twist_dr.operations import Config
from twist_dr.operations.backup import take_full
from twist_dr.operations.backup_base import take_base
from twist_dr.operations.backup_configuration import take_configuration
from twist_dr.operations.table import OPERATIONS
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.dagster_history import find_history, own_files
from twist_dr.orchestrator.assets.freshness import fresh_within, window_of
from twist_dr.orchestrator.metadata import in_list, in_markdown, in_words
from twist_dr.orchestrator.taking import taking
from twist_dr.repository.kinds import BASE, CONFIGURATION, FULL, KindSpec
from twist_dr.repository.manifest import Kind, Manifest
from twist_dr.settings import Application, Settings, settings_file
from twist_dr.system.progress import human_bytes
from twist_dr.verify.verification import VerificationResult

#: What was taken; for a configuration backup also what reading it back found, and what raises unless that was good.
_Taken = tuple[Manifest, VerificationResult | None, Callable[[], None]]


@dataclass(frozen=True)
class _Page:
    """What the page says of one kind. ``checks``: by name, what each says when it is green; ``numbers``: beside those of every kind."""

    take: Callable[[dg.AssetExecutionContext, Application, Any], _Taken]
    description: str
    checks: Mapping[str, str]
    numbers: Callable[[Manifest], Mapping[str, dg.MetadataValue]]
    engine: str = "postgres"


def backup_asset(settings: Settings, kind: KindSpec, sources: list[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The asset ``<application>/full_backup``, ``base_backup`` or ``configuration_backup``, made of those external assets that are its parts."""
    key = dg.AssetKey([settings.application, kind.step])
    page, launched = _PAGES[kind.kind], OPERATIONS[kind.job]
    # A cluster is seen from outside as its database.
    parts = {"database" if part == "cluster" else part for part in kind.parts}

    # Not @dg.asset, whose step would be named after the whole key: run config is told by that name.
    @dg.multi_asset(
        name=kind.step,
        specs=[
            dg.AssetSpec(
                key,
                deps=[source.key for source in sources if source.key.path[-1] in parts],
                description=page.description,
                group_name=kind.group,
                kinds={page.engine, "zstd"},
                owners=[RUN_BACKUP],
                freshness_policy=fresh_within(window_of(settings, kind)),
            )
        ],
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=says) for name, says in page.checks.items()],
        required_resource_keys={APPLICATION},
    )
    @taking(launched)
    def backup(
        context: dg.AssetExecutionContext, config: Config
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with operation(context, launched, retry=True) as app:
            manifest, found, raise_failures = page.take(context, app, config)
            read_back = [_read_back(key, found)] if found is not None else []
            if found is not None and not found.verified:
                yield from read_back
            raise_failures()
        yield dg.MaterializeResult(
            asset_key=key,
            metadata={**_numbers(manifest), **page.numbers(manifest)},
            check_results=[_nothing_left_out(manifest), *read_back],
        )

    return backup


def _take_configuration(context: dg.AssetExecutionContext, app: Application, config: Any) -> _Taken:
    own = own_files(settings_file().absolute(), context.instance)
    taken = take_configuration(app, config, find_history(context.instance), own)
    return taken.manifest, taken.found, taken.raise_failures


def _sealed(take: Callable[..., Manifest]) -> Callable[[dg.AssetExecutionContext, Application, Any], _Taken]:
    """A way to take one that needs nothing of Dagster."""
    return lambda context, app, config: (take(app, config), None, lambda: None)


def _files(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    return {"files": dg.MetadataValue.int(sum(manifest.files.values()))}


def _of_full(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    return {
        **_files(manifest),
        "dump_seconds": dg.MetadataValue.float(manifest.durations.get("database", 0.0)),
        "db_schema_version": in_words(manifest.db_schema_version or "unknown"),
    }


def _of_base(manifest: Manifest) -> dict[str, dg.MetadataValue]:
    base = manifest.base
    assert base is not None
    return {
        "type": in_words(base.sort),
        "chain_length": dg.MetadataValue.int(len(base.chain)),
        "start_lsn": in_words(base.start_lsn),
        "stop_lsn": in_words(base.stop_lsn),
        "timeline": dg.MetadataValue.int(base.timeline),
        "restore_point": in_words(base.restore_point or "none"),
        "copy_seconds": dg.MetadataValue.float(manifest.durations["cluster"]),
    }


_PAGES: dict[Kind, _Page] = {
    FULL.kind: _Page(
        _sealed(take_full),
        "Database, media and configuration as one unit: compressed, encrypted, hashed, and sealed by a manifest.",
        {"nothing_left_out": "No file vanished or changed while it was read, and every pattern found one."},
        _of_full,
    ),
    BASE.kind: _Page(
        _sealed(take_base),
        "All files of the cluster, or what changed in them; with the WAL after it, any second comes back.",
        {
            "nothing_left_out": "It is of the type that was asked for, its rows are recorded, and the server's configuration is in it."
        },
        _of_base,
    ),
    CONFIGURATION.kind: _Page(
        _take_configuration,
        "The configured files, twist-dr's own catalog and Dagster's history: what one needs beside the data. Always encrypted. "
        "The keyring is not in it: keep a copy of it elsewhere.",
        {
            "nothing_left_out": "No file vanished or changed while it was read, every pattern found one, and Dagster's history could be copied.",
            "read_back": "Every artifact was decrypted, unpacked and compared with what was recorded; every database in it is whole.",
        },
        _files,
        engine="yaml",
    ),
}


def _numbers(manifest: Manifest) -> dict[str, dg.MetadataValue]:
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


def _nothing_left_out(manifest: Manifest) -> dg.AssetCheckResult:
    """A backup with warnings is one, and says so."""
    return dg.AssetCheckResult(
        check_name="nothing_left_out",
        passed=not manifest.warnings,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"warnings": in_list(manifest.warnings)},
    )


def _read_back(key: dg.AssetKey, found: VerificationResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="read_back",
        passed=found.verified,
        metadata={
            "differences": in_list(found.differences),
            "duration_seconds": dg.MetadataValue.float(found.seconds["total"]),
        },
    )
