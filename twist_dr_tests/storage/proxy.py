"""A real HTTP proxy on loopback that records requests and, where a test asks for it, misbehaves like a bad network."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Request:
    """One request as it came in. ``number`` counts from 1."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber=" in self.path


@dataclass
class Fault:
    """What the proxy does instead of passing a request on and its answer back.

    ``status`` (with ``code``): answer so. ``cut_after``: pass on, answer so many bytes of the body, then cut the
    connection. ``lose_answer``: pass on, then cut. ``drop``: cut at once. ``flip``: alter one byte of what is stored.
    ``date_shift``: seconds added to the answer's Date.
    """

    status: int | None = None
    code: str = "Fault"
    cut_after: int | None = None
    lose_answer: bool = False
    drop: bool = False
    flip: bool = False
    date_shift: int = 0


class Proxy:
    """Where it listens (``endpoint``), what it saw (``requests``), what it does wrong (``fault``, set by the test).

    ``arrived``: when (``time.monotonic``) how many bytes of bodies came.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[Request] = []
        self.arrived: list[tuple[float, int]] = []
        self.fault: Callable[[Request], Fault | None] = lambda request: None
        self.endpoint = ""
        self._lock = threading.Lock()

    def seen(self, *methods: str) -> list[Request]:
        return [request for request in self.requests if request.method in methods]

    def record(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Request:
        with self._lock:
            request = Request(len(self.requests) + 1, method, path, headers, body)
            self.requests.append(request)
        return request


def refuse_wrong_sha256(request: Request) -> Fault | None:
    """What makes moto, which believes any checksum, a store that checks: a wrong one is refused, as S3 does."""
    said = request.headers.get("x-amz-checksum-sha256")
    if request.method == "PUT" and said is not None:
        found = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        if found != said:
            return Fault(400, "BadDigest")
    return None


@contextlib.contextmanager
def proxy_to(upstream: str) -> Iterator[Proxy]:
    """A proxy to the server at URL ``upstream``; ends with the block."""
    proxy = Proxy(upstream)

    class Handler(_Handler):
        owner = proxy

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = b""
        while len(body) < length:
            piece = self.rfile.read1(length - len(body))  # type: ignore[attr-defined]
            if not piece:
                return self._cut()
            body += piece
            self.owner.arrived.append((time.monotonic(), len(piece)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = self.owner.record(self.command, self.path, headers, body)
        fault = self.owner.fault(request) or Fault()
        if fault.drop:
            return self._cut()
        if fault.status is not None:
            return self._refuse(fault.status, fault.code)
        if fault.flip:
            # The headers by which the store could notice are lost as well: a gateway that rewrites what it passes on.
            body = bytes([body[0] ^ 1]) + body[1:]
            headers.pop("content-md5", None)
        return self._pass_on(fault, headers, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle
    do_PROPFIND = do_MKCOL = _handle

    def _pass_on(self, fault: Fault, headers: dict[str, str], body: bytes) -> None:
        headers.pop("expect", None)
        upstream = http.client.HTTPConnection(self.owner.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault.lose_answer:
            return self._cut()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() == "date" and fault.date_shift:
                value = formatdate(time.time() + fault.date_shift, usegmt=True)
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
        self.end_headers()
        if fault.cut_after is not None:
            self.wfile.write(content[: fault.cut_after])
            return self._cut()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def _refuse(self, status: int, code: str) -> None:
        text = (
            f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>asked for by the test</Message></Error>".encode()
        )
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
