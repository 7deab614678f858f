"""twist-dr status and twist-dr metrics: whether you are safe, for people and for monitoring systems."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from twist_dr.cli.output import add_json, say, wants_json

#: What a monitoring system reads; what cannot be known is unsafe.
UNSAFE = 2


def add_commands(commands: Any) -> None:
    """Add ``status`` and ``metrics`` to the parsers of :mod:`twist_dr.cli`."""
    status = commands.add_parser(
        "status", help="whether you are safe: exit status 0 safe, 1 degraded, 2 unsafe or not to be known"
    )
    add_json(status)
    status.set_defaults(run=_status)

    metrics = commands.add_parser("metrics", help="the same as Prometheus metrics: printed, to a file, or served")
    way = metrics.add_mutually_exclusive_group()
    way.add_argument(
        "--textfile", nargs="?", type=Path, const=Path(), metavar="PATH",
        help="write them for the textfile collector of node_exporter (default: metrics.textfile of the settings)",
    )  # fmt: skip
    way.add_argument(
        "--listen",
        type=_address,
        metavar="[HOST:]PORT",
        help="serve /metrics, reckoned anew each time; on 127.0.0.1 unless a host is given",
    )
    metrics.set_defaults(run=_metrics)


def _status(options: argparse.Namespace) -> int:
    from datetime import datetime, timezone

    from twist_dr.errors import TwistDRError
    from twist_dr.settings import open_application
    from twist_dr.watch.status.collect import collect
    from twist_dr.watch.status.text import render_status

    try:
        app = open_application()
        status = collect(app, datetime.now(timezone.utc))
        text = json.dumps(status.document(), indent=2) if wants_json(options) else render_status(status)
    except TwistDRError as error:
        return _unknown(str(error), json_wanted=wants_json(options))
    except Exception as error:
        # Even a defect of ours must not look like something milder to a monitoring system.
        return _unknown(f"the status cannot be told ({type(error).__name__}: {error})", json_wanted=wants_json(options))
    say(text)
    return status.exit_status


def _unknown(sentence: str, *, json_wanted: bool) -> int:
    if json_wanted:
        say(json.dumps({"state": "unsafe", "reasons": [{"state": "unsafe", "text": sentence}]}, indent=2))
    else:
        say(f"UNSAFE  {sentence}")
    return UNSAFE


def _metrics(options: argparse.Namespace) -> int:
    from twist_dr.errors import SettingsError
    from twist_dr.settings import open_application
    from twist_dr.watch.status import metrics

    app = open_application()
    if options.listen is not None:
        host, port = options.listen
        metrics.serve(app, host, port, tell=lambda line: print(line, flush=True))
    elif options.textfile is not None:
        path = app.settings.metrics.textfile if options.textfile == Path() else options.textfile
        if path is None:
            raise SettingsError("metrics.textfile is not set: write --textfile PATH, or set it in twist-dr.yaml.")
        metrics.write_textfile(app, path)
    else:
        print(metrics.text(app), end="")
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no [HOST:]PORT; write 9187, 0.0.0.0:9187 or [::1]:9187")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
