"""The archive of write-ahead log: one asset per storage target, materialised when its archived position has advanced."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from twist_dr.catalog import Catalog, CatalogUnavailable
from twist_dr.operations.table import SHIP_WAL
from twist_dr.operations.wal import ship_once
from twist_dr.orchestrator.around import APPLICATION, RUN_BACKUP, operation
from twist_dr.orchestrator.assets.freshness import fresh_within
from twist_dr.orchestrator.metadata import in_words
from twist_dr.postgres.lsn import Gap, format_lsn
from twist_dr.settings import Settings
from twist_dr.wal.archived import Shipped, TargetShipped, listed
from twist_dr.wal.from_settings import gaps_after_newest_base, raise_not_shipped


def wal_archive_asset(settings: Settings, database: dg.AssetKey) -> dg.AssetsDefinition:
    """One asset per target that it is shipped to, ``<application>/wal_archive/<target>``, shipped to side by side in one step.

    Skippable, because freshness counts from the last time that the archived position advanced, not from the last look.
    """
    names = {dg.AssetKey([settings.application, "wal_archive", name]): name for name in settings.wal_targets}

    @dg.multi_asset(
        name="wal_archive",
        specs=[
            dg.AssetSpec(
                key,
                deps=[database],
                description=f"The write-ahead log on storage target {name}: with a base backup, every second up to its archived position can be recovered.",
                group_name="write_ahead_log",
                kinds={settings.storage_targets[name].asset_kind},
                owners=[RUN_BACKUP],
                skippable=True,
                freshness_policy=fresh_within(settings.objectives.wal),
            )
            for key, name in names.items()
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "no_gap",
                asset=key,
                description="Nothing is missing between the newest base backup and the archived position.",
            )
            for key in names
        ],
        required_resource_keys={APPLICATION},
    )
    def wal_archive(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with operation(context, SHIP_WAL, retry=True) as app:
            shipped = ship_once(app)
            gaps = _gaps(app.catalog, app.name, shipped)
            for key, name in names.items():
                outcome, check = shipped.targets[name], _no_gap(key, gaps.get(name, ()))
                # The check is told whatever advanced: Dagster takes a run for failed that leaves out one of those it was to tell.
                yield _materialization(key, outcome, shipped, check) if outcome.advanced else check
            raise_not_shipped(shipped)

    return wal_archive


def _gaps(catalog: Catalog, application: str, shipped: Shipped) -> Mapping[str, Sequence[Gap]]:
    """By target, the gaps that its newest base backup is not behind; without a catalog to tell which one that is, all."""
    try:
        return {row.target: gaps_after_newest_base(catalog, row) for row in catalog.wal_positions(application)}
    except CatalogUnavailable:
        return {name: shipped.gaps_of(name) for name in shipped.targets}


def _no_gap(key: dg.AssetKey, gaps: Sequence[Gap]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key,
        check_name="no_gap",
        passed=not gaps,
        metadata={"gaps": in_words(listed(gaps, key.path[-1]))},
    )


def _materialization(
    key: dg.AssetKey, outcome: TargetShipped, shipped: Shipped, check: dg.AssetCheckResult
) -> dg.MaterializeResult[None]:
    """Bare numbers, which the page plots over time."""
    position = outcome.position
    assert position is not None
    metadata: dict[str, dg.MetadataValue] = {
        "archived_position": in_words(format_lsn(position.lsn)),
        "archived_lsn": dg.MetadataValue.int(position.lsn),
        "timeline": dg.MetadataValue.int(position.timeline),
        "segments": dg.MetadataValue.int(outcome.segments),
        "stored_bytes": dg.MetadataValue.int(outcome.stored_bytes),
        "duration_seconds": dg.MetadataValue.float(shipped.seconds),
        "spool_bytes": dg.MetadataValue.int(shipped.spool_bytes),
        "oldest_unshipped_seconds": dg.MetadataValue.float(round(shipped.oldest_seconds, 1)),
    }
    if position.at is not None:
        metadata["archived_at"] = dg.MetadataValue.timestamp(position.at)
    return dg.MaterializeResult(asset_key=key, metadata=metadata, check_results=[check])
