"""twist-dr init: what it writes loads, its examples too, and nothing that exists is lost."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest

import twist_dr
from twist_dr.cli.init import write_initial_files
from twist_dr.errors import SettingsError
from twist_dr.repository.keys import load_keyring
from twist_dr.settings import Settings, load_settings, parse_settings
from twist_dr.storage.options import providers
from twist_dr_tests.site import ROOT

URL = "postgresql://erp:word@db.example:5432/erp"
#: As the file's head says: a # with one space explains, every other one is an example.
EXAMPLE = re.compile(r"^#(\S|  )")


def example_blocks(lines: list[str]) -> list[range]:
    """Line numbers of each run of examples."""
    blocks: list[range] = []
    begin = None
    for number, line in enumerate([*lines, ""]):
        if EXAMPLE.match(line):
            begin = number if begin is None else begin
        elif begin is not None:
            blocks.append(range(begin, number))
            begin = None
    return blocks


def uncommented(text: str, blocks: list[range]) -> str:
    lines = text.splitlines()
    for block in blocks:
        for number in block:
            lines[number] = lines[number][1:]
    return "\n".join(lines)


def variables(text: str) -> dict[str, str]:
    """A value for each variable that the text names, of the kind that its place wants."""
    names = re.findall(r"(?<!\$)\$\{(\w+)\}", text)
    return {name: URL if name.endswith("URL") else "value" for name in names}


def template(tmp_path: Path) -> str:
    return write_initial_files(tmp_path, application="shop")[0].read_text()


def test_the_written_files_load_as_they_are(tmp_path: Path) -> None:
    paths = write_initial_files(tmp_path / "new" / "folder", application="shop")
    assert [path.name for path in paths[:5]] == [
        "twist-dr.yaml",
        "keyring.yaml",
        "dagster.yaml",
        "workspace.yaml",
        "environment",
    ]
    examples = sorted(path.name for path in (ROOT / "deploy" / "examples").iterdir())
    assert [path.parent.name + "/" + path.name for path in paths[5:]] == [f"examples/{name}" for name in examples]
    settings = load_settings(paths[0], {"DATABASE_URL": URL})
    assert settings.application == "shop"
    assert {name: target.type for name, target in settings.enabled_targets.items()} == {"disk": "local"}
    keyring = load_keyring(settings.encryption.keyring)
    assert len(keyring.primary.secret) == 32
    templates = Path(twist_dr.__file__).parent / "templates"
    for path in paths[2:4]:
        assert path.read_text() == (templates / path.name).read_text()


def test_only_their_owner_can_read_the_written_files(tmp_path: Path) -> None:
    for path in write_initial_files(tmp_path, application="shop"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_applications_never_get_the_same_key(tmp_path: Path) -> None:
    keys = [
        load_keyring(str(write_initial_files(tmp_path / name, application=name)[1])).primary.secret for name in "ab"
    ]
    assert keys[0] != keys[1]


def test_each_commented_example_loads_when_it_is_uncommented(tmp_path: Path) -> None:
    text = template(tmp_path)
    blocks = example_blocks(text.splitlines())
    assert len(blocks) >= 12
    for block in blocks:
        changed = uncommented(text, [block])
        parse_settings(changed, tmp_path / "twist-dr.yaml", variables(changed))


def test_all_commented_examples_load_together_and_show_every_setting(tmp_path: Path) -> None:
    text = template(tmp_path)
    changed = uncommented(text, example_blocks(text.splitlines()))
    settings = parse_settings(changed, tmp_path / "twist-dr.yaml", variables(changed))
    assert {target.type for target in settings.storage_targets.values()} == set(providers()), "each kind has an example"
    for section in Settings.model_fields:
        assert section in settings.model_fields_set, f"{section} is not shown"
    shown = {name for target in settings.storage_targets.values() for name in target.model_fields_set}
    known = {name for target in settings.storage_targets.values() for name in type(target).model_fields}
    for name in known - shown:
        assert re.search(rf"^ *# - {name}: ", text, re.MULTILINE), f"storage_targets.*.{name} is not explained"


@pytest.mark.parametrize("existing", ["twist-dr.yaml", "keyring.yaml", "dagster.yaml", "workspace.yaml"])
def test_a_file_that_exists_is_kept_and_nothing_else_is_written(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with pytest.raises(SettingsError, match=rf"{existing} exists, and twist-dr init overwrites nothing"):
        write_initial_files(tmp_path, application="shop")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "mine")]


def test_a_second_init_says_briefly_what_is_there(tmp_path: Path) -> None:
    write_initial_files(tmp_path, application="shop")
    with pytest.raises(
        SettingsError, match=r"and \d+ more exist, and twist-dr init overwrites nothing; move them away, or"
    ) as error:
        write_initial_files(tmp_path, application="shop")
    assert str(error.value).count(str(tmp_path)) == 3


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "keyring.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match=r"keyring\.yaml exists"):
        write_initial_files(tmp_path, application="shop")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_written_to_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"Cannot write .*file.*; fix that"):
        write_initial_files(tmp_path / "file" / "below", application="shop")


@pytest.mark.parametrize("name", ["", "Shop", "my-shop", "1shop", "s" * 41, "shop\n", "a: b", "shop/../x", "größe"])
def test_a_name_that_cannot_be_a_folder_or_a_key_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="at most 40 lower-case letters, digits and '_' that starts with a letter"):
        write_initial_files(tmp_path, application=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["true", "null", "on", "no"])
def test_a_name_that_yaml_would_take_for_something_else_stays_a_name(tmp_path: Path, name: str) -> None:
    paths = write_initial_files(tmp_path, application=name)
    assert load_settings(paths[0], {"DATABASE_URL": URL}).application == name


def test_a_shell_that_knows_nothing_finds_all_that_a_night_needs_in_the_environment_file(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    write_initial_files(folder, application="shop")
    script = f". '{folder}/environment' && echo $DATABASE_URL && cat \"$DAGSTER_HOME/dagster.yaml\" >/dev/null && twist-dr keys list"
    done = subprocess.run(
        ["sh", "-c", script], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "postgresql://user:password@host:5432/database"
    assert done.stdout.splitlines()[1].endswith("primary")
