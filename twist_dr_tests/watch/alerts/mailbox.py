"""Real servers that alerts arrive at, on the loopback, on ports that the system chooses.

::

    with mailbox() as box, webhook() as hook:
        ...                     # channels: mail: {url: box.url}, chat: {url: hook.url}; heartbeat: {url: hook.http_url}
        wait_until(lambda: box.mails)
        assert box.mails[0].subject == "..." and hook.calls[0].json["title"] == "..."

``hook.status = 500`` makes it fail from then on; ``silent_server()`` accepts and never answers.
"""

from __future__ import annotations

import asyncio
import datetime
import email
import email.policy
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from twist_dr.watch.alerts import sender

SENDER = "twist-dr@backup.example"
RECIPIENT = "operator@office.example"


@dataclass(frozen=True)
class Mail:
    """A mail as the server took it."""

    sender: str
    recipients: list[str]
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def body(self) -> str:
        part = self.message.get_body(("plain", "html"))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


@dataclass
class Mailbox:
    """What has arrived so far, and where to send to."""

    port: int
    login: tuple[str, str] | None = None
    mails: list[Mail] = field(default_factory=list)
    refuse: Collection[str] = ()
    hang_after: int | None = None

    @property
    def url(self) -> str:
        """Apprise's, for a mail without encryption to one recipient."""
        return self.url_to(RECIPIENT)

    def url_to(self, *recipients: str, schema: str = "mailto") -> str:
        who = "".join(f"{quote(word, safe='')}{end}" for word, end in zip(self.login or (), ":@", strict=False))
        return f"{schema}://{who}127.0.0.1:{self.port}?from={SENDER}&to={','.join(recipients)}"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.hang_after is not None and len(self.mails) >= self.hang_after:
            await asyncio.sleep(3600)
        if address in self.refuse:
            return "550 no such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes) and envelope.mail_from is not None
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(Mail(envelope.mail_from, list(envelope.rcpt_tos), message))
        return "250 OK"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode()) == self.login
        return AuthResult(success=good, handled=False)


class _Server(Controller):
    """aiosmtpd's, on a socket that is bound already: with port 0 it would not find itself."""

    def __init__(self, listening: socket.socket, box: Mailbox, **options: Any) -> None:
        self._listening = listening
        super().__init__(box, hostname="127.0.0.1", port=box.port, **options)

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._listening, ssl=self.ssl_context)


@contextmanager
def mailbox(
    *,
    login: tuple[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    refuse: Collection[str] = (),
    hang_after: int | None = None,
) -> Iterator[Mailbox]:
    """A mail server. ``login``: what it asks for; ``tls``: offers STARTTLS with that; ``refuse``: recipients that it does not have;
    ``hang_after``: so many mails it says nothing more."""
    listening = socket.create_server(("127.0.0.1", 0))
    box = Mailbox(listening.getsockname()[1], login=login, refuse=refuse, hang_after=hang_after)
    options: dict[str, Any] = {"tls_context": tls}
    if login is not None:
        options |= {"authenticator": box.authenticate, "auth_required": True, "auth_require_tls": False}
    server = _Server(listening, box, **options)
    server.start()
    try:
        yield box
    finally:
        server.stop()


@dataclass(frozen=True)
class Call:
    """A request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Webhook:
    """What was called so far, and where to call. ``status`` and ``answer_headers`` are what it answers."""

    port: int
    calls: list[Call] = field(default_factory=list)
    status: int = 200
    answer_headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Apprise's, for a webhook that takes JSON: title, message, type."""
        return f"json://127.0.0.1:{self.port}/hook"

    @property
    def http_url(self) -> str:
        """For a heartbeat."""
        return f"http://127.0.0.1:{self.port}/beat"


@contextmanager
def webhook(status: int = 200, *, tls: ssl.SSLContext | None = None, **answer_headers: str) -> Iterator[Webhook]:
    """An HTTP server that takes whatever comes; with ``tls`` for https and jsons."""
    hook: Webhook

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hook.calls.append(Call(self.command, self.path, dict(self.headers.items()), body))
            self.send_response(hook.status)
            for name, value in hook.answer_headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    hook = Webhook(server.server_address[1], status=status, answer_headers=answer_headers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent_server(trickle: bytes = b"") -> Iterator[int]:
    """The port of a server that accepts and never answers; with ``trickle`` it says these bytes, one every 50 ms, over and over."""
    over = threading.Event()
    accepted: list[socket.socket] = []

    def speak(connection: socket.socket) -> None:
        with suppress(OSError):
            while trickle and not over.is_set():
                for byte in trickle:
                    connection.sendall(bytes([byte]))
                    if over.wait(0.05):
                        return

    def accept(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                accepted.append(connection)
                threading.Thread(target=speak, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, args=(listening,), daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in accepted:
                connection.close()


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS that nobody trusts; its certificate is made in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).add_extension(address, critical=False)
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "mail.pem"
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing came within {seconds:g} s"
        time.sleep(0.05)


def send_here(question: bytes, seconds: float) -> list[dict[str, Any]]:
    """Does the sending process's work in this one, for tests of what is told and not of how: a process for each message costs most of their time."""
    asked, answers = json.loads(question), list[dict[str, Any]]()
    channels = asked["channels"]
    opened = [sender.open_channel(each["url"], each["timeout"]) for each in channels]
    sender._send_all(channels, opened, asked["message"], lambda index, said: answers.append({"index": index, **said}))
    return answers
