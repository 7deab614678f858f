"""A plan is a table on the page, and columns that a person can read in a log."""

from __future__ import annotations

from twist_dr.system.progress import Lines, Report
from twist_dr.system.tables import aligned
from twist_dr.system.words import unmarked

NAME = r"a\|b `c` **d** [e](f) g_h"


def test_a_log_has_the_columns_of_a_page_aligned_and_no_markup() -> None:
    page = f"**Not carried out:** why\n\n| table | rows | |\n| --- | ---: | --- |\n| `public.a` | 1,000 | **delete** |\n| {unmarked(NAME)} | 9 | keep |\n\nand 4 more"
    said: list[str] = []
    Report(Lines(said.append)).page(page)
    assert said[0].split("\n") == [
        "Not carried out: why",
        "",
        "table                       rows",
        "public.a                   1,000  delete",
        f"{NAME}      9  keep",
        "",
        "and 4 more",
    ]


def test_a_table_without_a_head_begins_with_its_first_row() -> None:
    assert (
        aligned("| | |\n|---|---|\n| base | full |\n| would be lost | nothing |")
        == "base           full\nwould be lost  nothing"
    )
    assert aligned("| | |\n|---|---|\n\nno row") == "\n\nno row" and aligned("| one row |") == "one row"
