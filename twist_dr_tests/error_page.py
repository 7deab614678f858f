"""The page of all codes of errors, ``docs/errors.md``, made of their classes: ``python -m twist_dr_tests.error_page`` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from inspect import getdoc
from pathlib import Path

from twist_dr.errors import (
    BackupError,
    DatabaseError,
    EncryptionError,
    RestoreError,
    StorageError,
    TwistDRError,
    WalError,
)

PACKAGE = Path(__file__).parents[1] / "twist_dr"
PAGE = PACKAGE.parent / "docs" / "errors.md"
_CLASS = re.compile(r"^class (\w+)\((\w+)(?:, \w+)*\):", re.MULTILINE)

_INTRODUCTION = """\
# Errors and their codes

What twist-dr refuses or fails of on purpose has a code, which says what kind of error it is and never changes its meaning; the sentence beside it says what
happened to what, and what to do. A run's page in Dagster shows the code as `error`, the alerts go by it, and the catalog keeps it with each copy, test of a
storage target, position of archived write-ahead log and run. An error that is not twist-dr's own has the name of its class, in the same form, for its code.

*Passes*: the same attempt may succeed a little later without anybody doing anything; jobs try those again by themselves.

This page is made of the classes: `python -m twist_dr_tests.error_page`.
"""


def kinds() -> list[type[TwistDRError]]:
    """All of them, each after the one that it is a kind of, wherever in the package they are defined."""
    known, modules = {"TwistDRError"}, set[str]()
    sources = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    while found := {
        (match[1], path)
        for path, source in sources.items()
        for match in _CLASS.finditer(source)
        if match[2] in known and match[1] not in known
    }:
        known |= {name for name, _ in found}
        modules |= {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for _, path in found}
    for module in sorted(modules):
        import_module(module)
    return list(_below(TwistDRError))


def _below(kind: type[TwistDRError]) -> Iterator[type[TwistDRError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__.startswith("twist_dr."):
            yield from _below(each)


def page() -> str:
    """The whole page."""
    from twist_dr.catalog import CatalogUnavailable

    areas: dict[str, type[TwistDRError]] = {
        "Keys and encryption": EncryptionError,
        "Backups": BackupError,
        "Restores": RestoreError,
        "Write-ahead log": WalError,
        "PostgreSQL": DatabaseError,
        "Storage targets": StorageError,
        "The catalog": CatalogUnavailable,
    }
    every = kinds()
    general = [kind for kind in every if not issubclass(kind, tuple(areas.values()))]
    tables = {
        "In general": general,
        **{title: [k for k in every if issubclass(k, base)] for title, base in areas.items()},
    }
    return "\n".join([_INTRODUCTION, *(f"## {title}\n\n{_table(rows)}\n" for title, rows in tables.items())])


def _table(rows: list[type[TwistDRError]]) -> str:
    lines = [f"| `{kind.code}` | {meaning(kind)} | {'yes' if kind.retryable else ''} |" for kind in rows]
    return "\n".join(["| code | meaning | passes |", "| --- | --- | --- |", *lines])


def meaning(kind: type[TwistDRError]) -> str:
    """The first paragraph of what is written at the class."""
    assert kind.__doc__, kind
    return " ".join((getdoc(kind) or "").partition("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page())
