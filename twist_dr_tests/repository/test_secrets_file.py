"""The secrets file: nothing of it readable but names, each value in its place, and every way to lose it named."""

from __future__ import annotations

import os
import re
import stat
from datetime import datetime, timezone
from pathlib import Path

import pytest

from twist_dr.errors import KeyMissing, SecretMissing, SecretsInvalid, WrongKey
from twist_dr.redaction import forget, leaving
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.repository.secrets_file import MOST_CHARACTERS, SecretsFile
from twist_dr.storage.machine import Grant
from twist_dr_tests.helpers import NOBODY

VALUE = "pass:word with äöü and \udcff"


@pytest.fixture
def file(tmp_path: Path) -> SecretsFile:
    save_keyring(Keyring("k1", {"k1": new_key("k1")}, "new"), tmp_path / "keyring.yaml")
    return of(tmp_path)


def of(folder: Path, application: str = "erp") -> SecretsFile:
    return SecretsFile(folder / "secrets.yaml", application, str(folder / "keyring.yaml"))


def test_a_secret_comes_back_and_the_file_shows_its_name_alone(file: SecretsFile) -> None:
    file.set("S3_SECRET", VALUE)
    file.set("mail.url", "mailtos://ada:vierundzwanzig24@mail.example")
    read = file.reader()
    assert read("S3_SECRET") == VALUE
    text = file.path.read_text()
    assert "S3_SECRET" in text and "pass:word" not in text and "vierund" not in text
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert list(file.listed()["secret"]) == ["S3_SECRET", "mail.url"]
    assert abs((file.listed()["secret"]["S3_SECRET"].set_at - datetime.now(timezone.utc)).total_seconds()) < 60
    read("mail.url")
    assert "vierundzwanzig24" not in leaving("the password vierundzwanzig24 was refused")
    file.remove("S3_SECRET")
    with pytest.raises(SecretMissing, match="twist-dr secrets set S3_SECRET"):
        file.reader()("S3_SECRET")


@pytest.mark.promise(6)
def test_what_was_read_leaves_us_no_more_whatever_the_settings_do_with_it(file: SecretsFile) -> None:
    file.set("A", "it-opens-99")
    forget()
    assert "it-opens-99" in leaving("sh -c 'login it-opens-99'")
    file.reader()("A")
    assert "it-opens-99" not in leaving("sh -c 'login it-opens-99'")


def test_rotation_encrypts_all_anew_and_keeps_when_each_was_set(file: SecretsFile, tmp_path: Path) -> None:
    before = file.set("A", "first-of-them")
    grant = Grant("refresh", datetime(2026, 1, 2, tzinfo=timezone.utc), ("files",), "ada@example.org", ends=datetime(2026, 1, 9, tzinfo=timezone.utc))  # fmt: skip
    with file.held("drive") as held:
        held.commit(grant)
    old = Keyring("k1", {"k1": new_key("k1")}, "new")
    save_keyring(old, tmp_path / "keyring.yaml")
    with pytest.raises(WrongKey, match="put the key of that time back"):
        file.rotate()
    file.path.unlink()
    file.set("A", "first-of-them")
    with file.held("drive") as held:
        held.commit(grant)
    save_keyring(old.with_new_primary(new_key("k2")), tmp_path / "keyring.yaml")
    assert file.rotate() == ["A", "drive"]
    assert file.rotate() == []
    assert {value.key_id for value in file.listed()["secret"].values()} == {"k2"}
    assert file.listed()["secret"]["A"].set_at >= before.set_at
    assert file.reader()("A") == "first-of-them"
    assert file.grant("drive") == grant


def test_a_value_in_anothers_place_or_of_another_application_does_not_open(file: SecretsFile, tmp_path: Path) -> None:
    file.set("A", "of the name A")
    file.set("B", "of the name B")
    text = file.path.read_text()
    (first, second) = re.findall(r"value: \"([^\"]*)\"", text)
    file.path.write_text(text.replace(second, first))
    with pytest.raises(SecretsInvalid, match=r"The secret B in .* was altered.*twist-dr secrets set B"):
        file.reader()("B")
    assert file.reader()("A") == "of the name A"
    with pytest.raises(SecretsInvalid, match=r"another application than shop.*a file of its own"):
        of(tmp_path, "shop").listed()
    file.path.write_text(text.replace('"erp"', '"shop"'))
    with pytest.raises(SecretsInvalid, match="was altered, or belongs to another name or application"):
        of(tmp_path, "shop").reader()("A")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "\0" * len(text),
        lambda text: text.replace("format: 1", "format: 2"),
        lambda text: re.sub(r"value: \"...", 'value: "%%%', text),
        lambda text: text.replace("set: ", "sat: "),
        lambda text: "[]",
        lambda text: text.replace("grants:\n", ""),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_left_as_it_is(file: SecretsFile, spoil: object) -> None:
    file.set("A", "of the name A")
    assert callable(spoil)
    file.path.write_text(spoil(file.path.read_text()))
    before = file.path.read_text()
    with pytest.raises(SecretsInvalid, match=r"is no secrets file.*configuration backup"):
        file.set("B", "of the name B")
    assert file.path.read_text() == before


