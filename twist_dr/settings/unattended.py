"""Settings of what happens by itself: what is promised, what is kept, what is told to whom."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, SecretStr, field_validator

from twist_dr.redaction.web import is_web_address
from twist_dr.settings.values import Name
from twist_dr.storage.options import Section, SettingsPath, WebAddress
from twist_dr.system.durations import Duration
from twist_dr.system.severity import Severity


class ObjectiveSettings(Section):
    """What is promised to those who depend on the backups.

    ``recovery_point``: how old the newest verified recovery point may be. ``media``: how old the newest verified backup with media may be; twice
    the time between two scheduled ones unless given. ``wal``: how old what each target's archive of write-ahead log reaches to may be.
    ``recovery_time``: how long a restore may take.
    """

    recovery_point: Duration = timedelta(hours=26)
    media: Duration | None = None
    wal: Duration = timedelta(minutes=15)
    recovery_time: Duration | None = None


class CleanupSettings(Section):
    """``max_delete_fraction``: a plan that would delete more of a target's backups stops and asks. ``incomplete_after``: age of incomplete backups that go."""

    max_delete_fraction: float = Field(0.5, ge=0, le=1)
    incomplete_after: Duration = timedelta(days=1)


class HistorySettings(Section):
    """How long Dagster remembers; cleanup lets the rest go, and the newest of each kind stays.

    ``runs``: with their events and logs. ``wal_runs``: those of ``ship_wal``, up to one a minute, and what sensors tell of assets.
    ``ticks``: of schedules and sensors.
    """

    runs: Duration = timedelta(days=90)
    wal_runs: Duration = timedelta(days=1)
    ticks: Duration = timedelta(days=3)


class ScrubSettings(Section):
    """``period``: within which every copy is read again. ``max_mib_per_second``: how fast at most, per storage target."""

    period: Duration = timedelta(days=30)
    max_mib_per_second: float | None = Field(None, gt=0)


class ChannelSettings(Section):
    """A way to people: ``url`` as Apprise takes it. ``at_least``: from which severity on. ``resolved``: whether it is told when a cause is gone."""

    url: SecretStr
    at_least: Severity = "warning"
    resolved: bool = True
    timeout_seconds: float = Field(20, gt=0, le=300)


class HeartbeatSettings(Section):
    """A URL that is called after each verified backup, so that silence is noticed from outside."""

    url: SecretStr
    timeout_seconds: float = Field(10, gt=0, le=300)

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("http://", "https://")):
            raise ValueError("a text that begins with http:// or https://")
        if not is_web_address(url.get_secret_value(), login=True):
            raise ValueError("https://host/path, with %40 for an @ and %2F for a / in user or password")
        return url


class AlertSettings(Section):
    """Who is told what.

    ``size_deviation``: the fraction by which a backup may differ from the median of the last ones of its kind; ``row_drop``: by which a
    table may shrink; ``duration_factor``: how many times as long as usual it may take. ``repeat``: an alert that nobody acknowledges is told
    again. ``staging_free``: the fraction of the disk below ``work_dir`` that must be free. ``dagster_url``: where the page is, for links.
    """

    channels: dict[Name, ChannelSettings] = {}
    heartbeat: HeartbeatSettings | None = None
    size_deviation: float = Field(0.5, gt=0, le=1)
    row_drop: float = Field(0.2, gt=0, le=1)
    duration_factor: float = Field(3, gt=1)
    repeat: Duration = timedelta(days=1)
    staging_free: float = Field(0.1, ge=0, lt=1)
    dagster_url: WebAddress | None = None


class MetricsSettings(Section):
    """``textfile``: a file for the textfile collector of node_exporter, rewritten after each run."""

    textfile: SettingsPath | None = None
