"""Rules about grants: what the owner of a drive allowed, and how long that lasts (docs/authorize.md)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, time, timedelta, timezone

from twist_dr.errors import TargetReauthorize
from twist_dr.settings import Settings
from twist_dr.system.severity import Severity
from twist_dr.system.words import command
from twist_dr.watch.alerts.facts import Facts
from twist_dr.watch.alerts.rules_common import Finding, human, shortened
from twist_dr.watch.alerts.rules_targets import last_use

#: Somebody who is on holiday comes back within the first, and nobody sleeps over the second.
_SOON, _AT_ONCE = timedelta(days=30), timedelta(days=3)


def reauthorize(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A target's owner must allow its use anew, or for the first time. What was met before he last did is over."""
    for name, target in settings.enabled_targets.items():
        client, kept, last = target.oauth, facts.grants.get(name), last_use(facts, name)
        if client is None or kept is None:
            continue
        service = client.provider.service
        what = None
        if kept.error is not None:
            what = f"{service} cannot be used: {kept.error}"
        elif kept.grant is None:
            what = f"{service} cannot be used: nobody has authorized {name} yet, or the secrets file lost it"
        elif last is not None and last.code == TargetReauthorize.code and last.at >= kept.grant.granted:
            what = f"{service} {last.doing} failed: reauthorize {name} ({shortened((last.error or '').rstrip('.'))})"
        elif kept.grant.ends is not None and kept.grant.ends <= now:
            what = f"{service} cannot be used: the grant of {name} ended at {kept.grant.ends:%Y-%m-%d %H:%M} UTC"
        if what is not None:
            yield Finding(
                f"reauthorize:{name}", "reauthorize", "error", f"{what.rstrip('.')}.",
                f"Run: twist-dr targets authorize {name}, then: {command('test_storage_targets')}", target=name,
            )  # fmt: skip


def ending(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """A grant ends at a time that is known: its provider said so, or it is not used. Targets that are disabled, too: theirs are not."""
    for name, target in settings.storage_targets.items():
        kept = facts.grants.get(name)
        if target.oauth is None or kept is None or kept.grant is None:
            continue
        grant, provider = kept.grant, target.oauth.provider
        used = grant.refreshed or grant.granted
        idle_end = used + provider.idle if provider.idle else None
        if grant.ends is not None and now < grant.ends <= now + _SOON:
            yield Finding(
                f"grant_ends:{name}", "grant_ends", _severity(grant.ends, now),
                f"The grant of {name} ends in {human(grant.ends - now)}, as {provider.name} said when it was given: so do those of a client in testing.",
                f"Publish the client at {provider.name} (docs/authorize.md), or the next one ends as soon; then run: twist-dr targets authorize {name}",
                target=name,
            )  # fmt: skip
        elif idle_end is not None and now < idle_end <= now + _SOON:
            yield Finding(
                f"grant_ends:{name}", "grant_ends", _severity(idle_end, now),
                f"The grant of {name} ends in {human(idle_end - now)}: it has not been used for {human(now - used)}, "
                f"and {provider.name} ends one after {human(provider.idle or timedelta())}.",
                f"Use it once: enable the target and run {command('test_storage_targets')}", target=name,
            )  # fmt: skip


def client_secret(facts: Facts, settings: Settings, now: datetime) -> Iterator[Finding]:
    """The secret of the client by which a provider knows us ends on a day that its owner noted down."""
    for name, target in settings.enabled_targets.items():
        day = target.oauth.secret_expires if target.oauth is not None else None
        end = None if day is None else datetime.combine(day, time(), timezone.utc)
        if target.oauth is None or end is None or end > now + _SOON:
            continue
        when = f"ends in {human(end - now)}" if end > now else "has ended"
        yield Finding(
            f"client_secret:{name}", "client_secret", _severity(end, now),
            f"The client secret of {name} {when} (client_secret_expires: {day}); without it {target.oauth.provider.name} gives no token.",
            f"Make a new one at {target.oauth.provider.name} (docs/authorize.md), tell it to twist-dr secrets set, and correct "
            f"storage_targets.{name}.client_secret_expires", target=name,
        )  # fmt: skip


def _severity(end: datetime, now: datetime) -> Severity:
    return "error" if end - now < _AT_ONCE else "warning"
