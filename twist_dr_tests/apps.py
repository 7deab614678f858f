"""Applications for tests that call what jobs and commands call."""

from __future__ import annotations

from typing import Any

from twist_dr.settings import Actor, Application, Settings, user_of_this_machine


def application(settings: Settings, actor: Actor | None = None, **made: Any) -> Application:
    """As a terminal opens it; ``made``: a catalog, a keyring, or targets in the place of those that the settings lead to."""
    app = Application(settings, actor or user_of_this_machine())
    # As if they had been asked for already.
    app.__dict__.update(made)
    return app
