"""Names, paths and numbers as sentences for people have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from twist_dr.redaction import one_line

#: An underscore between letters or digits is none (CommonMark 6.2), and names are full of those.
_MARKUP = re.compile(r"[\\`*<>\[\]|~#&]|(?<![^\W_])_|_(?![^\W_])")


#: Commands that are not called as the job which they launch.
_CALLED = {
    "backup_full": "backup",
    "verify_backup": "verify",
    "undo_restore": "undo",
    "test_storage_targets": "test-targets",
    "status": "report",
}


def command(job: str) -> str:
    """What somebody types to launch it: ``twist-dr backup-base``."""
    return f"twist-dr {_CALLED.get(job, job.replace('_', '-'))}"


def few(names: Iterable[str], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    every = [one_line(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def counted(count: int, noun: str, *verb: str) -> str:
    """``1 table``, ``1,200 copies``, ``2 files or folders``; with ``verb`` (``"is", "are"``) ``1 table is``."""
    many = " or ".join(re.sub("(?<![aeiou])y$", "ie", each) + "s" for each in noun.split(" or "))
    return " ".join([f"{count:,}", noun if count == 1 else many, *verb[count != 1 :][:1]])


def unmarked(text: str) -> str:
    """A text inside Markdown, on one line: no picture, HTML, code, emphasis or cell of a table that it would make by itself."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def shown(path: str) -> str:
    """A path in words: names need not be UTF-8, and neither manifests nor logs take what is not; and they may hold line breaks."""
    return one_line(path)


def no_good_copy(asked: Sequence[str], what: str) -> str:
    """That no storage target of those ``asked`` has a good copy: of one alone nothing follows for the others."""
    if len(asked) == 1:
        return f"{asked[0]} has no good copy of {what}, and no other storage target was asked."
    return f"No storage target has a good copy of {what}."


def one_of(words: Sequence[str]) -> str:
    """``local, nas or s3``."""
    return " or ".join([*filter(None, [", ".join(words[:-1])]), *words[-1:]])
