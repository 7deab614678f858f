"""A URL that is called after each verified backup, so that silence is noticed from outside: healthchecks.io and its like.

Takes no longer than it was given, whatever the server does, and never raises: a heartbeat that fails must not fail a backup.
"""

from __future__ import annotations

import base64
import email.message
import http.client
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from twist_dr import __version__
from twist_dr.errors import TargetUnavailable
from twist_dr.redaction import hiding_url
from twist_dr.redaction.web import is_web_address
from twist_dr.storage.patience import bounded
from twist_dr.system.http import reason_of, web_opener


def beat(url: SecretStr | str, timeout_seconds: float) -> str | None:
    """Call the URL with GET. ``None`` when it answered with success, otherwise what was wrong, in one line.

    The error names the server and nothing else of the URL, whose path is what makes it secret. Proxies are those of the environment.
    """
    secret = url.get_secret_value() if isinstance(url, SecretStr) else url
    if not is_web_address(secret, login=True):
        return (
            "the heartbeat's url must begin with http:// or https:// and name a server, with %40 for an @ and %2F for a / in user "
            "or password; correct alerts.heartbeat.url."
        )
    server = urlsplit(secret).hostname
    try:
        bounded(lambda: _call(secret, timeout_seconds), timeout_seconds, "heartbeat")
    except (TargetUnavailable, TimeoutError):
        return f"the heartbeat's server {server} did not answer within {timeout_seconds:g} s."
    except urllib.error.HTTPError as error:
        error.close()
        said = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        if 300 <= error.code < 400:
            said += " and leads to another place; write the place itself into alerts.heartbeat.url"
        return f"the heartbeat's server {server} answered {said}."
    except Exception as error:
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, TimeoutError):
            return f"the heartbeat's server {server} did not answer within {timeout_seconds:g} s."
        return f"the heartbeat's server {server} could not be called: {hiding_url(secret)(reason_of(error))}."
    return None


def _call(url: str, timeout_seconds: float) -> None:
    parts = urlsplit(url)
    request = urllib.request.Request(
        urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, "")),
        headers={"User-Agent": f"twist-dr/{__version__}"},
    )
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    opener = web_opener(_SameServerOnly())
    # The status is all that is wanted: an answer without an end is not read.
    answer = opener.open(request, timeout=timeout_seconds)
    answer.close()


class _SameServerOnly(urllib.request.HTTPRedirectHandler):
    """Follows from http to https of the same server, and the like: a redirect to a login page elsewhere would count as success."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: email.message.Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        downgraded = (old.scheme, new.scheme) == ("https", "http")
        # A POST would go on as a GET, without what it says.
        if req.data is not None or downgraded or new.hostname != old.hostname:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
