"""Asking the owner of an account to let us store there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from twist_dr.errors import SettingsError, TargetReauthorize
from twist_dr.operations.operation import Config
from twist_dr.settings import Application
from twist_dr.watch import audit


def _nobody(what: str) -> str:
    raise TargetReauthorize(
        f"Nobody is here to be asked: {what}", remedy="run twist-dr targets authorize on a terminal"
    )


class AuthorizeConfig(Config):
    """Told nothing, it authorizes the only target that needs it."""

    target: str = Field("", description="a storage target of the settings; empty: the only one whose owner is asked")
    by: Literal["", "device", "address", "token"] = Field(
        "", description="how; empty: as the target needs it; token: paste what rclone authorised"
    )
    ask: Callable[[str], str] = Field(_nobody, description="how a person is asked for what is pasted")


@dataclass(frozen=True)
class Authorized:
    """Whose account a target uses from now on. ``ends``: when the grant ends; None where that is not known beforehand. ``idle_days``: unused for so long, it ends."""

    target: str
    provider: str
    account: str
    scopes: tuple[str, ...]
    ends: datetime | None
    idle_days: int | None


def authorize_target(app: Application, config: AuthorizeConfig) -> Authorized:
    """Ask the owner, and keep the grant in the secrets file. Raises ``SettingsError``, storage errors, and those of the secrets file."""
    from twist_dr.storage.oauth_flows import Talk, authorize

    name = config.target or _only(app)
    options = app.settings.storage_targets.get(name)
    client = options.oauth if options is not None else None
    if client is None:
        what = "needs no authorization by its owner" if options is not None else "is no storage target of the settings"
        raise SettingsError(f"{name} {what}", remedy=_choice(_asked(app)))
    with audit.noting(app, action="authorize target", subject=name) as details:
        grant = authorize(client, name, Talk(app.report.info, config.ask), config.by or None)
        with app.settings.secrets_file.held(name) as held:
            held.commit(grant)
        details |= {"provider": client.provider.name, "account": grant.account, "scopes": grant.scopes}
    idle = client.provider.idle
    return Authorized(name, client.provider.name, grant.account, grant.scopes, grant.ends, idle.days if idle else None)


def _asked(app: Application) -> list[str]:
    return [name for name, options in app.settings.storage_targets.items() if options.oauth is not None]


def _choice(names: Sequence[str]) -> str:
    if not names:
        return "run it for a drive of Google, Microsoft or Dropbox; there is none in the settings"
    return f"name one of: {', '.join(names)}"


def _only(app: Application) -> str:
    names = _asked(app)
    if len(names) != 1:
        raise SettingsError(
            "Which storage target? Say its name: twist-dr targets authorize NAME",
            remedy=_choice(names),
        )
    return names[0]
