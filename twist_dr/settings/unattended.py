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
    """What is promised to those who depend on the backups."""

    #: How old the newest verified recovery point may be.
    recovery_point: Duration = timedelta(hours=26)
    #: How old the newest verified backup with media may be; twice the time between two scheduled ones unless given.
    media: Duration | None = None
    #: How old what each target's archive of write-ahead log reaches to may be.
    wal: Duration = timedelta(minutes=15)
    #: How long a restore may take.
    recovery_time: Duration | None = None


class CleanupSettings(Section):
    """What cleanup may delete."""

    #: A plan that would delete more of a target's backups stops and asks.
    max_delete_fraction: float = Field(0.5, ge=0, le=1)
    #: The age from which on incomplete backups go.
    incomplete_after: Duration = timedelta(days=1)


class HistorySettings(Section):
    """How long Dagster remembers; cleanup lets the rest go, and the newest of each kind stays."""

    #: With their events and logs.
    runs: Duration = timedelta(days=90)
    #: Those of ``ship_wal``, up to one a minute, and what sensors tell of assets.
    wal_runs: Duration = timedelta(days=1)
    #: Of schedules and sensors.
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
    """Who is told what."""

    channels: dict[Name, ChannelSettings] = {}
    heartbeat: HeartbeatSettings | None = None
    #: The fraction by which a backup may differ from the median of the last ones of its kind.
    size_deviation: float = Field(0.5, gt=0, le=1)
    #: The fraction by which a table may shrink.
    row_drop: float = Field(0.2, gt=0, le=1)
    #: How many times as long as usual it may take.
    duration_factor: float = Field(3, gt=1)
    #: An alert that nobody acknowledges is told again.
    repeat: Duration = timedelta(days=1)
    #: The fraction of the disk below ``work_dir`` that must be free.
    staging_free: float = Field(0.1, ge=0, lt=1)
    #: Where the page is, for links.
    dagster_url: WebAddress | None = None


class MetricsSettings(Section):
    """``textfile``: a file for the textfile collector of node_exporter, rewritten after each run."""

    textfile: SettingsPath | None = None
