"""A status as a report with plots: Markdown for Dagster's page, and one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape as quoted
from pathlib import Path

from twist_dr.redaction import leaving, visible
from twist_dr.settings import Settings
from twist_dr.system.documents import replace_file
from twist_dr.system.progress import human_age, human_bytes, human_seconds
from twist_dr.watch.status.model import Status
from twist_dr.watch.status.plots import Plot
from twist_dr.watch.status.text import headline

_Table = tuple[str, Sequence[str], list[Sequence[str]]]

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #ffffff; --line: #cccccc; --good: #00694d; --warn: #8a5a00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #16181c; --line: #444444; --good: #4fc9a1; --warn: #e5b454; --bad: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2rem; }
.state { font-weight: 700; border-left: .5rem solid; padding: .5rem 1rem; }
.safe { color: var(--good); } .degraded { color: var(--warn); } .unsafe { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: break-word; } th { white-space: nowrap; }
figure { margin: 1rem 0; break-inside: avoid; } figure svg { width: 100%; height: auto; } figcaption { font-size: .9rem; }
@media print { :root { --ink: #000000; --page: #ffffff; --line: #999999; --good: #00694d; --warn: #8a5a00; --bad: #b3261e; } body { margin: 0; max-width: none; font-size: 11px; } tr { break-inside: avoid; } }
"""


def markdown(status: Status, drawn: Sequence[Plot]) -> str:
    """For Dagster's page, which shows pictures inside Markdown only as data."""
    lines = [f"# {_md(headline(status))}", "", f"{_time(status.now)} UTC. Health {status.score} of 100.", ""]
    lines += [f"- **{reason.state}**: {_md(reason.text)}" for reason in status.reasons]
    for title, head, rows in _tables(status):
        lines += ["", f"## {title}", ""]
        if not rows:
            lines.append("none")
            continue
        lines += [_md_row(head), _md_row(["---"] * len(head)), *(_md_row([_md(cell) for cell in row]) for row in rows)]
    for plot in drawn:
        data = base64.b64encode(plot.svg.encode()).decode()
        lines += [
            "",
            f"## {plot.title}",
            "",
            f"![{_md(plot.told)}](data:image/svg+xml;base64,{data})",
            "",
            _md(plot.told),
        ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """A text as HTML shows it, with escapes for what would not be seen."""
    return quoted(visible(text))


def html(status: Status, drawn: Sequence[Plot]) -> str:
    """One page that needs nothing beside it: for a browser, for paper, for those who are far from Dagster."""
    title = f"{status.application}: {status.state}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>',
            # Whatever were to slip in here could neither run nor fetch anything.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>",
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>",
            f"<body><main><h1>Is {escape(status.application)} safe?</h1>",
            f'<p class="state {status.state}">{escape(headline(status))}</p>',
            f'<p>As of <time datetime="{status.now.isoformat()}">{_time(status.now)} UTC</time>. Health {status.score} of 100.</p>',
            *_html_reasons(status),
            *(line for table in _tables(status) for line in _html_table(table)),
            "<h2>The last 90 days</h2>",
            *(line for plot in drawn for line in _html_plot(plot)),
            "</main></body></html>",
        ]
    )


def write_report(settings: Settings, page: str) -> Path:
    """Put the HTML page where it is looked for, whole or not at all; returns where that is."""
    path = settings.work_dir / "report" / f"{settings.application}.html"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Names of files may hold bytes that are no text.
    replace_file(path, leaving(page).encode("utf-8", "backslashreplace"))
    return path


# -- what it tells ----------------------------------------------------------------------------------------------------


