"""Every command that lists, shows or changes prints one JSON document with --json, and nothing else; a new one cannot forget it."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twist_dr.__main__ import main
from twist_dr.catalog import AlertRow
from twist_dr.cli import _parser
from twist_dr.operations.table import JOBS
from twist_dr.restore.to_time import sandbox_base
from twist_dr.system.words import command
from twist_dr_tests.cli.test_launching import Jobs
from twist_dr_tests.recovery.test_sandbox import NAMES, make
from twist_dr_tests.retention.test_replaced import Scene
from twist_dr_tests.retention_site import NOW
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.watch.alerts.mailbox import webhook

#: They write files, serve, or go on until they are stopped.
WITHOUT = {"init", "metrics", "wal receive", "wal ship"}
#: How each of the others is called; the order matters where one changes what the next lists.
CALLS = {
    "doctor": "doctor",
    "status": "status",
    "list": "list",
    "list, replaced": "list --replaced",
    "drop-replaced": "drop-replaced 20261120T000001Z-restore-3f9a --confirm erp",
    "diff": "diff {first} {second}",
    "restores": "restores",
    "sandboxes": "sandboxes",
    "sandboxes, one": f"sandboxes remove {NAMES[0]}",
    "settle": "settle",
    "show": "show {first}",
    "catalog rebuild": "catalog rebuild --from office",
    "recover": "recover --from-target {target} --keyring {keyring} --application erp",
    "wal status": "wal status",
    "alerts": "alerts",
    "alerts acknowledge": "alerts acknowledge all",
    "alerts resolve": "alerts resolve 1",
    "alerts test": "alerts test",
    "hold": "hold",
    "hold, one": "hold {first} --reason look",
    "release": "release {first}",
    "audit": "audit",
    "audit, verify": "audit verify",
    "keys list": "keys list",
    "keys new": "keys new --id k2",
    "targets authorize": "targets authorize office",
    "secrets set": "secrets set MAIL",
    "secrets list": "secrets list",
    "secrets rotate": "secrets rotate",
    "secrets remove": "secrets remove MAIL",
}


def leaves(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that can be typed, and its parser; one with actions can be typed without."""
    if parser.get_default("run") is not None:
        yield " ".join(words), parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from leaves(below, *words, name)


def test_every_command_has_it() -> None:
    every = leaves(_parser([], Jobs()))
    found = {name: any("--json" in action.option_strings for action in parser._actions) for name, parser in every}
    assert {name for name, has in found.items() if not has} == WITHOUT
    assert {name.partition(",")[0] for name in CALLS} == set(found) - WITHOUT - {
        command(job.name).split()[1] for job in JOBS
    }


@pytest.fixture
def scene(newest_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A site with a little of everything."""
    scene = Scene(tmp_path, newest_server)
    site = scene.site.site
    site.database_url = newest_server.url()
    site.set(wal={"source": "receive"})
    scene.kept("1")
    make(sandbox_base(site.settings()), NAMES[0])
    alert = AlertRow(
        None, "erp", "job_failed:scrub", "job_failed", "error", "active", "scrub failed", "look", NOW, NOW
    )  # fmt: skip
    scene.site.catalog.save_alert(alert)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return scene


def test_what_each_prints_is_one_document(
    scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, documents = scene.site.site, dict[str, Any]()
    first, second, _ = scene.site.listed()
    with webhook() as hook:
        site.set(alerts={"channels": {"chat": {"url": hook.url}}})
        for name, words in CALLS.items():
            monkeypatch.setattr("sys.stdin", io.StringIO("the-value-of-it\n"))
            places = {"target": site.folder / "targets" / "office", "keyring": site.keyring_path}
            main([*words.format(first=first, second=second, **places).split(), "--json"])
            said = capsys.readouterr()
            try:
                documents[name] = json.loads(said.out)
            except ValueError:
                pytest.fail(f"twist-dr {words} --json printed {said.out!r}, and beside it {said.err!r}")
    assert [each["id"] for each in documents["sandboxes"]] == [NAMES[0]]
    assert documents["sandboxes, one"] == {"action": "remove", "sandbox": NAMES[0]}
    assert documents["keys list"] == [{"id": "k1", "check_value": site.keyring.keys["k1"].check_value, "primary": True}]
    assert [each["name"] for each in documents["secrets list"]] == ["MAIL"]
    assert (documents["release"]["holds"], documents["settle"]) == (1, [])
    assert documents["alerts resolve"]["resolved_at"].endswith("+00:00")


def test_it_may_stand_before_an_action_too(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", "--json", "acknowledge", "all"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["acknowledged"]


def test_what_is_refused_is_one_document_too(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("show nope", "drop-replaced x", "sandboxes remove x", "catalog rebuild --from nope"):
        assert main([*words.split(), "--json"]) == 1
        said = capsys.readouterr()
        assert said.err == f"twist-dr: {json.loads(said.out)['error']['message']}\n"
