"""What README and SECURITY.md promise has tests that show it."""

from __future__ import annotations

import re

from twist_dr_tests.site import ROOT

_TESTS = ROOT / "twist_dr_tests"


def _section(title: str) -> str:
    return (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_each_promise_of_the_readme_has_a_test_that_bears_its_number() -> None:
    promised = set(re.findall(r"^(\d+)\. ", _section("What it promises"), re.M))
    borne = {
        number
        for path in _TESTS.rglob("test_*.py")
        for numbers in re.findall(r"mark\.promise\(([\d, ]+)\)", path.read_text())
        for number in re.findall(r"\d+", numbers)
    }
    assert promised and promised == borne


def test_what_the_threat_model_names_as_its_proof_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*test_\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert named and not [name for name in named if not (_TESTS / name).is_file()]
