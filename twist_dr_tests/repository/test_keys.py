"""The keyring, as a file and in the environment."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from twist_dr.errors import KeyMissing, KeyringInvalid, WrongKey
from twist_dr.repository.keys import Key, Keyring, load_keyring, new_key, parse_keyring, save_keyring
from twist_dr_tests.helpers import AS_USER, KEY, KEYRING, NOBODY, OTHER_KEY, said_by_python

SECRET = base64.b64encode(bytes(range(100, 132))).decode()


def text(**keys: str) -> str:
    return "primary: a\nkeys:\n" + "".join(f"  {name}: {value}\n" for name, value in keys.items())


def assert_refused(document: str, *words: str) -> None:
    """The sentence has the words, names the source, and holds no eight characters of the key in a row."""
    with pytest.raises(KeyringInvalid) as caught:
        parse_keyring(document, "/etc/twist-dr/keyring.yaml")
    message = str(caught.value)
    assert "/etc/twist-dr/keyring.yaml" in message
    assert all(word in message for word in words)
    assert not any(SECRET[start : start + 8] in message for start in range(len(SECRET) - 8))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_keyring_file_is_for_its_owner_only_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keyring.yaml"
    old_umask = os.umask(0)
    try:
        save_keyring(KEYRING, path)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_keyring(str(path)).keys == KEYRING.keys
    assert [entry.name for entry in tmp_path.iterdir()] == ["keyring.yaml"]


def test_what_a_killed_run_left_beside_the_keyring_does_not_open_it_to_others(tmp_path: Path) -> None:
    remains = tmp_path / "keyring.yaml.new"
    remains.write_text("half")
    remains.chmod(0o644)
    save_keyring(KEYRING, tmp_path / "keyring.yaml")
    assert stat.S_IMODE((tmp_path / "keyring.yaml").stat().st_mode) == 0o600


def test_a_keyring_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_KEYRING", KEYRING.to_yaml())
    assert load_keyring("env:ERP_KEYRING").primary == KEY


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ERP_KEYRING", raising=False)
    with pytest.raises(KeyringInvalid, match="ERP_KEYRING"):
        load_keyring("env:ERP_KEYRING")


def test_a_missing_keyring_file_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(KeyringInvalid, match="twist-dr keys new"):
        load_keyring(str(tmp_path / "keyring.yaml"))


def test_a_keyring_that_we_may_not_read_is_said(open_folder: Path) -> None:
    path = open_folder / "keyring.yaml"
    save_keyring(KEYRING, path)
    said = said_by_python(
        "import sys\n"
        "from twist_dr.repository.keys import load_keyring\n"
        "from twist_dr.errors import KeyringInvalid\n" + AS_USER.format(NOBODY) + "try: load_keyring(sys.argv[1])\n"
        "except KeyringInvalid as error: print(error)\n",
        path,
    )
    assert "cannot be read (PermissionError)" in said


def test_a_keyring_that_is_not_text_is_said(tmp_path: Path) -> None:
    path = tmp_path / "keyring.yaml"
    path.write_bytes(b"\xff\xfe\x00primary")
    with pytest.raises(KeyringInvalid, match="cannot be read"):
        load_keyring(str(path))


@pytest.mark.parametrize(
    "secret",
    [
        SECRET[:-4],
        SECRET + "AAAA",
        SECRET[:20],
        SECRET[:9] + "!" + SECRET[10:],
        SECRET.replace("=", ""),
        "",
        "12",
        f"[{SECRET}]",
    ],
    ids=["short", "long", "cut", "not base64", "no padding", "empty", "a number", "a list"],
)
def test_a_damaged_key_is_named_but_never_shown(secret: str) -> None:
    assert_refused(text(a=secret), "'a'", "32 bytes in base64")


@pytest.mark.parametrize(
    "document",
    [
        f"primary: a\nkeys:\n  a: {SECRET}\n b: {{{SECRET}",
        f"primary: a\nkeys: [{SECRET}",
        f"\t{SECRET}: @",
        f"a: \x00{SECRET}",
        f"when: 2026-13-45\nkeys: {{a: {SECRET}}}",
        f"{{{{ {SECRET} }}}}",
        "[" * 5000 + SECRET,
    ],
    ids=["indent", "bracket", "tab", "control character", "date", "template", "deep"],
)
def test_yaml_garbage_is_refused_without_quoting_it(document: str) -> None:
    assert_refused(document)


@pytest.mark.parametrize("document", ["", "5", SECRET, "keys:", "keys: {}", "primary: a", f"keys: {SECRET}"])
def test_a_document_without_keys_is_refused(document: str) -> None:
    assert_refused(document, "no 'keys'")


def test_a_primary_that_is_not_there_is_named() -> None:
    assert_refused(f"primary: b\nkeys: {{a: {SECRET}}}", "'b'")
    assert_refused(f"keys: {{a: {SECRET}}}", "primary")


def test_a_key_written_in_the_place_of_its_name_is_not_shown() -> None:
    assert_refused(f"primary: a\nkeys: {{{SECRET}: a}}")
    assert_refused(f"primary: {SECRET}\nkeys: {{a: {SECRET}}}")


def test_two_keys_of_one_name_are_refused_instead_of_losing_one() -> None:
    assert_refused(text(a=SECRET) + f"  a: {base64.b64encode(bytes(32)).decode()}\n", "twice")


def test_a_lost_key_is_named_with_the_keys_that_are_there() -> None:
    with pytest.raises(KeyMissing, match=r"'k2019'.*k20260101"):
        KEYRING.find("k2019", "00")


def test_a_key_of_the_right_name_with_other_bytes_is_said_at_once() -> None:
    with pytest.raises(WrongKey, match=rf"{OTHER_KEY.check_value}.*{KEY.check_value}|{KEY.check_value}"):
        KEYRING.find(KEY.id, OTHER_KEY.check_value)


def test_an_old_key_stays_for_reading_when_a_new_one_becomes_primary() -> None:
    newer = new_key("k20270101")
    both = KEYRING.with_new_primary(newer)
    again = parse_keyring(both.to_yaml(), "again")
    assert again.primary == newer
    assert again.find(KEY.id, KEY.check_value) == KEY
    with pytest.raises(KeyringInvalid, match="k20270101"):
        both.with_new_primary(new_key("k20270101"))


@pytest.mark.parametrize("name", ["20261121", "0123", "2026-11-21", "yes", "1e3", "null", "k-1.b_c"])
def test_a_key_keeps_its_name_through_the_file_whatever_yaml_makes_of_it(name: str) -> None:
    ring = Keyring(name, {name: Key(name, KEY.secret)}, "here")
    assert parse_keyring(ring.to_yaml(), "there").primary.id == name


def test_keys_and_keyrings_show_no_secret_in_a_traceback() -> None:
    shown = repr(KEY) + repr(KEYRING) + str(KEYRING)
    assert str(KEY.secret) not in shown
    assert base64.b64encode(KEY.secret).decode() not in shown


def test_new_keys_differ() -> None:
    assert new_key().secret != new_key().secret
    assert KEY.check_value not in KEY.secret.hex()
