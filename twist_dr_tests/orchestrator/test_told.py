"""What Dagster's own command and page say of a launch that is refused, or told what makes no sense: our sentences, last, without lines of code."""

from __future__ import annotations

import sys
from typing import Any

import dagster as dg
import pytest

from twist_dr.orchestrator.uncaught import in_our_form
from twist_dr.watch.status import collect
from twist_dr_tests.site import Site
from twist_dr_tests.test_operations import bare_site, definitions

__all__ = ["bare_site"]


@pytest.fixture
def defs(bare_site: Site, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    return definitions(bare_site, monkeypatch)


@pytest.mark.parametrize(
    ("job", "ops", "said"),
    [
        (
            "restore",
            {"restore": {"config": {"mdoe": "plan", "mode": "replce", "parts": 3}}},
            [
                "ops.restore.config.mdoe: there is no such setting of restore, but mode",
                "ops.restore.config.mode: expected 'plan', 'sandbox', 'replace' or 'schema', found 'replce'",
                "ops.restore.config.parts: expected a text, found 3",
            ],
        ),
        ("scrub", {"scrubs": {"config": {}}}, ["ops.scrubs: there is no such step, but scrub"]),
        ("restore", {"restore_backup": {"config": {"mode": "plan"}}}, ["ops.restore_backup: this step is called restore now"]),
        ("restore_to_time", {"recover_to_point": {}}, ["ops.recover_to_point: this step is called restore_to_time now"]),
        ("backup_full", {"full_backup": {"config": {"x": 1}}}, ["ops.full_backup.config.x: there is no such setting of backup_full, but label, parts, reason, targets"]),
        # Where we find no mistake of our own, Dagster's is told.
        ("scrub", {"scrub": {"config": {}, "more": 1}}, ['Received unexpected config entry "more" at path root:ops:scrub.']),
    ],
)  # fmt: skip
def test_mistakes_in_a_run_config_are_told_at_their_places(
    defs: dg.Definitions, job: str, ops: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError) as wrong:
        dg.validate_run_config(defs.resolve_job_def(job), {"ops": ops})
    told = str(in_our_form(wrong.value)).splitlines()[1:]
    assert len(told) == len(said) and all(line.startswith(f"  {each}") for line, each in zip(told, said, strict=True))


def _failed(defs: dg.Definitions, job: str, config: dict[str, Any]) -> tuple[str | None, list[str]]:
    run_config = {"ops": {job: {"config": config}}} if config else {}
    result = defs.resolve_job_def(job).execute_in_process(run_config, raise_on_error=False)
    (event,) = (each for each in result.all_events if each.is_step_failure)
    found = event.step_failure_data
    assert found.error is not None
    inner = found.error.cause or found.error
    return found.user_failure_data and found.user_failure_data.description, list(inner.stack)


def test_a_refusal_shows_no_lines_of_code_and_a_defect_after_it_does(
    defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, stack = _failed(defs, "restore", {"mode": "replace"})
    assert (said, stack) == ("A restore needs a reason, for those who find it later; write it in reason.", [])
    monkeypatch.setattr(collect, "collect", lambda *told: 1 // 0)
    said, stack = _failed(defs, "status", {})
    assert said is None and stack and not hasattr(sys, "tracebacklimit")


def test_a_value_that_dagster_lets_pass_is_told_as_the_others_are(defs: dg.Definitions) -> None:
    result = defs.resolve_job_def("backup_base").execute_in_process(
        {"ops": {"base_backup": {"config": {"max_chain": -1}}}}, raise_on_error=False
    )
    failed = result.failure_data_for_node("base_backup")
    assert failed is not None and failed.user_failure_data is not None
    assert failed.user_failure_data.description == (
        "What backup_base was told has a mistake, and nothing was begun:\n"
        "  max_chain: expected greater than or equal to 0, found -1"
    )


def test_the_command_says_the_sentence_last_and_nothing_of_its_own_work(bare_site: Site, as_commands: None) -> None:
    refused = bare_site.job("restore", {"restore": {"config": {"mode": "replace"}}}).expect(1).text
    assert refused.splitlines()[-1] == "A restore needs a reason, for those who find it later; write it in reason."
    wrong = bare_site.job("restore", {"restore": {"config": {"mode": "replce"}}}).expect(1).text
    assert wrong.endswith(
        "twist-dr: What the run was told has a mistake, and nothing was begun:\n"
        "  ops.restore.config.mode: expected 'plan', 'sandbox', 'replace' or 'schema', found 'replce'\n"
    )
    for text in (refused, wrong):
        assert not [word for word in (" DEBUG ", "Traceback", 'File "') if word in text], text
