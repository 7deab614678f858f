"""Errors are data: their codes are written down and stay, their sentences are made of them in one place, and nobody takes one apart."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from twist_dr.errors import (
    ArtifactInvalid,
    CopyFailed,
    StagingFull,
    TargetUnavailable,
    TwistDRError,
    about,
    clause_of,
    code_of,
    sentence,
)
from twist_dr_tests.error_page import PACKAGE, PAGE, kinds, meaning, page

#: What takes our sentences apart, as far as the source shows it.
_TAKEN_APART = re.compile(
    r"""removeprefix\(f["']\{[^}]+\}:[ ]["']\)      # a target's name before a sentence
    | str\(\w*(?:error|failure|unavailable|refused|why)\)\.(partition|rpartition|replace|removeprefix|split\(["'])
    | partition\(["'];[ ]["']\) | split\(["'];[ ]["']\)
    | \.(what|remedy|clause)\.(partition|rpartition|split|replace|removeprefix)\(""",
    re.VERBOSE,
)


@pytest.mark.parametrize(
    ("what", "remedy", "target", "told"),
    [
        ("the folder is gone", "mount it again", "nas", "nas: the folder is gone; mount it again."),
        ("The keyring is gone.", None, None, "The keyring is gone."),
        ("it holds nothing", None, "nas", "nas: it holds nothing"),
        ("It is full.", "free some space", None, "It is full; free some space."),
        ("Which one", "is it this one?", None, "Which one; is it this one?"),
        # What is to be copied ends where it ends.
        ("There is none", "see all with: twist-dr list", None, "There is none; see all with: twist-dr list"),
        ("It is away", "wait: it comes back", None, "It is away; wait: it comes back"),
    ],
)
def test_a_sentence_is_made_of_what_happened_what_to_do_and_the_storage_target(
    what: str, remedy: str | None, target: str | None, told: str
) -> None:
    assert sentence(what, remedy, target) == told
    error = TwistDRError(what, remedy=remedy, target=target)
    assert str(error) == told
    assert clause_of(error) == error.clause == told.removeprefix(f"{target}: ")


def test_the_page_of_codes_says_of_each_kind_what_its_class_does() -> None:
    assert PAGE.read_text() == page(), (
        "run: python -m twist_dr_tests.error_page, unless a code has changed: a code stays as it is"
    )


def test_each_code_is_one_kind_of_error_and_says_what_it_means() -> None:
    every = kinds()
    assert [code for code, count in Counter(kind.code for kind in every).items() if count > 1] == []
    assert all(meaning(kind).endswith((".", "?")) and "Base of" not in meaning(kind) for kind in every)
    assert len({meaning(kind) for kind in every}) == len(every)


def test_any_error_has_a_code_by_the_same_rule() -> None:
    assert (TargetUnavailable.code, CopyFailed("it failed").code) == ("target_unavailable", "copy_failed")
    assert (code_of(TargetUnavailable("x")), code_of(FileNotFoundError())) == (
        "target_unavailable",
        "file_not_found_error",
    )
    assert clause_of(KeyError()) == "KeyError"


def test_a_full_disk_of_this_machine_is_not_blamed_on_the_storage_target_that_was_read() -> None:
    for error, blamed in (
        (StagingFull("full"), None),
        (ArtifactInvalid("bad"), "nas"),
        (ArtifactInvalid("bad", target="s3"), "s3"),
    ):
        with pytest.raises(type(error)) as raised, about("nas"):
            raise error
        assert raised.value.target == blamed


def test_no_module_takes_the_sentence_of_an_error_apart() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{number}": line.strip()
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _TAKEN_APART.search(line)
    }
    assert found == {}
