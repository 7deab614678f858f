"""twist-dr diff: two backups compared, or one with the live database."""

from __future__ import annotations

import argparse
from typing import Any

from twist_dr.cli.output import add_json, show, warn


def add_commands(commands: Any) -> None:
    """Add ``diff`` to the parsers of :mod:`twist_dr.cli`."""
    diff = commands.add_parser(
        "diff",
        help="compare two backups, or one with the live database: schema, rows per table, migrations, sizes, files",
    )
    diff.add_argument("before", help="latest, latest:LABEL, an id, or the beginning of one")
    diff.add_argument("after", help="the same, of the other one; or live, the database as it is now")
    diff.add_argument(
        "--files", action="store_true", help="name the files that differ; reads their indexes from a storage target"
    )
    add_json(diff)
    diff.set_defaults(run=_diff, parser=diff)


def _diff(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from twist_dr.backup.diff import document, render
    from twist_dr.restore.live_difference import LIVE, against_live, between
    from twist_dr.settings import open_application
    from twist_dr.system.progress import Lines, Report

    app = open_application(Report(Lines(warning=warn)))
    before = app.catalog.meant(app.name, options.before)
    if options.after == LIVE:
        if options.files:
            options.parser.error("--files compares two backups; what a restore would do to live files a plan tells")
        difference = against_live(app, before)
    else:
        after = app.catalog.meant(app.name, options.after)
        difference = between(app, before, after)
        if options.files:
            from twist_dr.backup.diff_files import compare_files

            difference = replace(difference, files=compare_files(before, after, app.targets, app.keyring))
    show(options, lambda: document(difference), lambda: render(difference))
