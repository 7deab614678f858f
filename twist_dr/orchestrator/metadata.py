"""What a page of Dagster's shows in words: sentences leave us here, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from twist_dr.redaction import leaving
from twist_dr.system.words import unmarked

#: Each row of a schema's changes has at most a kilobyte.
_MOST_ROWS = 2000


def in_words(text: str) -> dg.TextMetadataValue:
    """A text on a page, as it may leave us."""
    return dg.MetadataValue.text(leaving(text))


def in_markdown(text: str) -> dg.MarkdownMetadataValue:
    """The same of a text in Markdown."""
    return dg.MetadataValue.md(leaving(text))


def in_json(rows: Sequence[Mapping[str, str | None]]) -> dg.JsonMetadataValue:
    """Rows of texts, all that fit: a page holds no megabytes."""
    shown = [{name: text and leaving(text) for name, text in row.items()} for row in rows[:_MOST_ROWS]]
    return dg.MetadataValue.json({"rows": shown, "all": len(rows)})


def in_list(lines: Iterable[str]) -> dg.MarkdownMetadataValue:
    """Sentences as a list. They quote names, which may hold Markdown of others: a picture would be fetched by whoever looks at the page."""
    return in_markdown("\n".join(f"- {unmarked(line)}" for line in lines) or "none")
