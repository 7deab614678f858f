"""twist-dr.yaml: what is protected, and where its backups go.

The file is the one named by the environment variable ``TWIST_DR_CONFIG``, else ``twist-dr.yaml`` in the working folder.
``${NAME}`` in any value is replaced from the environment, ``$${`` stands for ``${``. Relative paths start at the file's
folder. Every mistake is reported at once, by its path in the file, with what was expected and what was found.
"""

from twist_dr.settings.actor import Actor, Permission, user_of_this_machine
from twist_dr.settings.application import Application, open_application
from twist_dr.settings.reading import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    digest_of,
    load_settings,
    parse_settings,
    present_path,
    settings_file,
    settings_for_secrets,
)
from twist_dr.settings.scheduling import ScheduleSettings
from twist_dr.settings.sections import DjangoSettings, WalSettings
from twist_dr.settings.targets import AnyTarget
from twist_dr.settings.unattended import AlertSettings, ChannelSettings
from twist_dr.settings.values import Name
from twist_dr.settings.whole import Settings

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "Actor",
    "AlertSettings",
    "AnyTarget",
    "Application",
    "ChannelSettings",
    "DjangoSettings",
    "Name",
    "Permission",
    "ScheduleSettings",
    "Settings",
    "WalSettings",
    "digest_of",
    "load_settings",
    "open_application",
    "parse_settings",
    "present_path",
    "settings_file",
    "settings_for_secrets",
    "user_of_this_machine",
]