def _tables(status: Status) -> Iterator[_Table]:
    point = status.recovery_point
    proof, restore, media = status.last_verified, status.last_restore, status.media_point
    facts = [
        ("recovery point", f"{_time(point.at)} UTC, {human_age(point.age)} old, from {point.backup_id} on {', '.join(point.targets)}" if point else "none that is verified"),
        ("objective", human_age(status.recovery_point_objective)),
        *([("media", f"{_time(media.at)} UTC, {human_age(media.age)} old, from {media.backup_id}, objective {human_age(status.media_objective)}" if media else "none that is verified")]
          if status.media_objective is not None else []),
        ("last verified", f"{proof.backup_id}, {_time(proof.verified_at)} UTC from {proof.target}, by {proof.proved}" if proof else "never"),
        ("last restore", f"{restore.restore_id} ({restore.mode}), {_time(restore.started_at)} UTC by {restore.who}: {restore.state}" if restore else "never"),
        *(("running", f"{run.job} since {_time(run.since)} UTC, by {run.who}") for run in status.running),
    ]  # fmt: skip
    yield "Recovery", ("what", "how it stands"), list(facts)
    alerts = [
        (alert.severity, alert.message, alert.advice, f"by {alert.acknowledged_by}" if alert.acknowledged_by else "no")
        for alert in status.alerts
    ]
    yield "Alerts", ("severity", "what", "what to do", "acknowledged"), list(alerts)
    yield "Newest backups", ("kind", "backup", "taken (UTC)", "size", "took", "copies", "verified"), [
        (each.kind, each.backup_id, _time(each.started_at), human_bytes(each.plain_bytes), human_seconds(each.seconds),
         ", ".join(f"{name}: {state}" for name, state in each.copies.items()) or "none", {True: "yes", False: "FAILED", None: "no"}[each.verified])
        for each in status.backups
    ]  # fmt: skip
    yield "Storage targets", ("target", "state", "newest copy", "objective", "copies", "corrupt", "used", "free", "full in", "log ends"), [
        (each.name, each.state if each.enabled else "disabled", _ago(each.age), "-" if each.objective is None else human_age(each.objective), str(each.copies), str(each.corrupt),
         human_bytes(each.used_bytes), "-" if each.free is None else human_bytes(each.free),
         "-" if each.days_until_full is None else f"{each.days_until_full:.0f} days", _ago(each.wal.age) if each.wal else "-")
        for each in status.targets
    ]  # fmt: skip
    yield (
        "Health",
        ("part", "points", "of", "because"),
        [(part.name, f"{part.points:g}", f"{part.most:g}", part.because) for part in status.score_parts],
    )
    runs = [(_time(run.at), run.name) for run in status.next_runs]
    yield "Next runs", ("when (UTC)", "what"), [*runs, *(("-", why) for why in status.next_not)]


def _ago(age: float | None) -> str:
    return "never" if age is None else f"{human_age(age)} ago"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


# -- how it is written ------------------------------------------------------------------------------------------------


def _html_reasons(status: Status) -> list[str]:
    if not status.reasons:
        return []
    items = [f'<li class="{each.state}">{escape(each.state)}: {escape(each.text)}</li>' for each in status.reasons]
    return ["<ul>", *items, "</ul>"]


def _html_table(table: _Table) -> list[str]:
    title, head, rows = table
    if not rows:
        return [f"<h2>{escape(title)}</h2>", "<p>none</p>"]
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return [f"<h2>{escape(title)}</h2>", f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table>',
            f"<thead><tr>{cells}</tr></thead><tbody>", *lines, "</tbody></table></div>"]  # fmt: skip


def _html_plot(plot: Plot) -> list[str]:
    named = plot.svg.replace("<svg", f'<svg role="img" aria-label="{escape(plot.title)}"', 1)
    return ["<figure>", named, f"<figcaption>{escape(plot.title)}: {escape(plot.told)}</figcaption>", "</figure>"]


def _md(text: str) -> str:
    """Text that Markdown and the HTML in it leave as it is, on one line."""
    line = " ".join(text.split())
    for each in "\\`*_[]<>|#&":
        line = line.replace(each, f"\\{each}" if each not in "<>&" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}[each])
    return line


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
