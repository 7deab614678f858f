"""What every job that may replace what is live asks of its run config."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from twist_dr.engine.restore.plan import Mode
from twist_dr.errors import LaunchRefused, RestoreRefused
from twist_dr.settings import Application, Settings


def refuse_careless(settings: Settings, what: str, *, source: str, mode: Mode, reason: str, confirm: str) -> None:
    """Raise ``LaunchRefused`` or ``RestoreRefused`` unless the target exists and whoever asks shows that it is meant. ``what``: "A restore"."""
    if source not in ("any", *settings.enabled_targets):
        raise LaunchRefused(
            f"{source!r} is no enabled storage target; choose among {', '.join(settings.enabled_targets)}, or write 'any' in source."
        )
    if mode != "plan" and not reason.strip():
        raise RestoreRefused(f"{what} needs a reason, for those who find it later; write it in reason.")
    if mode == "replace" and confirm != settings.application:
        raise RestoreRefused(
            f"Replacing what is live needs the application's name, {settings.application}, typed in confirm; launch the plan first if you are not sure."
        )


def alone(app: Application, what: str, mode: Mode) -> AbstractContextManager[None]:
    """The application's lock; a plan changes nothing, and takes none."""
    return nullcontext() if mode == "plan" else app.lock(what)
