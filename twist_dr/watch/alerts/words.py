"""What people read: subject and body of a message about an alert."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timezone
from urllib.parse import quote, urlsplit, urlunsplit

from twist_dr.catalog import AlertRow
from twist_dr.system.progress import human_seconds
from twist_dr.watch.alerts.channels import AlertEvent, Message

#: Characters: what a list of mails shows, and what every service takes.
LONGEST_SUBJECT = 120
LONGEST_TEXT = 3000

#: Kinds whose name with spaces for underscores is not what a person would say.
_KINDS = {
    "partial": "backup is not on every storage target",
    "missed": "scheduled backup was missed",
    "size_deviation": "backup has an unusual size",
    "row_drop": "tables lost rows",
    "duration": "unusually slow",
    "no_recovery_point": "no verified recovery point within the objective",
    "media_age": "no verified backup with media within the objective",
    "archived_position": "write-ahead log is behind",
    "wal_gap": "write-ahead log has a gap",
    "wal_conflict": "two servers write the same write-ahead log",
    "wal_refused": "what arrives is no write-ahead log",
    "spool": "write-ahead log waits in the spool",
    "clock": "the clock is wrong",
    "integrity": "corrupt or missing copy",
    "repaired": "corrupt or missing copy was repaired",
    "credentials": "credentials need renewal",
    "reauthorize": "backup failed: reauthorize",
    "grant_ends": "a drive must soon be authorized again",
    "client_secret": "a client secret ends",
    "capacity": "storage target is filling up",
    "capability": "storage target can do less than before",
    "target_clock": "clock of a storage target is wrong",
    "slow_target": "storage target gets slow",
    "upload_limit": "daily limit of a storage target is near",
    "staging": "disk for staging is filling up",
    "target_unreachable": "storage target is not there",
    "target_objective": "storage target is out of date",
    "channel": "messages do not arrive",
    "stale": "a change was not loaded",
}


def compose(alert: AlertRow, event: AlertEvent, *, now: datetime, dagster_url: str | None = None) -> Message:
    """The message about an alert: what, what to do, since when, how often, where to look, how to have it quiet.

    The subject is one line of ASCII, at most ``LONGEST_SUBJECT`` long; the body is plain text, bounded as well. ``dagster_url``: where the
    page is, for a link to the run.
    """
    return Message(_subject(alert, event), _body(alert, event, now, dagster_url), alert.severity, event)


def kind_in_words(kind: str) -> str:
    """``backup_failed`` as a person says it."""
    return _KINDS.get(kind, kind.replace("_", " "))


def _subject(alert: AlertRow, event: AlertEvent) -> str:
    state = "RESOLVED" if event == "resolved" else alert.severity.upper()
    again = " (still)" if event == "again" else ""
    # backup_failed:backup_full, capacity:office: to what it happened.
    _, _, what = alert.cause.partition(":")
    subject = f"[{alert.application}] {state}: {kind_in_words(alert.kind)}" + (f" ({what})" if what else "") + again
    return _shortened(_ascii_line(subject), LONGEST_SUBJECT)


def _body(alert: AlertRow, event: AlertEvent, now: datetime, dagster_url: str | None) -> str:
    message = _shortened(_clean(alert.message), LONGEST_TEXT)
    advice = _shortened(_clean(alert.advice), LONGEST_TEXT)
    facts = [
        f"Application: {_clean(alert.application)}",
        f"Severity: {alert.severity}",
        f"Since: {_time(alert.raised_at)}",
    ]
    if event == "resolved":
        ended = alert.resolved_at or now
        facts.append(f"Resolved: {_time(ended)}, after {_lasted(alert.raised_at, ended)}" + _by(alert.resolved_by))
    else:
        facts[-1] += f" ({_lasted(alert.raised_at, now)} ago)"
    if alert.times > 1:
        facts.append(f"Seen: {alert.times} times")
    if alert.acknowledged_at is not None:
        facts.append(f"Acknowledged: {_time(alert.acknowledged_at)}" + _by(alert.acknowledged_by))
    if alert.run_id and (link := run_link(dagster_url, alert.run_id)):
        facts.append(f"Run: {link}")
    elif alert.run_id:
        facts.append(f"Run: {_clean(alert.run_id)}")
    if event == "resolved":
        parts = ["It is over. What was told:", message, "\n".join(facts)]
    else:
        parts = [_why_now(event), message, advice and f"What to do: {advice}", "\n".join(facts)]
        if alert.id is not None and alert.acknowledged_at is None:
            parts.append(f"To have it quiet while you see to it: twist-dr alerts acknowledge {alert.id}")
    return "\n\n".join(part for part in parts if part) + "\n"


def run_link(dagster_url: str | None, run_id: str) -> str | None:
    """Where a run's page is; without a name and password that the settings' URL may carry."""
    if not dagster_url:
        return None
    parts = urlsplit(dagster_url)
    path = f"{parts.path.rstrip('/')}/runs/{quote(run_id, safe='')}"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))


def _why_now(event: AlertEvent) -> str:
    return {
        "worse": "It has become worse since it was first told.",
        "again": "Nobody has acknowledged this yet, so it is told again.",
    }.get(event, "")


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _lasted(begin: datetime, end: datetime) -> str:
    # A clock that was set back must not show in a message as a negative time.
    seconds = max(0.0, (end - begin).total_seconds())
    days, rest = divmod(seconds, 86400)
    return human_seconds(seconds) if days < 2 else f"{days:.0f} days {rest / 3600:.0f} h"


def _by(who: str | None) -> str:
    return f" by {_clean(who)}" if who else ""


def _clean(text: str) -> str:
    """Without control characters: what programs write for a terminal, and what would end a line of a protocol."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # The replacement also takes lone surrogates out of undecodable file names, which cannot be sent.
    kept = ["".join(each if each.isprintable() or each == "\t" else " " for each in line).rstrip() for line in lines]
    return "\n".join(kept).strip()


def _ascii_line(text: str) -> str:
    plain = unicodedata.normalize("NFKD", _clean(text))
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    return " ".join(plain.encode("ascii", "replace").decode("ascii").split())


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 4].rstrip() + " ..."
