"""Places in a text where a secret stands, whatever it is: in a URL before the ``@``, after ``password=`` and its like."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(?i)secret|passw(?:or)?d|passphrase|passwd|pwd|token|credential|dsn|salt|signature|(?<![a-z])(?:pass|key|sig|auth)(?![a-z])|"
    r"(?:api|access|private|signing|encryption)[_-]?key"
)
#: Variables that say where a secret lies, whose it is, or how long it is good; they are no secret themselves.
_ABOUT_ONE = re.compile(
    r"(?i)(?<![a-z])(?:file|path|dir|folder|id|name|host|port|user|module|class|backend|engine|hashers|validators|age|timeout|ttl|"
    r"algorithm|header|length|keyring|sock)s?$"
)
_PLAIN_KEY = re.compile(r"(?<!api)(?<!access)(?<!private)(?<!secret)(?:^|[_.-])(?:key|auth|sig)$")
_LOOKS_RANDOM = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[\w+/=~-]{16,}")

_WELL_FORMED = re.compile(
    r"(?:(?P<user>[^@:/]*)(?::(?P<password>[^@/]*))?@)?(?P<host>[^@/?#]*)(?P<path>(?:/[^@?#]*)?)(?:[?#](?P<query>.*))?",
    re.DOTALL,
)
_PAIR = re.compile(r"([^?&#=]+)=([^&#]*)")

_END = r"\s'\"<>"
#: Whoever owns the database can have an error quote a word of a megabyte. So what is looked for begins where a word begins: a search from each
#: letter of it would take hours.
_TO_LAST_AT = re.compile(rf"(?<![^{_END}])[^{_END}]*@")
_NAME = r"(?<![\w.-])(?=[\w.-]*[A-Za-z_])[\w.-]+"
#: Up to the last ``@`` before the options: what nobody encoded may hold one itself.
_URL_PASSWORD = re.compile(rf"(?P<before>://[^:/@{_END}]*:)(?P<secret>(?:[^@?{_END}]*@)+|[^@{_END}]*@)")
_URL_OPTION = re.compile(rf"(?P<before>[?&#](?P<name>[\w.+-]+)=)(?P<secret>[^&#{_END}]+)")
_VALUE = r"(?P<secret>'(?:[^'\\]|\\.)+'|\"(?:[^\"\\]|\\.)+\"|[^\s&'\",;)\]}]+)"
#: ``password=x``, and ``"password": "x"`` as Python and JSON write it.
_ASSIGNED = re.compile(
    rf"(?P<before>(?P<name>{_NAME})(?:=|[\"']\s*[:=]\s*(?=[\"']))){_VALUE}",
)
_SQL_PASSWORD = re.compile(r"(?i)(?P<before>\bpassword\s+)(?P<secret>(?!'\.\.\.')'(?:[^']|'')+')")
_AUTHORIZATION = re.compile(r"(?i)(?P<before>\bauthorization:\s*(?:\w+\s+)?|\bbearer\s+)(?P<secret>[\w.~+/=-]{6,})")
#: What our own sentences write where a person puts a password.
_EXAMPLES = ("password@", "PASSWORD@")


def is_secret_name(name: str) -> bool:
    """Whether a variable or option of this name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not is_about_secret(name)


def is_about_secret(name: str) -> bool:
    """Whether a variable of this name says where something lies, whose it is, or how long it is good."""
    return bool(_ABOUT_ONE.search(name))


def looks_random(word: str) -> bool:
    """Whether this is more likely a token than something a person named."""
    return bool(_LOOKS_RANDOM.fullmatch(word))


def hide_contexts(text: str) -> str:
    """The text with ``***`` for what stands where secrets stand."""
    if "://" in text:
        text = _TO_LAST_AT.sub(_in_word, text)
        text = _URL_OPTION.sub(_named, text)
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(_assigned, text)
        text = _AUTHORIZATION.sub(rf"\g<before>{HIDDEN}", text)
    return _SQL_PASSWORD.sub(rf"\g<before>{HIDDEN}", text)


def _in_word(match: re.Match[str]) -> str:
    return _URL_PASSWORD.sub(_in_url, match[0])


def _in_url(match: re.Match[str]) -> str:
    return match[0] if match["secret"] in _EXAMPLES else f"{match['before']}{HIDDEN}@"


def _assigned(match: re.Match[str]) -> str:
    # primary_key=..., key=... are what programs are made of; variables in capitals are not.
    plain = match["name"].islower() and _PLAIN_KEY.search(match["name"])
    return match[0] if plain else _named(match)


def _named(match: re.Match[str]) -> str:
    # The password of a URL is hidden by now, and its names shall stay.
    if not is_secret_name(match["name"]) or "://" in match["secret"]:
        return match[0]
    quote = match["secret"][0] if match["secret"][0] in "'\"" else ""
    return f"{match['before']}{quote}{HIDDEN}{quote}"


def url_parts(url: str) -> tuple[set[str], set[str]]:
    """The secrets of a URL, and its names. Of one that is malformed every piece before its last ``@`` but the user is secret."""
    scheme, _, rest = url.partition("://")
    parts = _WELL_FORMED.fullmatch(rest)
    if parts is None or "@" in rest.partition("?")[0].partition("@")[2]:
        return _malformed(rest)
    secrets: set[str] = set()
    names = {parts["host"], *re.split(r"[,:]", parts["host"])}
    web = scheme.lower() in ("http", "https")
    user, password = parts["user"] or "", parts["password"] or ""
    # https://TOKEN@host
    (secrets if web and not password else names).update((user, unquote(user)))
    if password:
        login = f"{unquote(user)}:{unquote(password)}".encode()
        secrets |= {password, unquote(password), base64.b64encode(login).decode()}
    for segment in parts["path"].split("/"):
        (secrets if web and looks_random(segment) else names).update((segment, unquote(segment)))
    for name, value in _PAIR.findall(parts["query"] or ""):
        secret = is_secret_name(name) or (web and (name in ("code",) or looks_random(value)))
        (secrets if secret else names).update((value, unquote(value), unquote_plus(value)))
    return secrets - {""}, names - {""}


def _malformed(rest: str) -> tuple[set[str], set[str]]:
    before = rest.rpartition("@")[0] or rest
    user, colon, password = before.partition(":")
    if not colon:
        user, password = "", before
    pieces = {password, *re.split(r"[/@:?#%]", password)}
    return {form for piece in pieces for form in (piece, unquote(piece))} - {""}, {user} - {""}


def secrets_of(text: str) -> Iterator[str]:
    """What stands in a text where secrets stand, such as a command's arguments."""
    for url in re.findall(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+", text):
        yield from url_parts(url)[0]
    for match in _ASSIGNED.finditer(text):
        if is_secret_name(match["name"]) and "://" not in match["secret"]:
            yield match["secret"].strip("'\"")
    for pattern in (_AUTHORIZATION, _SQL_PASSWORD):
        for match in pattern.finditer(text):
            yield match["secret"].strip("'")
