"""Blotting what is secret of a URL out of what servers and libraries say."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

#: Apprise's services whose URL names a server after ``//``. With the others that place is a token, a key, a phone number or a topic.
_NAME_A_SERVER = frozenset((
    "mailto", "mailtos", "json", "jsons", "xml", "xmls", "form", "forms", "http", "https", "apprise", "apprises", "gotify", "gotifys", "matrix",
    "matrixs", "mmost", "mmosts", "rocket", "rockets", "rsyslog", "mqtt", "mqtts", "nctalk", "nctalks", "ncloud", "nclouds", "hassio", "hassios",
    "signal", "signals", "syslog", "xmpp", "xmpps",
))  # fmt: skip
#: Options that say nothing secret: addresses, which people look for in an error, and Apprise's own, whose "no" and "1" occur in any sentence.
_PLAIN_OPTIONS = frozenset((
    "to", "from", "cc", "bcc", "reply", "name", "smtp", "mode", "format", "overflow", "verify", "method", "priority", "retry", "wait", "cto", "rto",
    "redirect", "optional", "emojis", "image", "footer", "tz", "store", "pgp", "wkd",
))  # fmt: skip
_LONG = 6
_ANY_URL = re.compile(r"""(?i)[a-z][a-z0-9+.-]{0,99}://[^\s'"<>]+|(?<=with url: )\S+""")


@lru_cache(maxsize=256)
def hiding_url(url: str) -> Callable[[str], str]:
    """Puts ``***`` for user, password, tokens, path and options of a URL, as they are, decoded and encoded, and for any other URL.

    The server of a mail or web address stays, and so do the addresses that a message goes to: an error without them helps nobody.
    """
    words = [
        re.escape(piece) if len(piece) >= _LONG else rf"(?<![^\W_]){re.escape(piece)}(?![^\W_])"
        for piece in sorted(tokens_of(url), key=len, reverse=True)
    ]
    hidden = re.compile("|".join(words) or "(?!)", re.IGNORECASE)
    return lambda text: hidden.sub("***", _ANY_URL.sub("***", text))


def server_of(url: str) -> str | None:
    """The server that a URL names, when it is one that may be told."""
    schema = url.partition("://")[0].lower()
    if schema not in _NAME_A_SERVER:
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname
        # A slash in a password that nobody encoded: what stands before it is the user's name, not a server's.
        if "@" not in parts.netloc and "@" in parts.path and not (parts.netloc.rpartition(":")[2] or "0").isdigit():
            return host if ":" not in parts.netloc else None
        # Two of them, where neither is a mail address: what stands after the first may be the rest of a password.
        if "@" in parts.netloc and "@" in parts.path + parts.query and not schema.startswith("mailto"):
            return None
    except ValueError:
        return None
    return host


def tokens_of(url: str) -> set[str]:
    """Every piece of a service's URL that may be secret, with what users and passwords become in a login."""
    _, _, rest = url.partition("://")
    before, _, options = rest.partition("?")
    pieces: set[str] = set()
    for text in (before, *(value for name, value in parse_qsl(options) if name.lower() not in _PLAIN_OPTIONS)):
        for form in (text, unquote(text), unquote_plus(text)):
            pieces.add(form)
            pieces.update(re.split(r"[/?#]", form))
            pieces.update(re.split(r"[/:@?#&=,\s]", form))
            # However it was escaped on its way, little of it is left.
            pieces.update(run for run in re.findall(r"\w+", form) if len(run) >= _LONG)
    server = (server_of(url) or "").lower()
    port = re.search(r":(\d{1,5})(?=/|\?|$)", before)
    shown = {server, *re.findall(r"\w+", server)} | ({port[1], f"{server}:{port[1]}"} if port else set())
    secrets = {piece for piece in pieces if piece.lower() not in shown and piece.strip("*./-_")} | _credentials(before)
    return secrets | {
        encode(secret) for secret in secrets for encode in (quote_plus, lambda text: quote(text, safe=""))
    }


def _credentials(before: str) -> set[str]:
    """User and password, and as they go over the wire in a login: a server that refuses one may repeat it."""
    user, _, password = (unquote(word) for word in before.rpartition("@")[0].partition(":"))
    texts = {text for text in (user, password, f"{user}:{password}", f"\0{user}\0{password}") if text.strip("\0:")}
    return texts | {base64.b64encode(text.encode()).decode() for text in texts}
