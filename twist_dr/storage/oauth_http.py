"""Asking an OAuth provider (RFC 6749, RFC 8628): forms there, JSON back."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from twist_dr import __version__
from twist_dr.errors import TargetUnavailable
from twist_dr.storage.patience import bounded
from twist_dr.system.http import reason_of, web_opener

#: A token endpoint answers within a second; one that takes this long is not there.
_SECONDS = 30.0
_MOST_BYTES = 1 << 18
#: Ten years: what a provider says lasts longer is none that we could reckon with.
_MOST_SECONDS = 10 * 366 * 86400.0
_CODE = re.compile(r"[a-z_]{1,40}")
#: Microsoft's have some 2,000 characters, and few servers take more than 8 kB of a head.
_TOKEN = re.compile(r"[\x20-\x7e]{1,8192}")
#: Of Microsoft's sentences, the number by which it documents them.
_NUMBER = re.compile(r"\bAADSTS[0-9]{4,9}\b")


@dataclass(frozen=True)
class OAuthAnswer:
    """``document`` may hold tokens."""

    status: int
    document: Mapping[str, Any] = field(repr=False)

    @property
    def error(self) -> str:
        """The code of RFC 6749, 5.2; empty for what is no error."""
        code = self.document.get("error")
        if code is None and self.status < 400:
            return ""
        return code if isinstance(code, str) and _CODE.fullmatch(code) else "unknown_error"

    @property
    def said(self) -> str:
        """The code for people, with its provider's own number."""
        number = _NUMBER.search(str(self.document.get("error_description", "")))
        return f"{self.error}, {number[0]}" if number else self.error

    def text(self, name: str) -> str | None:
        value = self.document.get(name)
        return value if isinstance(value, str) and value else None

    def token(self, name: str) -> str | None:
        """One that fits the head of a request, where it goes, and has the characters that RFC 6749, appendix A, allows."""
        value = self.text(name)
        return value if value is not None and _TOKEN.fullmatch(value) else None

    def seconds(self, name: str) -> float | None:
        """Of Microsoft's older endpoints a number is a text."""
        try:
            found = float(self.document[name])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return found if 0 <= found <= _MOST_SECONDS else None


def ask(
    target: str, url: str, form: Mapping[str, str] | None = None, *, bearer: str | None = None, posting: bool = False
) -> OAuthAnswer:
    """POST a form, or GET. Raises ``TargetUnavailable``: no answer, one that is not JSON, one of a server that cannot just now."""
    server = urlsplit(url).hostname
    request = urllib.request.Request(
        url,
        data=urlencode(form).encode() if form is not None else b"null" if posting else None,
        headers={"User-Agent": f"twist-dr/{__version__}", "Accept": "application/json"},
    )
    if posting:
        request.add_header("Content-Type", "application/json")
    if bearer is not None:
        request.add_unredirected_header("Authorization", f"Bearer {bearer}")
    try:
        status, body = answer_to(request, target)
        document = json.loads(body)
        # Halves of characters are JSON, and are neither kept nor printed: what raises here is a ValueError.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        document, status = None, 0
    if not isinstance(document, dict):
        raise _away(target, f"{server} answered something else than JSON")
    if status >= 500 or status == 429:
        raise _away(target, f"{server} cannot answer just now ({status})")
    return OAuthAnswer(status, document)


def answer_to(request: urllib.request.Request, target: str) -> tuple[int, bytes]:
    """Status and body; ``{}`` of a server that cannot just now. Raises ``TargetUnavailable`` when none comes in time, however slowly it trickles."""
    server = urlsplit(request.full_url).hostname
    try:
        return bounded(lambda: _call(request), 2 * _SECONDS, server or "the provider")
    except TargetUnavailable:
        raise _away(target, f"{server} did not answer within {2 * _SECONDS:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise _away(target, f"{server} could not be asked: {reason_of(error)}") from None


def _call(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        answer = web_opener().open(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(_MOST_BYTES)
            return error.code, body if error.code < 500 and error.code != 429 else b"{}"
    with answer:
        return answer.status, answer.read(_MOST_BYTES)


def _away(target: str, what: str) -> TargetUnavailable:
    return TargetUnavailable(
        what, remedy="see to the network, a proxy (HTTPS_PROXY) and its certificates (SSL_CERT_FILE)", target=target
    )
