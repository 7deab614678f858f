"""The secrets and the names that this process knows, and the one function that every sentence passes on its way out."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote

from twist_dr.redaction.contexts import (
    HIDDEN,
    hide_contexts,
    is_about_secret,
    is_secret_name,
    looks_random,
    secrets_of,
    url_parts,
)
from twist_dr.redaction.services import server_of, tokens_of
from twist_dr.redaction.visible import visible

#: From here on a secret is hidden wherever it stands; a shorter one where it stands alone, or it would blot out parts of other words.
_LONG = 8
#: Even letters alone are no word any more.
_NO_WORD = 16
#: Shorter ones say nothing, and stand in every sentence.
_SHORTEST = 4
#: Words of letters, and numbers: every sentence is made of them. As a password they are hidden where a password stands.
_ORDINARY = re.compile(r"[A-Za-z]?[a-z]{0,6}|[0-9]{1,5}")
_ORDINARY_LONG = re.compile(r"[A-Za-z]?[a-z-]+")
#: What a variable such as PASSWORD_RESET_ENABLED holds.
_SWITCH = re.compile(r"(?i)true|false|yes|no|on|off|none|null|[0-9]{1,3}")
_OUR_WORDS = frozenset(
    ("password", "passwort", "database", "postgres", "postgresql", "recovery", "restored", "application", "production")
)


class _Known:
    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.names: set[str] = set()
        self._lock = threading.Lock()
        self._built: dict[bool, tuple[re.Pattern[str], list[str]]] = {}

    def add(self, secrets: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        secrets, names = set(secrets) - {""}, set(names) - {""}
        with self._lock:
            if not (secrets <= self.secrets and names <= self.names):
                self.secrets |= secrets
                self.names |= names
                self._built = {}

    def clear(self) -> None:
        with self._lock:
            self.secrets, self.names, self._built = set(), set(), {}

    def hide(self, text: str, *, strictly: bool = False) -> str:
        pattern, forms = self._compiled(strictly)
        folded = text.lower()
        if not any(form in folded for form in forms):
            return text
        return pattern.sub(lambda match: match[0] if match.lastgroup == "name" else HIDDEN, text)

    def _compiled(self, strictly: bool) -> tuple[re.Pattern[str], list[str]]:
        with self._lock:
            if strictly not in self._built:
                told = {form: how for secret in self.secrets for form, how in _patterns(secret, self.names, strictly)}
                forms = sorted(told, key=len, reverse=True)
                # A name that holds a secret stays whole: pretix_2026, where the password is pretix_20.
                names = sorted((name for name in self.names if any(form in name for form in forms)), key=len)[::-1]
                alternatives = [rf"(?P<name>{'|'.join(_alone(name) for name in names)})"] if names else []
                alternatives += [told[form] for form in forms]
                pattern = re.compile("|".join(alternatives) or "(?!)", re.IGNORECASE)
                self._built[strictly] = pattern, sorted({form.lower() for form in forms})
            return self._built[strictly]


def _patterns(secret: str, names: set[str], strictly: bool) -> Iterator[tuple[str, str]]:
    for form in _forms(secret):
        ordinary = len(form) < _SHORTEST or _ORDINARY.fullmatch(form) or form.lower() in _OUR_WORDS
        if form in names or (ordinary and not strictly) or not re.search(r"\w", form):
            continue
        anywhere = len(form) >= (_NO_WORD if form.isalpha() else _LONG)
        yield form, re.escape(form) if anywhere else _alone(form)


def _alone(word: str) -> str:
    return rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"


def _forms(secret: str) -> set[str]:
    """A secret as texts write it: as it is, encoded and decoded, and quoted for JSON, HTML, SQL and libpq."""
    raw = secret.encode("utf-8", "surrogateescape")
    plain, safe = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    return {
        secret, unquote(secret), quote(raw), quote(raw, safe=""), quote_plus(raw), json.dumps(secret)[1:-1], repr(secret)[1:-1],
        html.escape(secret), secret.replace("'", "''"), secret.replace("\\", "\\\\").replace("'", "\\'"), raw.hex(),
        plain, plain.rstrip("="), safe, safe.rstrip("="),
    }  # fmt: skip


_known = _Known()


def leaving(text: str) -> str:
    """A text as it may leave us: with ``***`` for every secret that this process knows, and where a secret would stand, and with
    escapes for what is not seen."""
    return visible(hide_contexts(_known.hide(text)))


def keep_secret(*secrets: str) -> None:
    """Remember secrets that stand for themselves: passwords, keys, tokens. Of several lines, each is one."""
    _known.add(line.strip() for secret in secrets for line in (secret, *secret.splitlines()))


def keep_url(*urls: str) -> None:
    """Remember what is secret of URLs (the password, tokens among the options), and what is a name (user, host, database)."""
    for url in urls:
        if "://" in url:
            _known.add(*url_parts(url))
        else:  # libpq takes "host=... password=..." in the place of a URL
            keep_text(url)


def keep_text(*texts: str) -> None:
    """Remember what stands in texts, such as commands, where secrets stand."""
    _known.add(secret for text in texts for secret in secrets_of(text))


def keep_names(*names: str) -> None:
    """Remember what is a name, and the words and folders that it consists of."""
    _known.add(names=(word for name in names for word in (name, *re.split(r"[\s/=,;:@]+", name))))


def keep_service_url(*urls: str) -> None:
    """Remember what is secret of URLs that are secrets as a whole: of a heartbeat, of a channel to people. Their path is a token."""
    for url in urls:
        secrets, _ = url_parts(url)
        words = {word for each in tokens_of(url) for word in (each, *re.split(r"[/:@?#&=,\s]+", each))}
        telling = (word for word in words if len(word) >= _LONG and not _ORDINARY_LONG.fullmatch(word))
        _known.add({*secrets, *telling}, names={server_of(url) or ""})


def keep_environment(environment: Mapping[str, str | None], *, names: bool = False) -> None:
    """Remember the secrets of an environment: variables that are one by their name, and those that are URLs, or hold some.

    ``names``: the others are names, if they do not look like a token.
    """
    for name, value in environment.items():
        if not value or _SWITCH.fullmatch(value):
            continue
        if "://" in value:
            keep_text(value)
            keep_url(value)
        elif is_secret_name(name):
            if not os.path.exists(value):
                keep_secret(value)
        elif names and looks_random(value) and not is_about_secret(name):
            keep_secret(value)
        elif names:
            keep_names(value)


def quoting(text: str) -> str:
    """The same for what others wrote, such as a command: even a secret that is an ordinary word is hidden in it, unless it is a name."""
    return hide_contexts(_known.hide(text, strictly=True))


def forget() -> None:
    """Forget all, for tests: what one of them knows is another one's ordinary word."""
    _known.clear()
