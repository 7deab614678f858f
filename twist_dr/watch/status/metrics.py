"""A status as Prometheus metrics: as text, as a file for node_exporter's textfile collector, and served over HTTP.

docs/status.md lists the names. What is not known has no sample: an alert rule on its absence is the right one. A catalog that cannot be read
gives ``twist_dr_up 0`` and the state 2, unsafe.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from twist_dr.errors import SettingsError, TwistDRError
from twist_dr.settings import Application
from twist_dr.system.documents import replace_file
from twist_dr.system.severity import SEVERITIES
from twist_dr.watch.alerts.rules_common import STATES
from twist_dr.watch.status.collect import collect
from twist_dr.watch.status.model import Status

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily


class StatusCollector:
    """Reckons the metrics anew each time that it is asked."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All families with their samples."""
        try:
            status = collect(self._app, datetime.now(timezone.utc))
        except TwistDRError:
            return _unknown(self._app.name)
        return _families(status)

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing: or registering would read the catalog."""
        return []


def text(app: Application) -> str:
    """The metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(StatusCollector(app))
    return generate_latest(registry).decode()


def write_textfile(app: Application, path: Path | None = None) -> None:
    """Write the metrics to ``path`` (``metrics.textfile`` of the settings unless given; without either nothing is done), whole or not at all.

    node_exporter runs as another user and must be able to read it; it holds no secret. Raises ``OSError``.
    """
    path = path or app.settings.metrics.textfile
    if path is None:
        return
    replace_file(path, text(app).encode(), mode=0o644)


