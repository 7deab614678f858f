"""Nothing that others name, or give as a reason, is written to a terminal, a log or a message as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twist_dr.errors import RestoreFailed
from twist_dr.orchestrator.metadata import in_list
from twist_dr.redaction import leaving, one_line, visible
from twist_dr.redaction.stream import leaving_terminal
from twist_dr.repository.table_names import TableName, from_label, split_names, table_name
from twist_dr.system.progress import Lines, Report
from twist_dr.system.tables import table

#: What moves a cursor, sets colours and titles, turns the direction of writing, ends a line where nobody sees it.
WILD = "\x1b[2J\x1b]0;title\x07\r\x9b31m\x7f\x00\u202egnp.\u2066\u2028\udcff\x08"
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(WILD + "\n\t")), max_size=30)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXTS)
def test_what_is_not_seen_is_shown_and_all_else_stays(text: str) -> None:
    shown, line = visible(text), one_line(text)
    assert (
        not UNSEEN.search(shown.replace("\r\n", "\n"))
        and not UNSEEN.search(line)
        and "\n" not in line
        and "\t" not in line
    )
    assert visible(shown) == shown and one_line(line) == line
    if not UNSEEN.search(text):
        assert shown == text
    line.encode()


def test_nothing_raw_leaves_by_a_terminal_a_log_an_error_or_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    report = Report(Lines(lines.append, lines.append))
    report.info(f"restoring {WILD}\nSAFE  erp: all is well")
    report.warning(f"{WILD}\n")
    with leaving_terminal():
        print(f"held by {WILD}")
        print(table(("A", "B"), [(f"{WILD}\nSAFE", "x")]))
    written = [*lines, *capsys.readouterr().out.split("\n"), str(RestoreFailed(f"no {WILD}")), leaving(WILD)]
    assert len(lines) == 2 and all(not UNSEEN.search(line) for line in written)
    assert not any(line.startswith("SAFE") for text in written for line in text.split("\n"))


def test_a_name_makes_no_picture_link_or_cell_of_a_page() -> None:
    name = 'x](http://evil) ![p](http://evil/p.png) <img src="http://evil"> `a` | b\n# head'
    (line,) = str(in_list([f"table {name} is missing"]).value).splitlines()
    assert line.startswith("- table x") and not re.search(r"(?<!\\)[\[\]<>`|]", line)


NAMES = st.text(
    st.one_of(st.characters(codec="utf-8", exclude_characters="\0"), st.sampled_from('.," U&\\\n\x1b')),
    min_size=1,
    max_size=16,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.builds(TableName, NAMES, NAMES), min_size=1, max_size=4))
def test_a_label_is_one_tables_alone_is_seen_whole_and_can_be_asked_for(names: list[TableName]) -> None:
    labels = [each.label for each in names]
    assert [from_label(each) for each in labels] == names == [table_name(each) for each in labels]
    assert [table_name(each) for each in split_names(", ".join(labels))] == names
    assert all(one_line(each) == each for each in labels)
