"""What README and SECURITY.md promise has tests that show it, and what is not built yet is named with what is missing."""

from __future__ import annotations

import ast
import re

from twist_dr_tests.site import ROOT

_TESTS = ROOT / "twist_dr_tests"
#: The numbers of what is to be promised and is not built yet, with what is missing: no README states them, and no test can bear them.
_NOT_BUILT = {
    12: "the restore of one tenant: in the settings, schedules and kinds, tenant is only a reserved word",
    13: "the upgrade that takes itself back: releases are put in place by people, with restore and undo_restore beside",
    14: "login, permissions and an API of our own: permissions are the owners of Dagster's definitions, which its page does not check",
}
_LAST = 14


def _section(title: str) -> str:
    return (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _promised() -> set[int]:
    return {int(number) for number in re.findall(r"^(\d+)\. ", _section("What it promises"), re.M)}


def _borne() -> set[int]:
    """The promises that a test's own mark names; one above anything else shows nothing."""
    return {
        argument.value
        for path in _TESTS.rglob("test_*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        for mark in function.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise"
        for argument in mark.args
        if isinstance(argument, ast.Constant)
    }


def test_each_promise_of_the_readme_has_a_test_that_bears_its_number() -> None:
    assert _promised() and _promised() == _borne()


def test_what_is_promised_is_built_or_named_as_missing_and_nothing_is_both() -> None:
    assert _promised() | _NOT_BUILT.keys() == set(range(1, _LAST + 1))
    assert not _promised() & _NOT_BUILT.keys(), (
        "what is built by now is no longer missing: README states it, and a test bears it"
    )


def test_what_the_threat_model_names_as_its_proof_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*test_\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert named and not [name for name in named if not (_TESTS / name).is_file()]
