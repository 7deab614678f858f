"""``twist-dr recover --from-target`` with each kind of storage target, as the settings had it: nothing is asked of it yet."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twist_dr.cli.recover.commands import remedy_of_this_day
from twist_dr.cli.recover.place import open_target, target_settings
from twist_dr.errors import CredentialsRefused, SettingsError, TargetUnavailable
from twist_dr.storage.machine import Machine
from twist_dr.storage.options import providers
from twist_dr.storage.rclone_errors import rclone_error
from twist_dr_tests.cli.test_init import example_blocks, template, uncommented, variables

#: What ``twist-dr recover`` takes from the command line; a bucket's credentials are boto3's to find.
URLS = {
    "s3": "s3://vault/deep?region=eu",
    "sftp": "sftp://ada@host:2222//srv/backups?key_file=/k&known_hosts=/h",
    "webdav": "webdav:https://ada@host:8443/remote.php/dav/files/ada/backups",
    "rclone": "rclone:pcloud:backups",
}


def test_an_entry_of_each_kind_in_a_file_of_its_own_is_a_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = template(tmp_path)
    text = uncommented(text, example_blocks(text.splitlines()))
    for name, value in variables(text).items():
        monkeypatch.setenv(name, value)
    entries = yaml.safe_load(text)["storage_targets"]
    assert {entry["type"] for entry in entries.values()} == set(providers())
    for entry in entries.values():
        described = tmp_path / "target.yaml"
        described.write_text(yaml.safe_dump(entry))
        settings = target_settings(str(described))
        target = open_target(settings, Machine(tmp_path / "machine"))
        assert target.location == settings.called or settings.folder is not None or entry["type"] == "s3"
        assert settings.credentials_remedy in (remedy_of_this_day(CredentialsRefused("x"), settings) or "")
    assert not (tmp_path / "machine").exists(), "nothing is begun"


@pytest.mark.parametrize("kind", URLS)
def test_a_url_stands_for_the_same_as_an_entry(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIST_DR_TARGET_PASSWORD", "hidden")
    settings = target_settings(URLS[kind])
    assert settings.type == kind and "hidden" not in repr(settings)
    told = {name: str(value) for name, value in settings.model_dump().items()}
    expected = {
        "s3": {"bucket": "vault", "prefix": "deep", "region": "eu"},
        "sftp": {
            "user": "ada",
            "host": "host",
            "port": "2222",
            "path": "/srv/backups",
            "key_file": "/k",
            "known_hosts": "/h",
        },
        "webdav": {"url": "https://host:8443/remote.php/dav/files/ada", "user": "ada", "path": "backups"},
        "rclone": {"remote": "pcloud:backups", "config_file": str(Path.home() / ".config/rclone/rclone.conf")},
    }[kind]
    assert expected.items() <= told.items()


def test_what_only_the_old_machine_knew_is_named(tmp_path: Path) -> None:
    (tmp_path / "target.yaml").write_text("type: smb\nhost: h\nshare: s\nuser: u\npassword: ${secret:SMB}\n")
    with pytest.raises(SettingsError, match="the secret SMB is in the secrets file of the settings"):
        target_settings(str(tmp_path / "target.yaml"))


@pytest.mark.parametrize(
    ("kind", "said", "remedy"),
    [
        ("sftp", "knownhosts: key mismatch", "find out why; when the server is a new one, correct known_hosts of --from-target"),
        ("sftp", "knownhosts: key is unknown", "add it to known_hosts of --from-target, with: ssh-keyscan -p PORT HOST"),
        ("sftp", "couldn't parse known_hosts_file: open /h: no such file", "correct known_hosts of --from-target"),
        ("sftp", "this private key is passphrase protected", "correct key_file or key_passphrase (with a URL: TWIST_DR_TARGET_PASSWORD) of --from-target"),
        ("sftp", "ssh: unable to authenticate", "put the user's password into TWIST_DR_TARGET_PASSWORD or name his key_file, and allow him to read there, or correct --from-target"),
        ("sftp", "dial tcp: connection refused", "see that it can be reached from here, or correct --from-target"),
        ("rclone", "failed to read line", "give it as config_password (with a URL: RCLONE_CONFIG_PASS) of --from-target"),
    ],
)  # fmt: skip
def test_what_helps_a_place_helps_on_this_day_too_and_speaks_of_no_settings_file(
    kind: str, said: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIST_DR_TARGET_PASSWORD", "hidden")
    settings = target_settings(URLS[kind])
    error = rclone_error(settings.called, "the server", "list the target", said)
    assert remedy_of_this_day(error, settings) == remedy


def test_a_folder_may_have_to_be_mounted(tmp_path: Path) -> None:
    assert "is mounted" in (remedy_of_this_day(TargetUnavailable("x"), target_settings(str(tmp_path))) or "")


def test_a_text_of_another_form_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"target\.remote: expected REMOTE:FOLDER, without brackets, found 'far'"):
        target_settings("rclone:far")
