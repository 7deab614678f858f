"""Settings of what happens by itself: schedules, what is kept, what is told to whom."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from twist_dr.engine.labels import GRACE
from twist_dr.engine.manifest import Kind, Label, Part
from twist_dr.engine.severity import Severity
from twist_dr.engine.web import is_web_address
from twist_dr.settings.values import Duration, Name, Section, SettingsPath, WebAddress


def _cron(text: str) -> str:
    from cronsim import CronSim, CronSimError

    # Five fields: what cron, Dagster and people know. Names such as @daily and a sixth field of seconds are not among them.
    try:
        if len(text.split()) != 5:
            raise CronSimError
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=timezone.utc)))
    except (CronSimError, StopIteration):
        raise ValueError(
            "five fields of cron that come to pass, such as '0 2 * * *' (minute, hour, day, month, day of the week)"
        ) from None
    return text


Cron = Annotated[str, AfterValidator(_cron)]


def _all(parts: Sequence[Part] | None) -> bool:
    return parts is None or set(parts) == {"database", "media", "configuration"}


class FullSchedule(Section):
    """One of several schedules of full backups: ``cron``, and what is unlike the others.

    ``name``: what tells it from the others. ``parts`` and ``targets``: all unless given. ``label``: only a backup with all parts is one of the nights
    that a retention counts, so that none without media takes the place of a whole one.
    """

    cron: Cron
    name: Name | None = None
    parts: list[Literal["database", "media", "configuration"]] | None = Field(None, min_length=1)
    label: Literal["scheduled", "weekly", "monthly", "manual"] | None = None
    targets: list[Name] | None = Field(None, min_length=1)

    @field_validator("label")
    @classmethod
    def _nights_are_whole(cls, label: Label | None, info: ValidationInfo) -> Label | None:
        parts: list[Part] | None = info.data.get("parts")
        if label in (None, "manual") or _all(parts):
            return label
        raise ValueError(
            "manual, where parts are left out: what is labelled so takes the place of a whole backup in a retention"
        )

    @property
    def is_whole(self) -> bool:
        return _all(self.parts)

    @property
    def own_name(self) -> str:
        """By its parts unless it has a name; empty for one with neither."""
        return self.name or "_".join(self.parts or ())


def _as_schedules(given: Any) -> Any:
    """One text is the only entry; nothing is none."""
    return () if given is None else [{"cron": _cron(given)}] if isinstance(given, str) else given


FullSchedules = Annotated[tuple[FullSchedule, ...], BeforeValidator(_as_schedules)]


class ScheduleSettings(Section):
    """When what is launched by itself, as cron says it, in ``time_zone``; null turns one off.

    ``full``: one, or several as a list. ``base`` and ``base_incremental`` count where the settings have a section ``wal``. ``verify``: after every scheduled full backup.
    ``cleanup``: after backups. ``patience``: how long a scheduled run waits for another operation. ``tenants`` is reserved.
    """

    time_zone: str = "UTC"
    full: FullSchedules = Field(default_factory=lambda: (FullSchedule(cron="0 2 * * *"),))
    configuration: Cron | None = "0 4 * * *"
    base: Cron | None = "0 1 * * 0"
    base_incremental: Cron | None = "0 1 * * 1-6"
    tenants: Cron | None = "0 3 * * 0"
    drill: Cron | None = "0 5 1 * *"
    scrub: Cron | None = "0 6 * * *"
    verify: bool = True
    cleanup: bool = True
    patience: Duration = timedelta(hours=6)

    @field_validator("full")
    @classmethod
    def _told_apart(cls, full: tuple[FullSchedule, ...]) -> tuple[FullSchedule, ...]:
        names = [each.own_name for each in full]
        if twice := sorted({name or "full" for name in names if names.count(name) > 1}):
            raise ValueError(f"a name of its own for each, and several are {', '.join(twice)}: set name")
        return full

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("the name of a time zone, such as Europe/Berlin or UTC") from None
        return name


class ObjectiveSettings(Section):
    """What is promised to those who depend on the backups.

    ``recovery_point``: how old the newest verified recovery point may be. ``wal``: how old what each target's archive of write-ahead log
    reaches to may be. ``recovery_time``: how long a restore may take.
    """

    recovery_point: Duration = timedelta(hours=26)
    wal: Duration = timedelta(minutes=15)
    recovery_time: Duration | None = None


class RetentionSettings(Section):
    """What a storage target keeps; docs/retention.md says how these work together.

    ``kinds`` and ``labels``: to which backups it applies, all unless given. ``daily`` to ``yearly``: the newest good backup of so many
    periods. ``last``: so many of a label. ``max_age``, ``max_count``, ``max_bytes``: what goes although a rule would keep it. ``grace``: how long
    what no schedule made stays. ``wal``: any second of so long stays recoverable.
    """

    kinds: list[Kind] | None = Field(None, min_length=1)
    labels: list[Label] | None = Field(None, min_length=1)
    daily: int = Field(0, ge=0)
    weekly: int = Field(0, ge=0)
    monthly: int = Field(0, ge=0)
    yearly: int = Field(0, ge=0)
    last: dict[Label, Annotated[int, Field(ge=0)]] = {}
    max_age: Duration | None = None
    max_count: int | None = Field(None, ge=0)
    max_bytes: int | None = Field(None, ge=0)
    grace: Duration = GRACE
    wal: Duration | None = None


class CleanupSettings(Section):
    """``max_delete_fraction``: a plan that would delete more of a target's backups stops and asks. ``remains_after``: age of broken remains that go."""

    max_delete_fraction: float = Field(0.5, ge=0, le=1)
    remains_after: Duration = timedelta(days=1)


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
