"""twist-dr backup, restore, undo and so on: the same run as ``dagster job execute`` makes, asked for where it changes something, told like a person."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
import pytest

from twist_dr.cli import main
from twist_dr.cli.launching import Launched
from twist_dr.errors import LaunchRefused
from twist_dr.operations.table import JOBS, OPERATIONS
from twist_dr.operations.told import understood
from twist_dr.orchestrator.launch import launch
from twist_dr.system.events import Ended, Line, Listener, Planned
from twist_dr.watch.audit import audit_anchor
from twist_dr_tests.site import TWIST_DR, Site
from twist_dr_tests.test_operations import bare_site

__all__ = ["bare_site"]


# -- the same run -----------------------------------------------------------------------------------------------------


def _runs(site: Site) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(site.folder / "dagster")) as instance:
        return [record.dagster_run for record in instance.get_run_records()]


def test_it_is_the_run_that_dagster_job_execute_makes_and_each_sentence_is_said_once(
    bare_site: Site, as_commands: None
) -> None:
    site = bare_site
    (site.folder / "targets" / "archive").write_text("in the way")
    theirs, ours = site.job("test_storage_targets"), site.command("test-targets")
    assert theirs.status == ours.status == 1
    newest, oldest = _runs(site)
    for name in ("job_name", "run_config", "status", "job_code_origin", "remote_job_origin", "root_run_id"):
        assert getattr(newest, name) == getattr(oldest, name), name
    assert newest.tags.keys() == oldest.tags.keys() and newest.status == dg.DagsterRunStatus.FAILURE
    first, second = site.catalog().attempts("erp")
    for name in ("application", "job", "label", "who", "state", "step", "error", "error_code"):
        assert getattr(first, name) == getattr(second, name), name
    assert first.error_code == "target_unavailable"
    audited = [(each.action, each.who, each.subject, each.result) for each in site.catalog().audit("erp")]
    assert len(set(audited)) == len(audited) / 2

    *lines, last = ours.text.splitlines()
    assert re.match(r"twist-dr: 1 of 2 storage targets cannot be used\. archive: .*", last), ours.text
    assert len(lines) == 2 and lines[0].startswith("office (") and lines[1].startswith("warning: archive (")
    assert first.run_id not in ours.text


def test_a_person_sees_a_bar_and_an_interrupt_leaves_nothing(backed_up: Site) -> None:
    site = backed_up
    site.set(scrub={"max_mib_per_second": 1})
    process, terminal = pty.fork()
    if not process:
        os.chdir(site.folder)
        os.execve(TWIST_DR[0], [*TWIST_DR, "scrub", "all=true"], {**os.environ, **site.environment, "TERM": "xterm"})
    said, deadline = b"", time.monotonic() + 120
    while b"B/s]" not in said and time.monotonic() < deadline:
        said += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 4096):
            said += more
    except OSError:  # how a terminal says that nobody holds it any more
        pass
    os.close(terminal)
    text = said.decode()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1, text
    assert re.search(r"\rreading \S+: +\d+%", text) and text.endswith("twist-dr: stopped\r\n"), text
    assert "Traceback" not in text and "DEBUG" not in text
    (run,) = _runs(site)
    assert run.status == dg.DagsterRunStatus.FAILURE  # as an interrupt ends ``dagster job execute``
    (attempt,) = site.catalog().attempts("erp", state="cancelled")
    assert attempt.job == "scrub"


# -- what it is told --------------------------------------------------------------------------------------------------


def test_text_becomes_what_the_setting_is() -> None:
    def told(job: str, **text: str) -> dict[str, Any]:
        return understood(OPERATIONS[job], text).model_dump(exclude_unset=True)

    replaced = told("restore", mode="replace", run_migrations="false", reason="a=b")
    assert replaced == {"mode": "replace", "run_migrations": False, "reason": "a=b"}
    assert told("backup_base", max_chain="3") == {"max_chain": 3}
    assert told("cleanup", allow_delete_fraction="0.5") == {"allow_delete_fraction": 0.5}
    assert told("ship_wal") == {}


@pytest.mark.parametrize(
    ("job", "told", "mistakes"),
    [
        (
            "restore",
            {"mdoe": "plan", "mode": "replce", "run_migrations": "maybe"},
            [
                "mdoe: there is no such setting of restore, but mode",
                "mode: expected 'plan', 'sandbox', 'replace' or 'schema', found 'replce'",
                "run_migrations: expected true or false, found 'maybe'",
            ],
        ),
        ("drill", {"x": "y"}, ["x: there is no such setting of drill, but recovery, target"]),
        ("ship_wal", {"x": "y"}, ["x: there is no such setting of ship_wal"]),
        ("backup_base", {"max_chain": "many"}, ["max_chain: expected a whole number, found 'many'"]),
        ("backup_base", {"max_chain": "-1"}, ["max_chain: expected greater than or equal to 0, found '-1'"]),
    ],
)
def test_every_mistake_is_told_at_once(job: str, told: Mapping[str, str], mistakes: list[str]) -> None:
    with pytest.raises(LaunchRefused) as refused:
        understood(OPERATIONS[job], told)
    assert str(refused.value).splitlines()[1:] == [f"  {mistake}" for mistake in mistakes]


# -- the command ------------------------------------------------------------------------------------------------------


@dataclass
class Jobs:
    """Stands for the orchestrator: keeps what was launched, and ends as it is told."""

    ends: list[str | None] = field(default_factory=list)
    plans: Mapping[str, str] = field(default_factory=dict)
    launched: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def __call__(self, job: str, told: Mapping[str, Any], watching: Listener) -> Launched:
        self.launched.append((job, told))
        watching(Planned(self.plans))
        watching(Line("looking"))
        watching(Line("one is slow", warning=True))
        code = self.ends.pop(0) if self.ends else None
        watching(Ended(job, "failed", error="It cannot be", error_code=code) if code else Ended(job, "succeeded"))
        return Launched("run", code is None, code == "key_error", {job: {"rows": 3}})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def settings(bare_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bare_site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", io.StringIO())


def test_every_job_has_a_command_that_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"], Jobs())
    commands = re.findall(r"^    ([a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    jobs, helps = Jobs(), {}
    for name in commands[-len(JOBS) :]:
        with pytest.raises(SystemExit):
            main([name, "--help"], jobs)
        helps[name] = capsys.readouterr().out
    for operation, told in zip(JOBS, helps.values(), strict=True):
        assert all(f"  {name}=" in told for name in operation.config.model_fields), told
    assert {
        "backup",
        "verify",
        "restore",
        "restore-to-time",
        "undo",
        "cleanup",
        "drill",
        "scrub",
        "test-targets",
        "ship-wal",
    } <= set(helps)
    assert "mode=plan|sandbox|replace|schema  (default: plan)" in helps["restore"]


def test_what_is_said_and_the_outcome_as_json(settings: None, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = Jobs()
    assert main(["backup", "label=pre-update", "targets=office"], jobs) == 0
    assert capsys.readouterr() == ("looking\n", "warning: one is slow\n")
    jobs.ends = ["copy_failed"]
    assert main(["backup", "--json", "label=weekly"], jobs) == 1
    said = capsys.readouterr()
    assert said.err == "looking\nwarning: one is slow\ntwist-dr: It cannot be\n"
    assert json.loads(said.out) == {
        "job": "backup_full", "told": {"label": "weekly"}, "run_id": "run", "succeeded": False, "defect": False,
        "results": {"backup_full": {"rows": 3}}, "error": {"code": "copy_failed", "message": "It cannot be"},
    }  # fmt: skip
    assert jobs.launched == [
        ("backup_full", {"label": "pre-update", "targets": "office"}),
        ("backup_full", {"label": "weekly"}),
    ]


def test_a_defect_is_told_as_one_with_where_to_look(settings: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backup"], Jobs(["key_error"])) == 1
    assert capsys.readouterr().err.endswith(
        "twist-dr: It cannot be; this is a defect, and the page of the run run has all of it\n"
    )


@pytest.mark.parametrize(
    "words", [["restore", "mode"], ["restore", "mode=plan", "mode=plan"], ["restore", "mdoe=plan"]]
)
def test_wrong_usage_begins_nothing(settings: None, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    jobs = Jobs()
    assert main(words, jobs) == 2
    assert not jobs.launched and capsys.readouterr().err.startswith("twist-dr: ")
    assert main([*words, "--json"], jobs) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "launch_refused"


def test_where_dagster_cannot_keep_its_history_is_said_in_a_sentence(
    settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (broken := tmp_path / "broken").mkdir()
    (broken / "dagster.yaml").write_text("storage: [")
    for home in (tmp_path / "nowhere", broken):
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        with pytest.raises(LaunchRefused, match=r"keeps its history in \(.*\); correct DAGSTER_HOME"):
            launch("test_storage_targets", {}, lambda event: None)


SANDBOX = {"mode": "sandbox", "reason": "look"}
PLAN = {"mode": "plan"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["restore"], PLAN),
        (["restore", "backup=latest"], {"backup": "latest", **PLAN}),
        (["restore", "mode=replace", "--plan"], PLAN),
        (["restore", "--yes", "mode=sandbox", "reason=look"], {**SANDBOX, "confirm": "erp"}),
        (["restore", "mode=replace", "--yes", "reason=look"], {**SANDBOX, "mode": "replace", "confirm": "erp"}),
        (["restore", "mode=replace", "confirm=erp"], {"mode": "replace", "confirm": "erp"}),
        (["restore-to-time", "mode=cluster", "folder=/new", "--plan"], {"mode": "plan", "folder": ""}),
        (["undo", "--plan"], {"confirm": ""}),
        (["undo", "--yes", "restore=r1"], {"restore": "r1", "confirm": "erp"}),
        (["cleanup", "--plan"], {"dry_run": True}),
        (["cleanup", "dry_run=true"], {"dry_run": True}),
        (["cleanup", "--yes"], {}),
    ],
)
def test_a_plan_is_launched_at_once_and_so_is_what_is_confirmed(
    settings: None, words: list[str], told: Mapping[str, Any]
) -> None:
    jobs = Jobs()
    assert main(words, jobs) == 0
    assert [given for _, given in jobs.launched] == [told]


@pytest.mark.parametrize("words", [["restore", "mode=sandbox"], ["undo", "reason=x"], ["cleanup"]], ids="-".join)
def test_without_a_terminal_nothing_is_changed_that_was_not_confirmed(
    settings: None, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs()
    assert main(words, jobs) == 1
    assert not jobs.launched
    assert (
        "there is no terminal to ask at; add --yes to do it, or --plan to see what it would do"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "ends", "typed", "told"),
    [
        (["restore", "mode=replace"], None, "wrong import\nerp\n", {"mode": "replace", "reason": "wrong import", "confirm": "erp"}),
        (["restore", "mode=replace", "reason=x"], None, "yes\n", None),
        (["restore", "mode=sandbox", "reason=look"], None, "yes\n", {**SANDBOX, "confirm": "erp"}),
        (["restore", "mode=sandbox", "reason=look"], None, "", None),
        (["restore", "mode=replace", "reason=x"], "restore_refused", "erp\n", None),
        (["undo", "reason=x"], "restore_unconfirmed", "erp\n", {"reason": "x", "confirm": "erp"}),
        (["undo", "reason=x"], "restore_error", "erp\n", None),
        (["cleanup"], None, "yes\n", {}),
        (["cleanup"], None, "no\n", None),
    ],
)  # fmt: skip
def test_at_a_terminal_the_plan_is_shown_and_the_person_asked(
    settings: None,
    words: list[str],
    ends: str | None,
    typed: str,
    told: Mapping[str, Any] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    jobs = Jobs([ends])
    assert main(words, jobs) == (0 if told is not None else 1)
    (plan_of, plan), *others = jobs.launched
    assert OPERATIONS[plan_of].plan.items() <= plan.items()
    assert [given for _, given in others] == [told] * (told is not None)


@pytest.mark.parametrize(
    ("words", "plans"),
    [(["restore", "mode=replace", "reason=x"], {"backup": "b1"}), (["undo", "reason=x"], {"restore": "r1"})],
)
def test_what_was_shown_is_what_is_done_though_a_newer_one_came_before_the_answer(
    settings: None, words: list[str], plans: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("erp\n"))
    jobs = Jobs(plans=plans)
    assert main(words, jobs) == 0
    assert plans.items() <= jobs.launched[1][1].items()


@pytest.mark.parametrize("words", [["backup"], ["backup", "--json"]], ids="-".join)
def test_a_reader_that_has_seen_enough_ends_no_run_and_changes_no_exit_status(
    settings: None, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for ends, status in ((["copy_failed"], 1), ([None], 0)):
        for streams in (["stdout"], ["stdout", "stderr"]):
            with monkeypatch.context() as patched, _nobody_reads() as gone:
                for stream in streams:
                    patched.setattr(f"sys.{stream}", gone)
                assert main(words, Jobs([*ends])) == status


@contextmanager
def _nobody_reads() -> Iterator[TextIO]:
    read, write = os.pipe()
    os.close(read)
    gone = open(write, "w", encoding="ascii")  # noqa: SIM115
    yield gone
    with suppress(BrokenPipeError):
        gone.close()


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"], ["audit", "verify"], ["status"]], ids="-".join)
def test_a_reader_that_has_seen_enough_makes_nothing_good(
    settings: None, bare_site: Site, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_site.keyring_path.chmod(0o644)
    bare_site.catalog().append_audit("erp", who="eva", action="hold", subject="b", result="done")
    anchor = audit_anchor(bare_site.settings())
    anchor.parent.mkdir(parents=True)
    anchor.write_text(json.dumps({"seq": 7, "digest": "0" * 64}))
    with monkeypatch.context() as patched, _nobody_reads() as gone:
        patched.setattr("sys.stdout", gone)
        assert main(words, Jobs()) in (1, 2)


def test_a_run_that_dagster_will_forget_is_told(
    settings: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    assert main(["backup"], Jobs()) == 0
    assert "DAGSTER_HOME is not set" in capsys.readouterr().err


def test_what_needs_no_orchestrator_does_not_read_the_table_of_operations(bare_site: Site) -> None:
    program = "import sys; from twist_dr.__main__ import main; main(['list']); print(*{'dagster', 'twist_dr.operations.table'} & set(sys.modules))"
    done = subprocess.run(
        [TWIST_DR[0], "-c", program], env={**os.environ, **bare_site.environment}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "", done
