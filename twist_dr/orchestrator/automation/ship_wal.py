"""The sensor that ships write-ahead log as soon as there is something to ship."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import dagster as dg

from twist_dr.catalog import CatalogUnavailable, WalPositionRow
from twist_dr.orchestrator.around import RUN_BACKUP, without_secrets
from twist_dr.orchestrator.metadata import in_words
from twist_dr.postgres.lsn import Gap, parse_lsn
from twist_dr.settings import Application, Settings
from twist_dr.wal.archived import listed
from twist_dr.wal.from_settings import gaps_after_newest_base, is_anybody_shipping, wal_settings
from twist_dr.wal.spool import Spool

#: Of what is promised for the log (``objectives.wal``, 15 minutes by default) may go by without news: the asset's page warns at three quarters.
_FRESH_PART = 1 / 3


def ship_wal_sensor(app: Application, job: dg.UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """The sensor ``ship_wal``: a run every ``wal.interval_seconds`` in which something waits, unless a resident process ships."""
    settings, wal = app.settings, wal_settings(app.settings)

    @dg.sensor(
        name="ship_wal_sensor",
        job=job,
        minimum_interval_seconds=wal.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ships write-ahead log when there is some in the spool. Where twist-dr wal ship --follow does it, its archived positions are shown here.",
        owners=[RUN_BACKUP],
    )
    @without_secrets()
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason | dg.SensorResult:
        if is_anybody_shipping(app):
            return _told_by_the_resident(app, context.cursor or "")
        files = Spool(settings.wal_spool).files()
        # An idle server writes nothing: that it does is made sure of, and archived, every few minutes.
        idle = str(time.time() // _fresh_seconds(settings))
        mark = ";".join([*(f"{file.name} {file.modified}" for file in files[-2:]), idle])
        if not files:
            return dg.SkipReason("the spool is empty")
        if mark == context.cursor and not _is_owed_more(app, max(file.modified for file in files)):
            return dg.SkipReason("nothing was written since the last round")
        context.update_cursor(mark)
        return dg.RunRequest()

    return sensor


def _told_by_the_resident(app: Application, cursor: str) -> dg.SensorResult:
    """What a resident process wrote into the catalog goes onto the assets' pages, where it changed: it has no runs that would."""
    skip = "twist-dr wal ship is at work"
    told = {mark.partition(" ")[0]: mark for mark in cursor.splitlines()}
    try:
        events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
        for row in app.catalog.wal_positions(app.name):
            if row.lsn is None or row.target not in app.settings.wal_targets:
                continue
            gaps = gaps_after_newest_base(app.catalog, row)
            if (mark := _mark(app.settings, row, gaps)) != told.get(row.target):
                told[row.target] = mark
                events += _events(row, gaps)
    except CatalogUnavailable as unavailable:
        return dg.SensorResult(skip_reason=f"{skip}; {unavailable}")
    return dg.SensorResult(skip_reason=skip, cursor="\n".join(told.values()), asset_events=events)


def _mark(settings: Settings, row: WalPositionRow, gaps: Sequence[Gap]) -> str:
    """Equal while there is nothing to tell. An idle server's log reaches no further, only for longer: told as often as keeps the asset fresh."""
    reaches = None if row.at is None else int(row.at.timestamp() // _fresh_seconds(settings))
    return f"{row.target} {row.timeline} {row.lsn} {reaches} {len(gaps)}"


def _fresh_seconds(settings: Settings) -> float:
    """How often it is told that an idle server's log is archived up to now."""
    return max(1.0, settings.objectives.wal.total_seconds() * _FRESH_PART)


def _events(row: WalPositionRow, gaps: Sequence[Gap]) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    key = dg.AssetKey([row.application, "wal_archive", row.target])
    assert row.lsn is not None and row.timeline is not None
    metadata: dict[str, dg.MetadataValue] = {
        "archived_position": in_words(row.lsn),
        "archived_lsn": dg.MetadataValue.int(parse_lsn(row.lsn)),
        "timeline": dg.MetadataValue.int(row.timeline),
        "spool_bytes": dg.MetadataValue.int(row.spool_bytes),
        "oldest_unshipped_seconds": dg.MetadataValue.float(round(row.oldest_seconds, 1)),
    }
    if row.at is not None:
        metadata["archived_at"] = dg.MetadataValue.timestamp(row.at)
        metadata["archived_age_seconds"] = dg.MetadataValue.float(round((row.updated_at - row.at).total_seconds(), 3))
    yield dg.AssetMaterialization(key, metadata=metadata)
    yield dg.AssetCheckEvaluation(
        asset_key=key,
        check_name="no_gap",
        passed=not gaps,
        metadata={"gaps": in_words(listed(gaps, row.target))},
    )


def _is_owed_more(app: Application, written_at: float) -> bool:
    """Whether a target lacks something of what was there in the last round: it failed, something waits, or it was not its turn to get the open segment.

    ``written_at``: when the spool was last written to, seconds since 1970.
    """
    try:
        rows = app.catalog.wal_positions(app.name)
    except CatalogUnavailable:
        return True
    wanted = app.settings.wal_targets
    return any(
        row.error is not None
        or row.waiting
        or (app.settings.wal_every(row.target) and (row.at is None or row.at.timestamp() < written_at))
        for row in rows
        if row.target in wanted
    )
