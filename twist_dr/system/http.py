"""Calling servers on the web by HTTP: through the environment's proxies (HTTPS_PROXY), trusting its certificates (SSL_CERT_FILE), and nothing but the web."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request


def web_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """For http and https alone; urllib's own would also read files and FTP. It follows no redirect, unless a handler does."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        *handlers,
    ):
        opener.add_handler(handler)
    return opener


def reason_of(error: BaseException) -> str:
    """Why a call failed, without what exceptions of these libraries quote: the whole URL, a status line of any length."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.HTTPException):
        return "what it answered is not HTTP"
    return type(error).__name__