def test_more_than_is_read_of_a_file_is_not_kept_and_grants_have_room_beside_it(file: SecretsFile) -> None:
    with pytest.raises(SecretsInvalid, match=r"no space for S[0-9]+.*twist-dr secrets remove"):
        for number in range(100):
            file.set(f"S{number}", "ä" * MOST_CHARACTERS)
    assert number > 1 and file.reader()("S0") == "ä" * MOST_CHARACTERS
    for target in map(str, range(8)):
        with file.held(target) as held:
            held.commit(Grant("r" * 4096, datetime(2026, 1, 2, tzinfo=timezone.utc), ("files",), "ada", "a" * 4096))
    assert file.check() == 0


def test_a_grant_of_any_size_leaves_a_file_that_can_be_read(file: SecretsFile) -> None:
    file.set("A", "first-of-them")
    with (
        file.held("drive") as held,
        pytest.raises(SecretsInvalid, match="has no space for what was to be kept there, and is as it was; remove"),
    ):
        held.commit(Grant("r" * 300_000, datetime.now(timezone.utc)))
    assert file.reader()("A") == "first-of-them"
    assert file.grant("drive") is None


def test_a_file_that_others_may_read_is_refused(file: SecretsFile) -> None:
    file.set("A", "of the name A")
    file.path.chmod(0o640)
    with pytest.raises(SecretsInvalid, match=r"mode 640.*chmod 600"):
        file.reader()("A")


def test_a_key_that_is_gone_is_named_by_what_needs_it(file: SecretsFile, tmp_path: Path) -> None:
    file.set("A", "of the name A")
    save_keyring(Keyring("k9", {"k9": new_key("k9")}, "new"), tmp_path / "keyring.yaml")
    with pytest.raises(KeyMissing, match=r"The secret A in .*secrets.yaml needs key 'k1'"):
        file.reader()("A")
    with pytest.raises(SecretMissing, match="There is no"):
        SecretsFile(tmp_path / "other.yaml", "erp", str(tmp_path / "keyring.yaml")).reader()("A")


@pytest.mark.parametrize("name", ["", "1st", "a b", "x" * 65, 'a"b', "a\nb"])
def test_a_name_that_would_not_stand_in_the_settings_is_refused(file: SecretsFile, name: str) -> None:
    with pytest.raises(SecretsInvalid, match="A secret's name is"):
        file.set(name, "value")
    assert not file.path.exists()


def test_processes_that_set_secrets_at_once_lose_none(file: SecretsFile) -> None:
    children = []
    for number in range(6):
        if (child := os.fork()) == 0:
            status = 1
            try:
                file.set(f"S{number}", f"value number {number}")
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert list(file.listed()["secret"]) == [f"S{number}" for number in range(6)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_keeps_in_the_services_folder_is_the_services(file: SecretsFile, tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    file.set("A", "of the name A")
    with file.held("drive"):
        pass
    made = [path for path in tmp_path.iterdir() if path.name != "keyring.yaml"]
    assert len(made) == 3 and {path.stat().st_uid for path in made} == {NOBODY}, made


def test_root_gives_nobody_what_a_link_in_his_folder_leads_to(file: SecretsFile, tmp_path: Path) -> None:
    folder, roots = tmp_path / "service", tmp_path / "roots"
    folder.mkdir(0o700)
    roots.write_text("his")
    os.chown(folder, NOBODY, NOBODY)
    (folder / ".secrets.yaml.lock").symlink_to(roots)
    with pytest.raises(SecretsInvalid, match="symbolic link"):
        SecretsFile(folder / "secrets.yaml", "erp", str(tmp_path / "keyring.yaml")).set("A", "of the name A")
    assert (roots.stat().st_uid, roots.read_text()) == (os.geteuid(), "his")
