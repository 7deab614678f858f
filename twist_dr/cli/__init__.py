"""The terminal: the command ``twist-dr``.

Dagster is not imported here, so what is no job starts at once and works when the orchestrator does not. Jobs are run by what ``main`` is given.
Exit status: 0 done, 1 failed or something is wrong (an error's sentence on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from twist_dr import __version__
from twist_dr.cli.alerts import add_commands as add_alert_commands
from twist_dr.cli.audit import add_commands as add_audit_commands
from twist_dr.cli.backups import add_commands as add_list_command
from twist_dr.cli.diff import add_commands as add_diff_command
from twist_dr.cli.holds import add_commands as add_hold_commands
from twist_dr.cli.launching import Launch
from twist_dr.cli.launching import add_commands as add_launching_commands
from twist_dr.cli.output import add_json, report, say, show, show_error, wants_json
from twist_dr.cli.recover.arguments import add_arguments
from twist_dr.cli.secrets import add_commands as add_secrets_commands
from twist_dr.cli.secrets import opened_for_keys
from twist_dr.cli.status import add_commands as add_status_commands
from twist_dr.cli.targets import add_commands as add_target_commands
from twist_dr.cli.wal import add_commands as add_wal_commands
from twist_dr.errors import TwistDRError
from twist_dr.redaction import keep_environment
from twist_dr.redaction.stream import leaving_terminal


def main(arguments: Sequence[str] | None, launch: Launch) -> int:
    """Run one command; returns its exit status. ``launch`` runs a job."""
    keep_environment(os.environ)
    with leaving_terminal():
        return _run(sys.argv[1:] if arguments is None else [*arguments], launch)


def _run(arguments: list[str], launch: Launch) -> int:
    options = _parser(arguments, launch).parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except TwistDRError as error:
        show_error(options, error)
        return 1
    except KeyboardInterrupt:
        print("twist-dr: stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        sys.stderr.close()
        return 0
    except Exception:
        # A defect, told whole but for what its error quotes.
        traceback.print_exc()
        return 1


def _parser(arguments: list[str], launch: Launch) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twist-dr", description="Disaster recovery for Django + PostgreSQL applications."
    )
    parser.add_argument("--version", action="version", version=f"twist-dr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser(
        "init", help="write a commented twist-dr.yaml, a key, an environment, dagster.yaml and workspace.yaml"
    )
    init.add_argument("application", help="the application's name: lower-case letters, digits and '_'")
    init.add_argument("--folder", type=Path, default=Path(), help="where to write (default: here)")
    init.add_argument(
        "--django",
        metavar="COMMAND",
        help='how to call manage.py, as in "python manage.py": it is asked for database, media and version, and the settings are filled in',
    )
    init.set_defaults(run=_init)

    doctor = commands.add_parser("doctor", help="check all that a first night would trip over, and say how to fix it")
    add_json(doctor)
    doctor.set_defaults(run=_doctor)

    add_status_commands(commands)
    add_list_command(commands)
    add_diff_command(commands)

    restores = commands.add_parser("restores", help="the log of restores, newest first; one whole by its id")
    restores.add_argument("restore", nargs="?", help="latest, or an id")
    add_json(restores)
    restores.add_argument("--limit", type=int, default=50, help="how many at most (default: 50)")
    restores.set_defaults(run=_restores)

    sandboxes = commands.add_parser("sandboxes", help="servers and databases that were restored to look at")
    sandboxes.add_argument("action", nargs="?", choices=["list", "stop", "start", "remove"], default="list")
    sandboxes.add_argument("sandbox", nargs="?", help="the id of the restore or recovery that made it")
    add_json(sandboxes)
    sandboxes.set_defaults(run=_sandboxes)

    settle = commands.add_parser("settle", help="finish or revert a restore that was cut short")
    add_json(settle)
    settle.set_defaults(run=_settle)

    shown = commands.add_parser("show", help="show one backup: artifacts, copies, verifications")
    shown.add_argument("backup", help="latest, latest:LABEL, an id, or the beginning of one")
    add_json(shown)
    shown.set_defaults(run=_show)

    catalog = commands.add_parser("catalog", help="the index of what happened").add_subparsers(
        required=True, metavar="COMMAND"
    )
    rebuild = catalog.add_parser("rebuild", help="read every manifest on a storage target back into the catalog")
    rebuild.add_argument(
        "--from", dest="target", required=True, metavar="TARGET", help="a storage target of the settings"
    )
    add_json(rebuild)
    rebuild.set_defaults(run=_rebuild)

    recover = commands.add_parser(
        "recover", help="list, check and restore with a storage target and the keys alone: no settings, no catalog"
    )
    add_arguments(recover)
    recover.set_defaults(run=_recover, parser=recover)

    add_wal_commands(commands)
    add_alert_commands(commands)
    add_hold_commands(commands)
    add_audit_commands(commands)

    keys = commands.add_parser("keys", help="the keyring").add_subparsers(required=True, metavar="COMMAND")
    listed = keys.add_parser("list", help="ids and check values of the keys")
    add_json(listed)
    listed.set_defaults(run=_keys_list)
    new = keys.add_parser("new", help="add a key and make it primary; old ones are kept for reading")
    new.add_argument("--id", help="its name (default: after today)")
    add_json(new)
    new.set_defaults(run=_keys_new)

    add_secrets_commands(commands)
    add_target_commands(commands)

    # The table of operations is half a second of imports, which no other command needs.
    if not arguments or arguments[0] not in commands.choices:
        add_launching_commands(commands, launch)
        # Of a list of settings with an option in its midst, argparse takes the first part alone.
        arguments[1:] = sorted(arguments[1:], key=lambda word: not word.startswith("-"))
    return parser


def _init(options: argparse.Namespace) -> None:
    from twist_dr.cli.init import EXAMPLES, ROLES_FILE, ask_django, write_initial_files

    found = ask_django(options.django, Path()) if options.django else None
    for path in write_initial_files(options.folder, application=options.application, found=found):
        if path.parent.name != EXAMPLES:
            print(f"wrote {path}")
    print(f"wrote {options.folder / EXAMPLES}: files of run config")
    here = shlex.quote(str(options.folder.absolute() / "environment"))
    first = "fill in twist-dr.yaml and environment"
    if found is not None:
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        first = f"look through twist-dr.yaml, run {ROLES_FILE} as a superuser, name a storage target that is far from this machine"
    print(
        f"\nNext: {first}, keep a copy of keyring.yaml where neither this machine nor a storage target\n"
        f"can take it along when it goes, then run: . {here} && twist-dr doctor"
    )


def _doctor(options: argparse.Namespace) -> int:
    from twist_dr.doctor import exit_status, render_findings, run_doctor
    from twist_dr.settings import open_application

    findings = []
    for finding in run_doctor(open_application()):
        findings.append(finding)
        if not wants_json(options):
            say(render_findings([finding]))
    if wants_json(options):
        show(options, lambda: findings, str)
    return exit_status(findings)


def _restores(options: argparse.Namespace) -> None:
    from twist_dr.cli import listing
    from twist_dr.errors import RestoreError
    from twist_dr.settings import open_application

    app = open_application()
    catalog = app.catalog
    if options.restore is None:
        rows = catalog.restores(app.name, limit=options.limit)
        show(options, lambda: rows, lambda: listing.restore_table(rows))
        return
    row = (
        next(iter(catalog.restores(app.name, limit=1)), None)
        if options.restore == "latest"
        else catalog.restore(app.name, options.restore)
    )
    if row is None:
        raise RestoreError(
            f"The log of restores has no {options.restore} of {app.name}", remedy="see all with: twist-dr restores"
        )
    show(options, lambda: row, lambda: listing.restore_page(row))


def _sandboxes(options: argparse.Namespace) -> None:
    from datetime import datetime, timezone

    from twist_dr.cli import listing
    from twist_dr.operations.sandboxes import list_sandboxes
    from twist_dr.operations.table import CHANGE_SANDBOX
    from twist_dr.settings import open_application

    app = open_application(report(options))
    if options.action == "list":
        rows = list_sandboxes(app)
        show(options, lambda: rows, lambda: listing.sandbox_table(rows, datetime.now(timezone.utc)))
        return
    told = CHANGE_SANDBOX.config(action=options.action, sandbox=options.sandbox or "")
    done = CHANGE_SANDBOX(app, told)
    show(options, lambda: done, lambda: f"{done.sandbox}: {done.action} done")


def _settle(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import SETTLE
    from twist_dr.settings import open_application

    settled = SETTLE(open_application(report(options)), SETTLE.config())
    if wants_json(options) or not settled:
        show(options, lambda: settled, lambda: "nothing was cut short")


def _show(options: argparse.Namespace) -> None:
    from twist_dr.catalog.notes import archived_copies
    from twist_dr.cli import listing
    from twist_dr.settings import open_application

    app = open_application()
    row = app.catalog.meant(app.name, options.backup)
    verifications = app.catalog.verifications(row.backup_id)
    noted = {copy.target: archived_copies(app.catalog, app.name, copy.target) for copy in row.copies}
    archived = {name: copies[row.backup_id] for name, copies in noted.items() if row.backup_id in copies}
    show(
        options,
        lambda: listing.full_document(row, verifications, archived),
        lambda: listing.backup_page(row, verifications, archived),
    )


def _rebuild(options: argparse.Namespace) -> int:
    from twist_dr.operations.table import REBUILD_CATALOG
    from twist_dr.settings import open_application
    from twist_dr.system.words import counted

    told = REBUILD_CATALOG.config(target=options.target)
    result = REBUILD_CATALOG(open_application(report(options)), told)
    said = (
        f"{counted(result.recorded, 'backup')} read from {options.target}"
        + (f", {result.refused} refused" if result.refused else "")
        + (f", {counted(result.holds, 'hold')} brought back" if result.holds else "")
        + "\nWhat verifications found, and the logs, lie on no storage target: they come back only from a configuration backup "
        "(docs/configuration-backup.md). Cleanup deletes backups of a kind only once one of that kind is verified anew; run verify_backup, "
        "for base backups and their WAL with backup: latest-base."
    )
    show(options, lambda: result, lambda: said)
    return 1 if result.refused else 0


def _recover(options: argparse.Namespace) -> int:
    from twist_dr.cli.recover.commands import run

    return run(options.parser, options)


def _keys_list(options: argparse.Namespace) -> None:
    keyring = opened_for_keys(options).keyring
    rows = [
        {"id": key.id, "check_value": key.check_value, "primary": key.id == keyring.primary_id}
        for key in keyring.keys.values()
    ]
    lines = [f"{row['id']}  check value {row['check_value']}" + ("  primary" if row["primary"] else "") for row in rows]
    show(options, lambda: rows, lambda: "\n".join(lines))


def _keys_new(options: argparse.Namespace) -> None:
    from twist_dr.operations.table import ADD_KEY

    app = opened_for_keys(options)
    key = ADD_KEY(app, ADD_KEY.config(id=options.id or ""))
    said = (
        f"{key.id} (check value {key.check_value}) is the primary key of {app.settings.encryption.keyring} now; "
        "keep a new copy of that file elsewhere."
        + (" Encrypt the secrets with it, too: twist-dr secrets rotate" if app.settings.secrets.exists() else "")
    )
    show(options, lambda: key, lambda: said)
