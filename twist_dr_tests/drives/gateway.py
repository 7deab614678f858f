"""An HTTP proxy on loopback that answers CONNECT, ends TLS, and hands each request to the service of that host; faults on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from twist_dr_tests.drives.ca import tls_for


@dataclass(frozen=True)
class Request:
    """One request as it came. ``path`` is as it was sent, quoted; ``headers`` have lower-case names; ``form`` is the body of one that has no JSON."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body)) if self.body else {}

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def plain_path(self) -> str:
        return unquote(self.path)

    @property
    def bearer(self) -> str | None:
        """The access token that it bears."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind.lower() == "bearer" else None

    @property
    def content_range(self) -> tuple[int, int, int] | None:
        """``Content-Range``: first byte, one behind the last, and the size of all. None where it has none, or only asks (``bytes */SIZE``)."""
        text = self.headers.get("content-range", "").removeprefix("bytes ")
        span, _, total = text.partition("/")
        if not span or span == "*":
            return None
        first, _, last = span.partition("-")
        return int(first), int(last) + 1, int(total) if total != "*" else -1

    @property
    def ends_an_upload(self) -> bool:
        """Whether it brings the last bytes of an object."""
        if self.content_range is not None:
            return self.content_range[1] == self.content_range[2]
        return self.query.get("uploadType") == "multipart" or (self.method == "PUT" and self.path.endswith("/content"))


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A service's refusal, as the answer that it is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status, answer.body)
        self.answer = answer


def json_answer(content: Mapping[str, Any], status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **named})


def part_of(content: bytes, request: Request) -> Answer:
    """The bytes that the request's ``Range`` asks for (RFC 9110, 14.2)."""
    asked = request.headers.get("range", "")
    if not asked.startswith("bytes="):
        return Answer(200, content, {"Content-Type": "application/octet-stream"})
    first, _, last = asked.removeprefix("bytes=").partition("-")
    begin = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last) + 1, len(content)) if first and last else len(content)
    if begin >= len(content):
        return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"})


Service = Callable[[Request], Answer]


@dataclass
class Fault:
    """What happens to the requests of which ``when`` is true, ``times`` times (None: until the faults are cleared).

    ``answer``: they get this one, and the service never sees them. ``lose_answer``: the service does what it was asked to, then the connection is cut.
    ``delay``: seconds before anything. ``then``: called after the service did it.
    """

    when: Callable[[Request], bool]
    answer: Answer | None = None
    lose_answer: bool = False
    delay: float = 0
    times: int | None = 1
    then: Callable[[Request], None] | None = None
    #: How often it happened.
    happened: int = 0


class Gateway:
    """``endpoint``: the proxy's URL. ``ca_file``: whom to trust. ``requests``: all that came in, without their bodies' bytes being shown.

    ``crashes``: what a service did not expect; a test that finds one there has found a fault of these servers.
    """

    def __init__(self, services: Mapping[str, Service], folder: Path) -> None:
        self.services = dict(services)
        self.tls, self.ca_file = tls_for(self.services, folder)
        self.endpoint = ""
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.crashes: list[str] = []
        #: Seconds that the services' clocks are ahead of ours.
        self.clock_ahead = 0.0
        self._lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach these servers in the place of the real ones: variables that a user behind a company's proxy sets as well."""
        trust = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(self.ca_file))
        return {"HTTPS_PROXY": self.endpoint, "https_proxy": self.endpoint, "NO_PROXY": "127.0.0.1,localhost", **trust}

    def add(self, fault: Fault) -> Fault:
        """Let that happen from now on."""
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults; forget what came in."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()
            self.crashes.clear()
        self.clock_ahead = 0.0

    def answer(self, request: Request) -> Answer | None:
        """What it is answered, or None: the connection is cut."""
        fault = self._fault(request)
        if fault is not None:
            time.sleep(fault.delay)
            if fault.answer is not None:
                return fault.answer
        try:
            answer = self.services[request.host](request)
        except Refused as refused:
            answer = refused.answer
        except Exception:
            self.crashes.append(f"{request}\n{traceback.format_exc()}")
            answer = Answer(500)
        if fault is not None and fault.then is not None:
            fault.then(request)
        return None if fault is not None and fault.lose_answer else answer

    def _fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if (fault.times is None or fault.happened < fault.times) and fault.when(request):
                    fault.happened += 1
                    return fault
        return None


@contextlib.contextmanager
def gateway(services: Mapping[str, Service], folder: Path) -> Iterator[Gateway]:
    """The proxy, with its certificates in ``folder``; ends with the block."""
    owner = Gateway(services, folder)

    class Handler(_Handler):
        gateway = owner

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    owner.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield owner
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    gateway: Gateway
    _host = ""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def handle(self) -> None:
        # Whoever calls may be killed at any time, or not trust us.
        with contextlib.suppress(OSError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()
        self.connection.close()

    def do_CONNECT(self) -> None:
        host, _, _ = self.path.partition(":")
        if host not in self.gateway.services:
            return self.send_error(502, "no such host in the tests")
        self.send_response_only(200)
        self.end_headers()
        self._host = host
        self.connection = self.gateway.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)
        # Some clients speak HTTP/1.0 to a proxy.
        self.close_connection = False
        return None

    def _handle(self) -> None:
        body = self._body()
        if body is None or not isinstance(self.connection, ssl.SSLSocket):
            return self._cut()
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        answer = self.gateway.answer(Request(self.command, self._host, url.path, query, headers, body))
        if answer is None:
            return self._cut()
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Date", formatdate(time.time() + self.gateway.clock_ahead, usegmt=True))
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle

    def _body(self) -> bytes | None:
        """None: it ended before it was whole."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunks()
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else b""
        return body if len(body) == length else None

    def _chunks(self) -> bytes | None:
        body = bytearray()
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            chunk = self.rfile.read(size)
            self.rfile.readline()
            if len(chunk) < size:
                return None
            if size == 0:
                return bytes(body)
            body += chunk
        return None

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
