"""twist-dr targets authorize: the owner of an account lets us store there."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from twist_dr.cli.output import add_json, report, show, wants_json

if TYPE_CHECKING:
    from twist_dr.operations.authorize import Authorized


def add_commands(commands: Any) -> None:
    """Add ``targets`` to the parsers of :mod:`twist_dr.cli`."""
    targets = commands.add_parser("targets", help="storage targets whose owner must be asked").add_subparsers(
        required=True, metavar="COMMAND"
    )
    authorize = targets.add_parser("authorize", help="have the owner of an account let us store there")
    authorize.add_argument(
        "target", nargs="?", metavar="NAME", help="a storage target of the settings (default: the only such)"
    )
    authorize.add_argument(
        "--by",
        choices=["device", "address", "token"],
        help="type a code on another device, paste the address at which a browser ends, or paste a token of rclone (default: as the target needs it)",
    )
    add_json(authorize)
    authorize.set_defaults(run=_authorize)


def pasted(what: str, *, beside: bool = False) -> str:
    """A line that is typed or pasted. ``beside``: the prompt goes to standard error. What comes in several lines, as from rclone, is read to its ``}``."""
    print(f"{what}: ", end="", flush=True, file=sys.stderr if beside else sys.stdout)
    said = sys.stdin.readline()
    while said.count("{") > said.count("}") and (more := sys.stdin.readline()):
        said += more
    return said


def _authorize(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import AUTHORIZE_TARGET
    from twist_dr.settings import open_application

    told = AUTHORIZE_TARGET.config(
        target=options.target or "",
        by=options.by or "",
        ask=lambda what: pasted(what, beside=wants_json(options)),
    )
    done = AUTHORIZE_TARGET(open_application(report(options)), told)
    show(options, lambda: done, lambda: _told(done))


def _told(done: Authorized) -> str:
    whose = f"the account {done.account}" if done.account else "an account whose name it does not say"
    if done.ends is not None:
        until = f"until {done.ends:%Y-%m-%d %H:%M} UTC: publish the client, then it stays (docs/authorize.md)"
    elif done.idle_days is not None:
        until = f"until it is revoked, or not used for {done.idle_days} days"
    else:
        until = "until it is revoked"
    return (
        f"{done.target} uses {whose} at {done.provider}, {until}.\nAllowed: {', '.join(done.scopes)}\n"
        "Try it with: twist-dr test-targets"
    )