def serve(app: Application, host: str, port: int, *, tell: Callable[[str], None]) -> None:
    """Serve ``/metrics`` until the process is told to stop (SIGTERM, SIGINT). Raises ``SettingsError`` when the address cannot be had."""
    from prometheus_client import CollectorRegistry, start_http_server

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = CollectorRegistry()
    registry.register(StatusCollector(app))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise SettingsError(
            f"Metrics cannot be served on {host}:{port} ({error.strerror})",
            remedy="choose another port or host with --listen",
        ) from None
    tell(f"serving http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
    # A wait without end would not let Python run the signal's handler on every platform.
    while not stop.wait(1):
        pass
    server.shutdown()
    server.server_close()
    thread.join(5)


def _unknown(application: str) -> Iterator[GaugeMetricFamily]:
    gauge = _Gauges(application)
    yield gauge("up", "Whether the catalog could be read.", 0)
    yield gauge("state", "0 safe, 1 degraded, 2 unsafe or not to be known.", STATES.index("unsafe"))


def _families(status: Status) -> Iterator[GaugeMetricFamily]:
    gauge = _Gauges(status.application)
    yield gauge("up", "Whether the catalog could be read.", 1)
    yield gauge("state", "0 safe, 1 degraded, 2 unsafe or not to be known.", status.exit_status)
    yield gauge("health_score", "0 to 100, see docs/status.md.", status.score)
    if status.daemon_seen_at is not None:
        yield gauge(
            "daemon_seen_timestamp_seconds",
            "When the orchestrator's daemon was seen last.",
            status.daemon_seen_at.timestamp(),
        )
    yield from _of_backups(status, gauge)
    yield from _of_targets(status, gauge)
    severities = Counter(alert.severity for alert in status.alerts)
    yield gauge.each("alerts", "Active alerts.", ["severity"], [((each,), severities[each]) for each in SEVERITIES])
    if (rate := status.success_rate) is not None:
        yield gauge("success_ratio", "Fraction of the runs of 90 days that succeeded.", rate)
    if status.history is not None:
        yield gauge("history_bytes", "What Dagster's history took after the last cleanup.", status.history.bytes)
    jobs = [((each.job, each.state), each.count) for each in status.attempts]
    yield gauge.each("attempts", "Runs that began within 90 days, by job and state.", ["job", "state"], jobs)


def _of_backups(status: Status, gauge: _Gauges) -> Iterator[GaugeMetricFamily]:
    backups = status.backups
    yield gauge.each(
        "last_backup_timestamp_seconds",
        "When the newest backup began.",
        ["kind"],
        [((each.kind,), each.started_at.timestamp()) for each in backups],
    )
    yield gauge.each(
        "last_backup_size_bytes",
        "What the newest backup holds.",
        ["kind"],
        [((each.kind,), each.plain_bytes) for each in backups],
    )
    yield gauge.each(
        "last_backup_duration_seconds",
        "How long the newest backup took.",
        ["kind"],
        [((each.kind,), each.seconds) for each in backups],
    )
    yield gauge.each(
        "last_backup_complete",
        "Whether all storage targets have the newest backup.",
        ["kind"],
        [((each.kind,), int(each.complete)) for each in backups],
    )
    proof, point, restore = status.last_verified, status.recovery_point, status.last_restore
    if proof is not None:
        yield gauge(
            "last_verified_timestamp_seconds", "When the newest verified backup began.", proof.started_at.timestamp()
        )
        yield gauge("last_verification_timestamp_seconds", "When it was verified.", proof.verified_at.timestamp())
    if point is not None:
        yield gauge("recovery_point_timestamp_seconds", "The newest verified recovery point.", point.at.timestamp())
        yield gauge("recovery_point_age_seconds", "Its age.", point.age)
    if status.media_point is not None:
        yield gauge(
            "media_point_timestamp_seconds", "The newest verified backup with media.", status.media_point.at.timestamp()
        )
    if status.media_objective is not None:
        yield gauge("media_objective_seconds", "How old it may be.", status.media_objective)
    yield gauge("recovery_point_objective_seconds", "How old it may be.", status.recovery_point_objective)
    if restore is not None:
        yield gauge("last_restore_timestamp_seconds", "When the last restore began.", restore.started_at.timestamp())


def _of_targets(status: Status, gauge: _Gauges) -> Iterator[GaugeMetricFamily]:
    targets = [target for target in status.targets if target.enabled]
    for name, meaning, values in (
        ("ok", "Whether its last use went well; absent where there was none.", [None if each.state == "unknown" else int(each.state == "ok") for each in targets]),
        ("newest_copy_timestamp_seconds", "When the newest backup with a checked copy there began.", [each.newest_at.timestamp() if each.newest_at else None for each in targets]),
        ("objective_seconds", "How old that may be.", [each.objective for each in targets]),
        ("copies", "Good copies there.", [each.copies for each in targets]),
        ("corrupt_copies", "Corrupt copies there.", [each.corrupt for each in targets]),
        ("used_bytes", "What our objects take there.", [each.used_bytes for each in targets]),
        ("free_bytes", "Space left there.", [each.free for each in targets]),
        ("growth_bytes_per_day", "By how much our objects grow there.", [each.bytes_per_day for each in targets]),
        ("oldest_check_timestamp_seconds", "When the copy was read that was not read for longest.", [each.oldest_checked_at.timestamp() if each.oldest_checked_at else None for each in targets]),
        ("wal_frontier_timestamp_seconds", "Everything committed before is in the archive there.", [each.wal.at.timestamp() if each.wal and each.wal.at else None for each in targets]),
    ):  # fmt: skip
        samples = [((target.name,), value) for target, value in zip(targets, values, strict=True) if value is not None]
        yield gauge.each(f"target_{name}", meaning, ["target"], samples)
    if status.wal_objective is not None:
        yield gauge("wal_objective_seconds", "How old the archived position may be.", status.wal_objective)
    if status.spool_bytes is not None:
        yield gauge("spool_bytes", "Write-ahead log that waits to be shipped.", status.spool_bytes)


class _Gauges:
    """Makes families that carry the application's label."""

    def __init__(self, application: str) -> None:
        self._application = application

    def __call__(self, name: str, meaning: str, value: float) -> GaugeMetricFamily:
        return self.each(name, meaning, [], [((), value)])

    def each(
        self, name: str, meaning: str, labels: list[str], samples: Sequence[tuple[tuple[str, ...], float]]
    ) -> GaugeMetricFamily:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(f"twist_dr_{name}", meaning, labels=["application", *labels])
        for values, value in samples:
            family.add_metric([self._application, *values], value)
        return family
