"""What deploy/ starts are commands that exist, spelled as they are."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from twist_dr.cli import _parser
from twist_dr_tests.cli.test_launching import Jobs
from twist_dr_tests.site import ROOT, beside


def _units() -> list[Path]:
    return sorted((ROOT / "deploy" / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", _units(), ids=lambda unit: unit.name)
def test_a_systemd_unit_starts_a_command_that_exists(unit: Path) -> None:
    lines = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line and line[0] not in "#[")
    program, *arguments = shlex.split(lines["ExecStart"])
    if Path(program).name == "twist-dr":
        assert callable(_parser([], Jobs()).parse_args(arguments).run)
    else:
        _assert_dagster_takes(Path(program).name, arguments)
    # A service that is ended in the middle of its work must have time for it, and one that gave up is what nobody notices.
    assert lines["Restart"] == "always" and lines["StartLimitIntervalSec"] == "0"
    assert lines["TimeoutStopSec"] in ("60", "6h")


@pytest.mark.parametrize("unit", _units(), ids=lambda unit: unit.name)
def test_a_systemd_unit_starts_where_only_its_own_folder_is_there(unit: Path) -> None:
    home, *others = _words(unit, "ReadWritePaths")
    assert home in _words(unit, "WorkingDirectory")
    assert others and all(path.startswith("-/") for path in others), "systemd refuses to start for one that is missing"


@pytest.mark.parametrize("unit", _units(), ids=lambda unit: unit.name)
def test_a_systemd_unit_finds_its_programs_and_those_of_the_machine(unit: Path) -> None:
    (variable,) = _words(unit, "Environment")
    folders = variable.removeprefix("PATH=").split(":")
    assert folders[0] == str(Path(_words(unit, "ExecStart")[0]).parent) and "/usr/bin" in folders
    assert all(folder.startswith("/") for folder in folders), "systemd expands no $PATH"


def test_the_unit_that_restores_may_write_beside_media_folders_and_where_maintenance_is_told() -> None:
    (unit,) = (unit for unit in _units() if unit.name == "twist-dr-code.service")
    writable = [Path(path.lstrip("-")) for path in _words(unit, "ReadWritePaths")]
    template = (ROOT / "twist_dr" / "templates" / "twist-dr.yaml").read_text().replace("@application@", "erp")
    for path in ("/srv/erp/media", "/run/erp/maintenance", "/var/lib/node_exporter/twist_dr.prom"):
        assert f" {path}" in template, "what the settings give as an example"
        assert Path(path).parent in writable and Path(path) not in writable
    assert not _words(unit, "RestrictSUIDSGID"), "a media folder that hands its group on could not be restored"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("unit", _units(), ids=lambda unit: unit.name)
def test_systemd_understands_every_line_of_a_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    program = _words(unit, "ExecStart")[0]
    copy.write_text(unit.read_text().replace(f"ExecStart={program}", f"ExecStart={sys.executable}"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _words(unit: Path, name: str) -> list[str]:
    """What a unit gives to a setting, on all lines with it."""
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return [word for setting, _, value in lines if setting == name for word in shlex.split(value)]


def _assert_dagster_takes(program: str, arguments: list[str]) -> None:
    """Its own parser knows the command and each option."""
    command = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    help_text = subprocess.run([beside(program), *command, "--help"], capture_output=True, text=True, check=True).stdout
    for option in (each for each in arguments if each.startswith("-")):
        assert f" {option}," in help_text, option


def test_the_compose_file_starts_commands_that_exist_and_they_share_the_spool() -> None:
    document = yaml.safe_load((ROOT / "deploy" / "compose" / "wal.yaml").read_text())
    services = document["services"]
    assert set(services) == {"twist-dr-wal-receive", "twist-dr-wal-ship"}
    for service in services.values():
        program, *arguments = service["command"]
        assert program == "twist-dr" and callable(_parser([], Jobs()).parse_args(arguments).run)
    (volume,) = document["volumes"]
    assert all(f"{volume}:/var/lib/twist-dr" in service["volumes"] for service in services.values())


def test_the_scratch_service_has_no_network_and_no_secret_and_nothing_of_ours() -> None:
    document = yaml.safe_load((ROOT / "deploy" / "compose" / "scratch.yaml").read_text())
    (service,) = document["services"].values()
    assert service["network_mode"] == "none" and "networks" not in service and "ports" not in service
    assert "env_file" not in service and set(service["environment"]) == {"POSTGRES_HOST_AUTH_METHOD", "PGDATA"}
    assert [volume.partition(":")[0] for volume in service["volumes"]] == list(document["volumes"])
    assert "listen_addresses=" in service["command"]


def test_the_examples_everywhere_are_of_one_installation() -> None:
    """The programs in /opt/twist-dr, the settings in /srv/erp-dr: who copies from several pages gets one that works."""
    texts = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *_units(),
        *(ROOT / "twist_dr" / "templates").rglob("*.yaml"),
    ]
    for path in texts:
        text = path.read_text()
        assert (
            re.findall(r"(?<!/srv/)\berp-dr\b|(?<!/opt)/twist-dr(?=/bin|/venv|/twist-dr\.yaml|/environment)", text)
            == []
        ), path
