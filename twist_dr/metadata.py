"""What a page of Dagster's shows in words: sentences leave us here, too."""

from __future__ import annotations

import dagster as dg

from twist_dr.redaction import leaving


def in_words(text: str) -> dg.TextMetadataValue:
    """A text on a page, as it may leave us."""
    return dg.MetadataValue.text(leaving(text))


def in_markdown(text: str) -> dg.MarkdownMetadataValue:
    """The same of a text in Markdown."""
    return dg.MetadataValue.md(leaving(text))
