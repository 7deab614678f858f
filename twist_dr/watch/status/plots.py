"""Plots of the last 90 days as SVG: durations, sizes, space by storage target, success by day.

They are read on light and dark pages and on paper: no background, and colours that stand out on both.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from twist_dr.catalog import BackupRow, SpaceRow
from twist_dr.settings import Application
from twist_dr.system.progress import human_bytes, human_seconds
from twist_dr.system.words import counted
from twist_dr.watch.status.collect import RATE_DAYS
from twist_dr.watch.status.model import DaySuccess, Status

#: Backups in a plot: one every hour. More would only be a thicker line.
_MOST = 2200
#: Of middle brightness, and told apart by people who see few colours (Okabe and Ito, without black and yellow).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK = "#808080"
_GOOD, _BAD = "#009e73", "#d55e00"


@dataclass(frozen=True)
class Plot:
    """One plot. ``told``: the same in a sentence, for those who do not see it."""

    title: str
    svg: str
    told: str


def plots(app: Application, status: Status) -> list[Plot]:
    """The four plots; one for which nothing is known yet says so."""
    since = status.now - timedelta(days=RATE_DAYS)
    rows = app.catalog.backups(application=app.name, since=since, until=status.now, limit=_MOST)
    space = {name: app.catalog.space(name, since=since) for name in app.settings.enabled_targets}
    drawn = [
        ("Durations of backups", *_durations(rows)),
        ("Sizes of backups", *_sizes(rows)),
        ("Space used by storage target", *_space(space, status)),
        ("Runs by day", *_success(status.success)),
    ]
    return [
        Plot(title, _svg(title, number, draw, since, status.now), told)
        for number, (title, draw, told) in enumerate(drawn)
    ]


_Draw = Callable[[Any], None]


def _durations(rows: Sequence[BackupRow]) -> tuple[_Draw, str]:
    def of(row: BackupRow) -> float:
        return (row.finished_at - row.started_at).total_seconds()

    return _by_kind(rows, of, human_seconds)


def _sizes(rows: Sequence[BackupRow]) -> tuple[_Draw, str]:
    return _by_kind(rows, lambda row: row.plain_bytes, human_bytes)


def _by_kind(
    rows: Sequence[BackupRow], value: Callable[[BackupRow], float], human: Callable[[float], str]
) -> tuple[_Draw, str]:
    kinds = sorted({row.kind for row in rows})
    series = {kind: [(row.started_at, value(row)) for row in reversed(rows) if row.kind == kind] for kind in kinds}

    def draw(axes: Any) -> None:
        for colour, (kind, points) in zip(_COLOURS, series.items(), strict=False):
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, color=colour, label=kind)
        _in_words(axes, human)

    told = "; ".join(
        f"{kind}: {len(points)}, the last {human(points[-1][1])}, {human(min(value for _, value in points))} to {human(max(value for _, value in points))}"
        for kind, points in series.items()
    )
    return draw, told or "no backups in this time"


def _space(space: Mapping[str, Sequence[SpaceRow]], status: Status) -> tuple[_Draw, str]:
    series = {
        name: [(row.at, row.used_bytes) for row in rows if row.used_bytes is not None] for name, rows in space.items()
    }
    for target in status.targets:
        if target.name in series and not series[target.name] and target.copies:
            # No sample was taken yet: what the catalog counts is one.
            series[target.name] = [(status.now, target.used_bytes)]

    def draw(axes: Any) -> None:
        for colour, (name, points) in zip(_COLOURS * len(series), series.items(), strict=False):
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, color=colour, label=name)
        _in_words(axes, human_bytes)

    told = "; ".join(f"{name}: {human_bytes(points[-1][1])}" for name, points in series.items() if points)
    return draw, told or "nothing is known yet"


def _success(days: Sequence[DaySuccess]) -> tuple[_Draw, str]:
    def draw(axes: Any) -> None:
        when = [datetime(each.day.year, each.day.month, each.day.day, 12, tzinfo=timezone.utc) for each in days]
        good, bad = [each.succeeded for each in days], [each.failed for each in days]
        if days:
            axes.bar(when, good, width=0.8, color=_GOOD, label="succeeded")
            # Hatched as well: on paper without colour, too, it must be seen which are which.
            axes.bar(when, bad, width=0.8, bottom=good, color=_BAD, hatch="///", label="failed")
        axes.yaxis.get_major_locator().set_params(integer=True)

    succeeded, failed = sum(day.succeeded for day in days), sum(day.failed for day in days)
    return (
        draw,
        f"{counted(succeeded, 'run')} succeeded, {failed} failed, on {counted(len(days), 'day')}"
        if days
        else "no runs in this time",
    )


def _in_words(axes: Any, human: Callable[[float], str]) -> None:
    axes.yaxis.set_major_formatter(lambda value, position: human(value))


def _svg(title: str, number: int, draw: _Draw, since: datetime, until: datetime) -> str:
    # Not pyplot, which keeps state and looks for a display.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.dates import DateFormatter, date2num
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": str(number), "font.size": 9, "font.family": "sans-serif",
             "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK}  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        axes.set_xlim(*date2num([since, until + (until - since) / 50]))  # type: ignore[no-untyped-call]
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(axis="y", color=_INK, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", rotation=0)
        axes.xaxis_date()
        axes.xaxis.set_major_formatter(DateFormatter("%d %b", tz=timezone.utc))  # type: ignore[no-untyped-call]
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", fontsize=8, framealpha=0, ncols=3)
        else:
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embedded(out.getvalue(), f"plot{number}-")


def _embedded(svg: str, prefix: str) -> str:
    """An SVG file as an element of a page: no prologue, which names other hosts, and ids that no other plot has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    return re.sub(r"(url\(|href=\")#", rf"\1#{prefix}", svg).strip()
