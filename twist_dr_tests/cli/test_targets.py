"""twist-dr targets authorize on a terminal: what is pasted, what is told, and what is written down of it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from twist_dr.__main__ import main
from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud
from twist_dr_tests.site import Site

DRIVES = {
    "team": {"type": "google_drive", "client_id": GOOGLE_CLIENT.id, "client_secret": "${secret:GOOGLE}", "folder_id": "F0lder"},
    "mine": {"type": "onedrive", "account": "personal", "client_id": MICROSOFT_CLIENT.id},
}  # fmt: skip


class Browser:
    """Who reads the terminal, opens the address that it shows, allows, and pastes where the browser ended."""

    def __init__(self, vendors: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
        self._vendors = vendors
        self._capsys = capsys
        self.read = ""

    def readline(self) -> str:
        self.read += self._capsys.readouterr().out
        address = re.findall(r"https://accounts.google.com\S+", self.read)[-1]
        return f"{self._vendors.google_tokens.consent(address)}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendors: Cloud) -> Site:
    (tmp_path / "media").mkdir()
    site = Site(tmp_path, "postgresql://nobody@127.0.0.1:1/erp", tmp_path / "media")
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    site.settings().secrets_file.set("GOOGLE", str(GOOGLE_CLIENT.secret))
    site.set(storage_targets={**site.document["storage_targets"], **DRIVES})
    return site


def test_the_address_at_which_a_browser_ended_is_pasted(
    site: Site, vendors: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = Browser(vendors, capsys)
    monkeypatch.setattr("sys.stdin", browser)
    assert main(["targets", "authorize", "team"]) == 0
    said = capsys.readouterr().out
    assert "Google is asked for: https://www.googleapis.com/auth/drive" in browser.read
    assert "team uses the account owner@example.com at Google, until it is revoked, or not used for 180 days" in said
    grant = site.settings().secrets_file.grant("team")
    assert grant is not None and grant.account == "owner@example.com"
    (line,) = [line for line in site.catalog().audit("erp") if line.action == "authorize target"]
    assert (line.subject, line.result, line.details["account"]) == ("team", "done", "owner@example.com")
    seen = browser.read + said + str(line.details) + (site.folder / "secrets.yaml").read_text()
    assert not [token for token in (grant.refresh_token, grant.access_token or "-") if token in seen]


def test_a_token_of_rclone_in_several_lines_is_taken_whole(
    site: Site, vendors: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refresh = vendors.microsoft_tokens.grant(MICROSOFT_CLIENT.id, "Files.ReadWrite", "offline_access")
    token = json.dumps({"access_token": "x", "refresh_token": refresh, "token_type": "Bearer"}, indent=2)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{token}\n<---End paste\n"))
    assert main(["targets", "authorize", "mine", "--by", "token", "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["target"], told["provider"], told["idle_days"]) == ("mine", "Microsoft", 90)
    assert refresh not in said.out + said.err and "Paste the token" in said.err


def test_what_cannot_be_authorized_is_told_with_what_can(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        (["office"], "office needs no authorization by its owner; name one of: team, mine"),
        (["nobody"], "nobody is no storage target of the settings"),
        ([], "Which storage target?"),
    ):
        assert main(["targets", "authorize", *words]) == 1
        assert told in capsys.readouterr().err
    drives = {name: site.document["storage_targets"].pop(name) for name in ("team", "mine")}
    site.save()
    assert main(["targets", "authorize", "office"]) == 1
    assert (
        "run it for a drive of Google, Microsoft or Dropbox; there is none in the settings" in capsys.readouterr().err
    )
    site.document["storage_targets"].update(drives)
    site.save()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["targets", "authorize", "team"]) == 1
    assert "nothing that fits was pasted" in capsys.readouterr().err
    assert site.settings().secrets_file.grant("team") is None
    assert [line.result for line in site.catalog().audit("erp")][-1] == "failed: TargetReauthorize"
