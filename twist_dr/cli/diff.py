"""twist-dr diff: two backups compared."""

from __future__ import annotations

import argparse
from typing import Any

from twist_dr.cli.output import add_json, show


def add_commands(commands: Any) -> None:
    """Add ``diff`` to the parsers of :mod:`twist_dr.cli`."""
    diff = commands.add_parser("diff", help="compare two backups: rows per table, migrations, schema, sizes, files")
    diff.add_argument("before", help="latest, latest:LABEL, an id, or the beginning of one")
    diff.add_argument("after", help="the same, of the other one")
    diff.add_argument(
        "--files", action="store_true", help="name the files that differ; reads their indexes from a storage target"
    )
    add_json(diff)
    diff.set_defaults(run=_diff)


def _diff(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from twist_dr.backup.diff import compare, document, render
    from twist_dr.settings import open_application

    app = open_application()
    before, after = (app.catalog.meant(app.name, text) for text in (options.before, options.after))
    difference = compare(before.manifest, after.manifest)
    if options.files:
        from twist_dr.backup.diff_files import compare_files

        difference = replace(difference, files=compare_files(before, after, app.targets, app.keyring))
    show(options, lambda: document(difference), lambda: render(difference))
