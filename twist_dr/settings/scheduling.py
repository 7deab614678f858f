"""Settings of when what is launched by itself, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any, Literal, TypeVar, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from twist_dr.repository.kinds import FULL
from twist_dr.repository.manifest import Part
from twist_dr.settings.values import Name
from twist_dr.storage.options import Section
from twist_dr.system.durations import Duration


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


ScheduleKind = Literal["full", "configuration", "base", "drill", "scrub", "test_targets"]
Cron = Annotated[str, AfterValidator(_cron)]
_Targets = Annotated[list[Name], Field(min_length=1)]
_Label = Literal["scheduled", "weekly", "monthly", "manual"]


class Schedule(Section):
    """One of several schedules of a kind: ``cron``, a ``name`` that tells it from the others, and what its job is told in its run config.

    What is not given is left to the job: all targets, all parts.
    """

    cron: Cron
    name: Name | None = None

    @property
    def own_name(self) -> str:
        """Empty for the one without."""
        return self.name or ""

    @property
    def told(self) -> dict[str, Any]:
        """Of the run config, all but the label, which the calendar may say."""
        return self.model_dump(exclude={"cron", "name", "label"}, exclude_none=True)

    @property
    def named_targets(self) -> list[str]:
        """Empty where all are meant, or the next in turn."""
        return [*self.told.get("targets", ()), *([self.told["target"]] if "target" in self.told else ())]


class FullSchedule(Schedule):
    """``label``: only a backup with all parts is one of the nights that a retention counts, so that none without media takes the place of a whole one."""

    parts: list[Literal["database", "media", "configuration"]] | None = Field(None, min_length=1)
    label: _Label | None = None
    targets: _Targets | None = None

    @field_validator("label")
    @classmethod
    def _nights_are_whole(cls, label: _Label | None, info: ValidationInfo) -> _Label | None:
        if label in (None, "manual") or _all(info.data.get("parts")):
            return label
        raise ValueError(
            "manual, where parts are left out: what is labelled so takes the place of a whole backup in a retention"
        )

    @property
    def is_whole(self) -> bool:
        return _all(self.parts)

    @property
    def own_name(self) -> str:
        """By its parts unless it has a name."""
        return self.name or "_".join(self.parts or ())


def _all(parts: Sequence[Part] | None) -> bool:
    return parts is None or set(parts) == set(FULL.parts)


class BaseSchedule(Schedule):
    """``type``: ``auto`` and ``incremental`` copy what changed since the last one, ``differential`` what changed since the last full one."""

    type: Literal["full", "differential", "incremental", "auto"] = "full"
    label: _Label | None = None
    targets: _Targets | None = None

    @property
    def own_name(self) -> str:
        """By its type unless it has a name."""
        return self.name or {"full": "", "auto": "incremental"}.get(self.type, self.type)


class ConfigurationSchedule(Schedule):
    label: _Label | None = None
    targets: _Targets | None = None


class DrillSchedule(Schedule):
    """``target``: the next in turn unless given. ``recovery``: whether the newest base backup is recovered, too."""

    target: Name | None = None
    recovery: bool | None = None


class ScrubSchedule(Schedule):
    """``all``: everything is read, whenever it was read last."""

    targets: _Targets | None = None
    all: bool | None = None


def _as_schedules(given: Any) -> Any:
    """One text is the only entry; nothing is none."""
    return () if given is None else [{"cron": _cron(given)}] if isinstance(given, str) else given


_Kind = TypeVar("_Kind", bound=Schedule)
Several = Annotated[tuple[_Kind, ...], BeforeValidator(_as_schedules)]


def _at(cron: str) -> Any:
    return Field(cron, validate_default=True)


class ScheduleSettings(Section):
    """When what is launched by itself, as cron says it: one text, or several entries; null turns one off."""

    time_zone: str = "UTC"
    full: Several[FullSchedule] = _at("0 2 * * *")
    configuration: Several[ConfigurationSchedule] = _at("0 4 * * *")
    #: The bases count where the settings have a section ``wal``; a list of ``base`` says all, incremental ones too.
    base: Several[BaseSchedule] = _at("0 1 * * 0")
    base_incremental: Cron | None = "0 1 * * 1-6"
    #: Reserved.
    tenants: Cron | None = "0 3 * * 0"
    drill: Several[DrillSchedule] = _at("0 5 1 * *")
    scrub: Several[ScrubSchedule] = _at("0 6 * * *")
    #: Hours before a night's backup, while somebody is there to see to a target.
    test_targets: Several[Schedule] = _at("0 12 * * *")
    #: After every scheduled full backup.
    verify: bool = True
    #: After backups.
    cleanup: bool = True
    #: How long a scheduled run waits for another operation.
    patience: Duration = timedelta(hours=6)

    @model_validator(mode="before")
    @classmethod
    def _a_list_says_all(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("base"), list):
            return {"base_incremental": None, **given}
        return given

    @model_validator(mode="after")
    def _told_apart(self) -> ScheduleSettings:
        seen = set[tuple[ScheduleKind, str]]()
        for kind, each in self.several():
            if (kind, each.own_name) in seen:
                raise ValueError(
                    f"a name of its own for each of schedules.{kind}, and several are {each.own_name or kind}: set name"
                )
            seen.add((kind, each.own_name))
        return self

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("the name of a time zone, such as Europe/Berlin or UTC") from None
        return name

    def several(self) -> Iterator[tuple[ScheduleKind, Schedule]]:
        """All entries, each with its kind."""
        for kind in get_args(ScheduleKind):
            yield from ((kind, each) for each in getattr(self, kind))
            if kind == "base" and self.base_incremental is not None:
                yield kind, BaseSchedule(cron=self.base_incremental, type="auto")
