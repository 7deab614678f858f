"""Triggers on login (PostgreSQL 17 and newer): code of a database that runs in our sessions there, as our role.

Only a superuser makes one, but its function may be another role's, who then changes what it does. Superusers, and roles with the right
to set ``event_triggers``, switch them off; others cannot (PostgreSQL, "Event Trigger Behavior").
"""

from __future__ import annotations

from dataclasses import dataclass

from twist_dr.postgres.cluster import Connection, query
from twist_dr.postgres.sessions import spared_login_triggers


@dataclass(frozen=True)
class LoginTrigger:
    """One that ran in the connection's session. ``owner`` is its function's; ``trusted``: a superuser."""

    name: str
    owner: str
    trusted: bool
    role: str
    """Ours, quoted."""

    def __str__(self) -> str:
        whose = f"a function of {self.owner}{'' if self.trusted else ', who is no superuser'},"
        return f"the trigger {self.name} on login runs {whose} as role {self.role} whenever we connect"

    @property
    def remedy(self) -> str:
        """The statement with which our sessions are spared it."""
        return f"GRANT SET ON PARAMETER event_triggers TO {self.role};  -- as a superuser: twist-dr then switches them off for its own sessions"


def login_triggers(connection: Connection) -> list[LoginTrigger]:
    """Those of the connection's database from which its role is not spared, by name."""
    if spared_login_triggers(connection):
        return []
    rows = query(
        connection,
        """SELECT e.evtname, pg_get_userbyid(p.proowner), r.rolsuper, quote_ident(session_user)
             FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_roles r ON r.oid = p.proowner
            WHERE e.evtevent = 'login' AND e.evtenabled IN ('O', 'A') ORDER BY 1""",
    )
    return [LoginTrigger(*row) for row in rows]
