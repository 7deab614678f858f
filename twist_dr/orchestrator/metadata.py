"""What a page of Dagster's shows in words: sentences leave us here, too."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from twist_dr.redaction import leaving
from twist_dr.system.words import unmarked


def in_words(text: str) -> dg.TextMetadataValue:
    """A text on a page, as it may leave us."""
    return dg.MetadataValue.text(leaving(text))


def in_markdown(text: str) -> dg.MarkdownMetadataValue:
    """The same of a text in Markdown."""
    return dg.MetadataValue.md(leaving(text))


def in_list(lines: Iterable[str]) -> dg.MarkdownMetadataValue:
    """Sentences as a list. They quote names, which may hold Markdown of others: a picture would be fetched by whoever looks at the page."""
    return in_markdown("\n".join(f"- {unmarked(line)}" for line in lines) or "none")
