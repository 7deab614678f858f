"""URLs that name a storage target to ``twist-dr recover``. No part of one is shown that may be a secret: arguments can be read by everybody on a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from twist_dr.errors import SettingsError

#: The environment variable with the password of a URL's user, or the passphrase of his key.
PASSWORD_VARIABLE = "TWIST_DR_TARGET_PASSWORD"
PASSWORD_REMEDY = (
    f"put it into the environment variable {PASSWORD_VARIABLE}: arguments can be read by everybody on this machine"
)


def split_url(
    url: str, form: str, allowed: Sequence[str], remedy: str = PASSWORD_REMEDY, *, user: bool = True
) -> tuple[SplitResult, Mapping[str, str]]:
    """The parts of a URL like ``form``, and what stands behind its question mark, of which ``allowed`` may each stand there once.

    ``user``: whether it names one. Raises ``SettingsError``.
    """
    try:
        parts = urlsplit(url)
        wanted = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        _ = parts.port  # one that is none raises only when it is asked for
    except ValueError:
        raise SettingsError(f"--from-target is not a URL like {form}", remedy="correct it") from None
    if parts.password is not None or ("@" in parts.netloc and not user):
        raise SettingsError(f"--from-target has a {'' if user else 'user or '}password in its URL", remedy=remedy)
    parameters = dict(wanted)
    if len(parameters) != len(wanted) or set(parameters) - set(allowed) or parts.fragment:
        takes = (
            f"{' and '.join(allowed)} behind the question mark, each once"
            if allowed
            else "nothing behind a question mark"
        )
        raise SettingsError(
            f"--from-target takes {takes}",
            remedy=f"{remedy}. For anything else of a target, describe it in a YAML file",
        )
    return parts, parameters


def user_of(parts: SplitResult, form: str) -> str:
    """Raises ``SettingsError`` where it names none."""
    if not parts.hostname or not parts.username:
        raise SettingsError(f"--from-target is not a URL like {form}", remedy="name the user and the host in it")
    return unquote(parts.username)


def given_password(*, needed: bool = True) -> str | None:
    """What :data:`PASSWORD_VARIABLE` holds. Raises ``SettingsError`` where it is ``needed`` and not set."""
    password = os.environ.get(PASSWORD_VARIABLE) or None
    if password is None and needed:
        raise SettingsError("--from-target names a user, and no password is given", remedy=PASSWORD_REMEDY)
    return password
