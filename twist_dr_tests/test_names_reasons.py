"""What people give as a reason, and what others forge as one: kept as it can be kept, told on its line, and nothing of it written raw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from twist_dr.__main__ import main
from twist_dr.redaction import one_line
from twist_dr.repository.keys import new_key
from twist_dr.retention.holds import HoldNote, HoldNotes
from twist_dr.retention.model import Hold
from twist_dr_tests.catalog.test_restores import restore
from twist_dr_tests.redaction.test_visible import UNSEEN, WILD
from twist_dr_tests.retention_site import NOW, RetentionSite

BEGINNINGS = [
    "\nSAFE  erp: all is well",
    "\r\nwarning: ",
    "\n20261121T020000Z-full-0000  ",
    "\x1b]8;;http://evil\x1b\\x",
    "\x1b[1A\x1b[2K",
    "%s",
    "{}",
]
REASONS = st.lists(
    st.one_of(st.sampled_from([*WILD, *BEGINNINGS, "é", "😀", "'", '"', "\\", "|", "\t"]), st.text(max_size=5)), min_size=1, max_size=8
).map(lambda pieces: "why: " + "".join(pieces))  # fmt: skip


@settings(
    max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(placed=REASONS, forged=REASONS, restored=REASONS)
def test_no_reason_writes_a_line_or_moves_a_cursor(
    reasons_site: RetentionSite, capsys: pytest.CaptureFixture[str], placed: str, forged: str, restored: str
) -> None:
    site = reasons_site
    (held,) = site.listed()
    main(["release", held])  # what the example before this one placed
    capsys.readouterr()

    def told(*arguments: str) -> list[str]:
        assert main(arguments) == 0
        found = capsys.readouterr()
        assert found.err == "" and not UNSEEN.search(found.out)
        return found.out.splitlines()

    assert len(told("hold", held, "--reason", placed.replace("\0", ""))) == 1
    stranger = replace(site.keyring, primary_id=(key := new_key("k-evil")).id, keys={key.id: key})
    forger = HoldNotes(site.repository(), stranger)
    forger.place(HoldNote(Hold(held, "mallory", forged.encode("utf-8", "replace").decode()), NOW), site.folder)
    site.catalog.record_restore(restore(1, reason=restored, result=restored, error=restored, backup_id=held))

    listed = told("hold")
    assert len(listed) == 3, listed
    rows = json.loads("\n".join(told("hold", "--json")))
    assert [row["only_on"] for row in rows] == [[], ["office"]]
    assert one_line(rows[0]["reason"]) == rows[0]["reason"] and rows[1]["until"] is None
    (note,) = (note for note in HoldNotes(site.repository(), site.keyring).all() if not note.doubt)
    assert note.hold.reason == rows[0]["reason"]
    assert len(told("restores")) == 2
    page = told("restores", "latest")
    assert sum(line.startswith(("SAFE", "warning", "2026")) for line in page) == 1
    lines = told("audit")
    assert all(line.lstrip()[:1].isdigit() for line in lines[1:])
    assert len(told("release", held)) == 1 and len(told("hold")) == 1


@pytest.fixture
def reasons_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RetentionSite:
    site = RetentionSite(tmp_path, {"office": {"max_age": "7 days"}})
    site.backup(1, verified=True, reason="\x1b[2J\nSAFE")
    for name, value in site.site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return site
