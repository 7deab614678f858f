"""twist-dr secrets: passwords and tokens of the settings, kept encrypted beside them."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import TYPE_CHECKING, Any

from twist_dr.cli.output import add_json, report, show
from twist_dr.errors import SettingsError
from twist_dr.system.tables import table

if TYPE_CHECKING:
    from twist_dr.settings import Application


def add_commands(commands: Any) -> None:
    """Add ``secrets`` to the parsers of :mod:`twist_dr.cli`."""
    secrets = commands.add_parser("secrets", help="what ${secret:NAME} in the settings stands for").add_subparsers(
        required=True, metavar="COMMAND"
    )
    new = secrets.add_parser("set", help="keep a secret; its value is read from standard input, or asked for")
    new.add_argument("name", metavar="NAME", help="as in ${secret:NAME}")
    # Taken, so that nothing quotes it.
    new.add_argument("value", nargs="*", help=argparse.SUPPRESS)
    add_json(new)
    new.set_defaults(run=_set)
    listed = secrets.add_parser("list", help="names, when each was set, and the key that it is encrypted with")
    add_json(listed)
    listed.set_defaults(run=_list)
    rotate = secrets.add_parser("rotate", help="encrypt all anew with the primary key of the keyring")
    add_json(rotate)
    rotate.set_defaults(run=_rotate)
    remove = secrets.add_parser("remove", help="forget a secret")
    remove.add_argument("name", metavar="NAME", help="its name")
    add_json(remove)
    remove.set_defaults(run=_remove)


def asked_for(what: str) -> str:
    """Text that is shown nowhere: typed at a prompt, or all of standard input, of which a last end of line does not count. Raises ``SettingsError``."""
    try:
        text = getpass.getpass(f"{what} (not shown): ") if sys.stdin.isatty() else sys.stdin.read()
    except (EOFError, OSError, UnicodeDecodeError):
        text = ""
    if not (text := text.removesuffix("\n").removesuffix("\r")):
        raise SettingsError(f"{what} was not said", remedy="type it, or give it on standard input: ... <FILE")
    return text


def opened_for_keys(options: argparse.Namespace) -> Application:
    """For what must work before the settings can be read whole, as secrets or the keyring that opens them are not there. Raises ``SettingsError``."""
    from twist_dr.settings import Application, settings_for_secrets, user_of_this_machine

    return Application(settings_for_secrets(), user_of_this_machine(), report(options))


def _set(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import SET_SECRET

    if options.value:
        raise SettingsError(
            "A secret is never an argument, which all users of this machine may read",
            remedy=f"take it for known, choose another, and give that on standard input or at the prompt: twist-dr secrets set {options.name}",
        )
    app = opened_for_keys(options)
    done = SET_SECRET(app, SET_SECRET.config(name=options.name, value=asked_for(f"The value of {options.name}")))
    said = f"{done.name} is kept in {app.settings.secrets}, encrypted with {done.key_id}; in the settings it is ${{secret:{done.name}}}"
    show(options, lambda: done, lambda: said)


def _list(options: argparse.Namespace) -> None:
    file = opened_for_keys(options).settings.secrets_file
    rows = [
        {"name": name, "kind": kind, "set_at": value.set_at, "key_id": value.key_id}
        for kind, values in file.listed().items()
        for name, value in values.items()
    ]
    cells = [
        [*map(str, (row["name"], row["kind"], f"{row['set_at']:%Y-%m-%d %H:%M} UTC", row["key_id"]))] for row in rows
    ]
    show(options, lambda: rows, lambda: table(["name", "what", "set", "key"], cells) if rows else "no secrets")


def _rotate(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import ROTATE_SECRETS

    done = ROTATE_SECRETS(opened_for_keys(options), ROTATE_SECRETS.config())
    changed = ", ".join(done.names) or "nothing, for it was all before"
    show(options, lambda: done, lambda: f"encrypted with {done.key_id} now: {changed}")


def _remove(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import REMOVE_SECRET

    done = REMOVE_SECRET(opened_for_keys(options), REMOVE_SECRET.config(name=options.name))
    show(options, lambda: done, lambda: f"{done.name} is kept no more")
