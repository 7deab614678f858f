"""twist-dr diff: two backups compared."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Add ``diff`` to the parsers of :mod:`twist_dr.cli`."""
    diff = commands.add_parser("diff", help="compare two backups: rows per table, migrations, schema, sizes, files")
    diff.add_argument("before", help="latest, latest:LABEL, an id, or the beginning of one")
    diff.add_argument("after", help="the same, of the other one")
    diff.add_argument(
        "--files", action="store_true", help="name the files that differ; reads their indexes from a storage target"
    )
    diff.add_argument("--json", action="store_true", help="print JSON")
    diff.set_defaults(run=_diff)


def _diff(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from twist_dr.catalog import Catalog
    from twist_dr.diff import compare, document, render
    from twist_dr.listing import json_pieces
    from twist_dr.settings import load_settings

    settings = load_settings()
    catalog = Catalog(settings.catalog_url)
    before, after = (catalog.meant(settings.application, text) for text in (options.before, options.after))
    difference = compare(before.manifest, after.manifest)
    if options.files:
        from twist_dr.diff_files import compare_files
        from twist_dr.engine.keys import load_keyring
        from twist_dr.resources.targets import build_targets

        keyring = load_keyring(settings.encryption.keyring)
        difference = replace(difference, files=compare_files(before, after, build_targets(settings), keyring))
    if options.json:
        for piece in json_pieces(document(difference)):
            print(piece, end="")
        print()
    else:
        print(render(difference))
