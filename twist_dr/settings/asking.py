"""How the application is asked, from the settings: through manage.py, and by a command of its own."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from twist_dr.django_app.asking import VersionCommand
from twist_dr.django_app.manage import DjangoApplication
from twist_dr.settings.whole import Settings


def django_application(settings: Settings) -> DjangoApplication | None:
    """How to call manage.py, where the settings say."""
    django = settings.django
    if django is None:
        return None
    return DjangoApplication(django.manage, django.folder, revealed(django.environment), django.database_variable)


def app_version(settings: Settings) -> str | VersionCommand | None:
    """The application's version, or the command that prints it."""
    wanted, django = settings.app_version, django_application(settings)
    if wanted is None or isinstance(wanted, str):
        return wanted
    return VersionCommand(wanted.command, django.folder, django.variables) if django else VersionCommand(wanted.command)


def revealed(environment: Mapping[str, SecretStr]) -> dict[str, str]:
    """The values of an environment of the settings. Secrets."""
    return {name: value.get_secret_value() for name, value in environment.items()}
