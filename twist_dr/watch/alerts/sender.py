"""The process that sends: asks Apprise to deliver one message through channels, side by side, and answers a line of JSON for each.

Run as ``python -m twist_dr.watch.alerts.sender`` with the question on its standard input; ``channels.py`` does. Without a message it only says
what is wrong with the channels' URLs.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from twist_dr.redaction import hiding_url, server_of

if TYPE_CHECKING:
    from apprise import NotifyBase
    from apprise.logger import NotifyLogEntry

#: Services that show something on this machine's own screen, or lamp: a server has nobody in front of it, and they report success all the same.
_NOBODY_LOOKS = frozenset(("dbus", "kde", "qt", "glib", "gio", "gnome", "macosx", "windows", "blink1"))
_SCHEMA = re.compile(r"([a-z][a-z0-9+.-]{0,30})://", re.IGNORECASE)
_LONGEST_ERROR = 400
#: Seconds that Apprise may take longer than we wait for it: that somebody did not answer is then always told in the same words.
_GRACE = 1.0
#: Before what an exception said: of a connection, and of anything else.
_DETAIL = re.compile(r"^(Socket|Notification) Exception: ")


def main() -> None:
    question = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr
    # What Apprise and its libraries log goes nowhere but into the answers, without secrets.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("apprise").setLevel(logging.DEBUG)
    channels: list[dict[str, Any]] = question["channels"]
    opened = [open_channel(each["url"], each["timeout"]) for each in channels]

    def answer(index: int, said: dict[str, Any]) -> None:
        print(json.dumps({"index": index, **said}), file=answers, flush=True)

    if question["message"] is None:
        for index, (_, error) in enumerate(opened):
            answer(index, {"error": error})
    else:
        _send_all(channels, opened, question["message"], answer)
    # A thread that still waits for a server must not keep us.
    os._exit(0)


def open_channel(url: str, timeout: float) -> tuple[NotifyBase | None, str | None]:
    """Apprise's plugin for a URL, and what is wrong with the URL; both, when it was taken but for a part, such as one address of several."""
    import apprise
    from apprise.exception import AppriseImproperlyConfigured
    from apprise.manager_plugins import NotificationManager

    schema = _SCHEMA.match(url)
    if schema is None:
        return (
            None,
            "the url is none that Apprise knows: it must begin with the name of a service and ://, such as mailtos://.",
        )
    name = schema[1].lower()
    if name in _NOBODY_LOOKS:
        return (
            None,
            f"{name}:// shows a message on this machine, where nobody looks; choose a service that reaches people.",
        )
    heard = _Heard()
    logging.getLogger("apprise").addHandler(heard)
    plugin, raised = None, ""
    try:
        plugin = apprise.Apprise.instantiate(url, asset=_asset(), suppress_exceptions=False)
    except Exception as error:
        raised = str(error) if isinstance(error, AppriseImproperlyConfigured) else type(error).__name__
    finally:
        logging.getLogger("apprise").removeHandler(heard)
    hide = hiding_url(url)
    if plugin is not None:
        _adjust(plugin, url, timeout)
        complaints = [*heard.lines, *(_lost_addresses(url) if name in ("mailto", "mailtos") else ())]
        return plugin, _one_line(hide("; ".join(complaints))) if complaints else None
    services: Any = NotificationManager()  # type: ignore[no-untyped-call]
    if name not in services:
        if name in ("http", "https"):
            return (
                None,
                f"Apprise knows no service by this {name}:// url; a webhook of your own is written json{name[4:]}://.",
            )
        return (
            None,
            f"{name}:// is no service that Apprise knows; see https://appriseit.com/services/ for those it does.",
        )
    if not services[name].enabled:
        missing = services[name].requirements.get("packages_required") or "what its page tells"
        packages = missing if isinstance(missing, str) else ", ".join(map(str, missing))
        return None, f"{name}:// works only with Python packages that are not installed here: {packages}."
    reason = raised or next((line for line in heard.lines if "URL" not in line), "something is missing in it")
    return None, _one_line(
        f"Apprise cannot use the {name}:// url: {hide(reason)}; see https://appriseit.com/services/."
    )


def _lost_addresses(url: str) -> Iterator[str]:
    """Recipients without an @: Apprise passes over them in silence, and writes to the sender when nobody is left."""
    parts = urlsplit(url)
    given = [("to", unquote(piece)) for piece in parts.path.split("/")]
    given += [(name.lower(), piece) for name, value in parse_qsl(parts.query) for piece in re.split("[,;]", value)]
    for name, piece in given:
        if name in ("to", "cc", "bcc") and piece.strip() and "@" not in piece:
            yield f"{name}: {piece.strip()} is no mail address"


def _asset() -> Any:
    from apprise import AppriseAsset

    return AppriseAsset(
        app_id="twist-dr",
        app_desc="twist-dr",
        app_url="",
        # Pictures would be fetched from elsewhere by whoever reads the message.
        image_url_mask="",
        image_url_logo="",
        # A redirected POST arrives as an empty GET, on a login page perhaps, and counts as sent. A URL may allow it: ?redirect=yes.
        http_redirects=False,
        storage_mode="memory",
        pgp_autogen=False,
        pem_autogen=False,
        # We bound it ourselves.
        service_timeout=0,
    )


