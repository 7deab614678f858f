"""What a manifest says of the application's Django, and how that differs from what runs now."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from twist_dr.system.words import few


class DjangoDatabase(BaseModel):
    """One alias of DATABASES, without user and password. ``name`` is a path for SQLite; ``host`` may be the folder of a socket, or empty."""

    model_config = ConfigDict(frozen=True, extra="allow")

    engine: str
    name: str
    host: str


class DjangoFacts(BaseModel):
    """What the application's code was when the backup was made, as its own settings say. ``databases``: by alias."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    python: str
    installed_apps: list[str]
    databases: dict[str, DjangoDatabase]

    def differences(self, now: DjangoFacts) -> list[str]:
        """What is otherwise ``now``, in sentences without a full stop."""
        told = [
            f"the backup was made under {what} {then}, and now it is {since}"
            for what, then, since in (("Django", self.version, now.version), ("Python", self.python, now.python))
            if then != since
        ]
        if gone := [app for app in self.installed_apps if app not in now.installed_apps]:
            told.append(f"INSTALLED_APPS had {few(gone)}, which the code has no more")
        if new := [app for app in now.installed_apps if app not in self.installed_apps]:
            told.append(f"INSTALLED_APPS has {few(new)}, which were not there when the backup was made")
        return told
