"""Messages to people, through Apprise: e-mail, SMS, chat, webhooks.

Nothing here raises, and nothing takes longer than it was given: a channel that fails must never fail a backup. The sending itself happens
in a process of its own (``sender.py``): a server that trickles would hold a thread for ever, Apprise logs what must not be in our logs,
and its import costs 0.3 s and 50 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr

import twist_dr
from twist_dr.errors import ProcessFailed
from twist_dr.redaction import hiding_url, leaving
from twist_dr.system.processes import Child, inherited
from twist_dr.system.severity import Severity, at_least

AlertEvent = Literal["raised", "worse", "again", "resolved"]

#: What the sending process may take to start, on a machine that has much else to do.
_START_SECONDS = 15.0
#: The way out of this machine, and where Python finds Apprise.
_FOR_SENDING = (
    *(name for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (each, each.upper())),
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONPATH",
)  # fmt: skip
_PACKAGE_PARENT = Path(twist_dr.__file__).parent.parent


@dataclass(frozen=True)
class Message:
    """What people get. ``event``: why now; ``again``: nobody acknowledged it for long."""

    subject: str
    body: str
    severity: Severity
    event: AlertEvent


@dataclass(frozen=True)
class Channel:
    """A way to people. ``url`` is Apprise's and a secret as a whole; ``at_least`` and ``resolved`` say what is told there."""

    name: str
    url: SecretStr | str = field(repr=False)
    at_least: Severity = "warning"
    resolved: bool = True
    timeout_seconds: float = 20.0

    def wants(self, message: Message) -> bool:
        """Whether this message is for this channel."""
        return at_least(message.severity, self.at_least) and (self.resolved or message.event != "resolved")

    @property
    def secret_url(self) -> str:
        return self.url.get_secret_value() if isinstance(self.url, SecretStr) else self.url


@dataclass(frozen=True)
class Delivery:
    """What became of a message on a channel.

    ``ok``: all who should get it did, as far as the service says. ``reached``: somebody got it, all the same: one recipient of several was
    refused. ``error`` is one line, without anything secret of the channel's URL.
    """

    channel: str
    ok: bool
    seconds: float
    error: str | None = None
    reached: bool = False


def deliver(channel: Channel, message: Message) -> Delivery:
    """Send it there, whatever the channel wants to hear. Takes ``timeout_seconds`` at most, and some for the start; never raises."""
    return _send([channel], message)[0]


def deliver_all(channels: Sequence[Channel], message: Message) -> list[Delivery]:
    """Send it to all channels that want it, side by side; takes as long as the slowest may. Never raises."""
    wanting = [channel for channel in channels if channel.wants(message)]
    return _send(wanting, message) if wanting else []


def channel_error(channel: Channel) -> str | None:
    """What is wrong with a channel's URL, as far as can be told without sending; in one line that does not show it."""
    return channel_errors([channel]).get(channel.name)


def channel_errors(channels: Sequence[Channel]) -> dict[str, str]:
    """The same of several channels at the cost of one: by name, only those that have an error. Never raises."""
    if not channels:
        return {}
    answers, trouble = _ask(channels, None, 0.0)
    errors = {}
    for index, channel in enumerate(channels):
        error = answers[index]["error"] if index in answers else trouble
        if error is not None:
            errors[channel.name] = error
    return errors


def _send(channels: Sequence[Channel], message: Message) -> list[Delivery]:
    began = time.monotonic()
    answers, trouble = _ask(channels, message, max(channel.timeout_seconds for channel in channels))
    seconds = time.monotonic() - began
    return [
        Delivery(channel.name, **answers[index])
        if index in answers
        else Delivery(channel.name, ok=False, seconds=seconds, error=trouble)
        for index, channel in enumerate(channels)
    ]


def _ask(channels: Sequence[Channel], message: Message | None, seconds: float) -> tuple[dict[int, dict[str, Any]], str]:
    """The sending process's answers by the channel's index, and what to say of those that it gave none for."""
    question = {
        "channels": [{"url": channel.secret_url, "timeout": channel.timeout_seconds} for channel in channels],
        "message": message
        and {"subject": _sendable(message.subject), "body": _sendable(message.body), "type": _notify_type(message)},
    }
    answers: dict[int, dict[str, Any]] = {}
    trouble = f"the process that sends messages was not done after {seconds + _START_SECONDS:g} s and was ended."
    try:
        for answer in _run_sender(json.dumps(question).encode(), seconds + _START_SECONDS):
            answers[answer.pop("index")] = answer
    except Exception as error:
        # The last resort: what is to be told about a failure must not become a second one.
        said = " ".join(str(error).split()) if isinstance(error, ProcessFailed) else type(error).__name__
        for channel in channels:
            said = hiding_url(channel.secret_url)(said)
        trouble = f"the process that sends messages did not work: {said}"
    return answers, trouble


def _run_sender(question: bytes, seconds: float) -> Iterator[dict[str, Any]]:
    """One answer after the other, as they come. Secrets go to its standard input, never among its arguments."""
    # Started in the package's own folder: -m finds it there, and no other module in whatever folder we work in.
    arguments = [sys.executable, "-m", "twist_dr.watch.alerts.sender"]
    late = threading.Event()
    with Child(arguments, environment=inherited(_FOR_SENDING), folder=_PACKAGE_PARENT, stdin=subprocess.PIPE) as child:

        def end() -> None:
            late.set()
            child.process.kill()

        ending = threading.Timer(seconds, end)
        ending.daemon = True
        ending.start()
        try:
            assert child.process.stdin is not None and child.process.stdout is not None
            # When it is gone already, its exit status says why.
            with suppress(BrokenPipeError), child.process.stdin as stdin:
                stdin.write(question)
            for line in child.process.stdout:
                yield json.loads(line)
            child.process.wait()
            if not late.is_set():
                child.finish()
        finally:
            ending.cancel()


def _sendable(text: str) -> str:
    """Without secrets, and without lone surrogates, as undecodable file names have them: no service could be told them, and the message would be lost."""
    return leaving(text).encode(errors="replace").decode()


def _notify_type(message: Message) -> str:
    """Apprise's words for how bad it is; services choose a colour or an icon by it."""
    if message.event == "resolved":
        return "success"
    return {"info": "info", "warning": "warning"}.get(message.severity, "failure")