def _adjust(plugin: NotifyBase, url: str, timeout: float) -> None:
    """Where Apprise's defaults would lose an alert."""
    from apprise import OverflowMode

    # A service refuses what is too long for it. The end of a message is what can best be missed, and one SMS is enough.
    if "overflow=" not in url.lower():
        plugin.overflow_mode = OverflowMode.TRUNCATE
    # With ?optional=yes a failure would count as success.
    plugin.optional = False
    plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout + _GRACE


def _send_all(
    channels: list[dict[str, Any]],
    opened: list[tuple[NotifyBase | None, str | None]],
    message: dict[str, str],
    answer: Callable[[int, dict[str, Any]], None],
) -> None:
    """Each in a thread of its own; an answer for each when it is done, or when its time is over."""
    done: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    began = time.monotonic()
    logs: list[list[NotifyLogEntry]] = [[] for _ in channels]

    def work(index: int, plugin: NotifyBase, complaint: str | None) -> None:
        try:
            said = _send(plugin, message, channels[index]["url"], complaint, logs[index])
        except Exception as error:
            said = _failed(f"sending failed with {type(error).__name__}.", reached=_was_sent(logs[index]))
        done.put((index, {**said, "seconds": time.monotonic() - began}))

    waiting: dict[int, float] = {}
    for index, (plugin, complaint) in enumerate(opened):
        if plugin is None:
            answer(index, {**_failed(complaint or ""), "seconds": 0.0})
            continue
        waiting[index] = began + channels[index]["timeout"]
        threading.Thread(target=work, args=(index, plugin, complaint), daemon=True).start()
    while waiting:
        try:
            index, said = done.get(timeout=max(0.0, min(waiting.values()) - time.monotonic()))
        except queue.Empty:
            index = min(waiting, key=waiting.__getitem__)
            timeout = channels[index]["timeout"]
            server = server_of(channels[index]["url"]) or "the service"
            error = f"{server} did not take the message within {timeout:g} s."
            said = {**_failed(error, reached=_was_sent(logs[index])), "seconds": timeout}
        if waiting.pop(index, None) is not None:
            answer(index, said)


def _send(
    plugin: NotifyBase, message: dict[str, str], url: str, complaint: str | None, log: list[NotifyLogEntry]
) -> dict[str, Any]:
    """Send to all recipients of one channel, one after the other; fills ``log`` as it goes."""
    import apprise

    sending = apprise.Apprise(asset=plugin.asset)
    sending.add(plugin)
    with sending.notify(
        title=message["subject"],
        body=message["body"],
        notify_type=message["type"],
        # Plain text, so that a table called <b> stays one, and is escaped where the service takes HTML.
        body_format=apprise.NotifyFormat.TEXT.value,
        log_callback=lambda entry, service: log.append(entry),
        log_level=logging.DEBUG,
    ) as result:
        ok = bool(result)
    if ok and complaint is None:
        return {"ok": True, "error": None, "reached": True}
    error = f"it was sent, but not to all: {complaint}" if ok else _one_line(hiding_url(url)(_reason(log)))
    return _failed(error, reached=ok or _was_sent(log))


def _was_sent(log: list[NotifyLogEntry]) -> bool:
    """Whether somebody got it: every plugin logs so for each recipient."""
    return any(entry.level == "INFO" and entry.message.startswith("Sent ") for entry in list(log))


def _reason(log: list[NotifyLogEntry]) -> str:
    """What Apprise said at last, and what the server said, which it logs apart."""
    warnings = [entry.message for entry in log if entry.level in ("WARNING", "ERROR", "CRITICAL")]
    details = [_DETAIL.sub("", entry.message) for entry in log if _DETAIL.match(entry.message)]
    what = warnings[-1].rstrip(". ") if warnings else "the service did not take the message"
    why = plain_reason(details[-1]) if details else "" if warnings else "it gave no reason"
    return f"{what}: {why}" if why else f"{what}."


def plain_reason(detail: str) -> str:
    """What a person understands of an exception's text."""
    if found := re.search(r"certificate verify failed: ([^(\n]+)", detail):
        return f"its certificate is not trusted ({found[1].strip()})"
    if found := re.search(r"\[Errno -?\d+\] ([^'\")]+)", detail):
        return found[1].strip()
    if found := re.fullmatch(r"\((\d{3}), b?['\"](.*)['\"]\)", detail, re.DOTALL):
        return f"{found[1]} {found[2]}"
    if "codec can't encode" in detail:  # it would quote a letter of the password
        return "its user name, password or options hold a letter that it does not take; use plain letters, digits and signs"
    return detail


def _failed(error: str, *, reached: bool = False) -> dict[str, Any]:
    return {"ok": False, "error": error, "reached": reached}


def _one_line(text: str) -> str:
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= _LONGEST_ERROR else line[: _LONGEST_ERROR - 4] + " ..."


class _Heard(logging.Handler):
    """Keeps warnings and worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().rstrip(". "))


if __name__ == "__main__":
    main()
