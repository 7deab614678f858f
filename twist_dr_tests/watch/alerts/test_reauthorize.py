"""A drive whose owner ends his grant: the alert says reauthorize, with the command; he allows it again on the terminal; the next night is whole."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from typing import Any

import pytest
import yaml

from twist_dr.__main__ import main
from twist_dr.catalog import CopyRow
from twist_dr.errors import CopyFailed, TargetReauthorize
from twist_dr.operations.table import BACKUP_FULL
from twist_dr.watch.alerts.facts import gather
from twist_dr.watch.alerts.rules import findings
from twist_dr.watch.alerts.rules_common import Finding
from twist_dr.watch.status.collect import collect
from twist_dr.watch.status.text import render_status
from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud
from twist_dr_tests.drives.tokens import TokenServer
from twist_dr_tests.site import Site

KINDS: dict[str, dict[str, Any]] = {
    "google_drive": {"type": "google_drive", "client_id": GOOGLE_CLIENT.id, "client_secret": "${secret:DRIVE}"},
    "onedrive": {"type": "onedrive", "account": "business", "client_id": MICROSOFT_CLIENT.id},
}


@contextmanager
def owner(tokens: TokenServer) -> Iterator[None]:
    """Types the code of each device that waits, for as long as this lasts."""
    ended = threading.Event()

    def types() -> None:
        while not ended.wait(0.05):
            for device in list(tokens._devices.values()):
                device.state = "approved"

    thread = threading.Thread(target=types)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wrong(site: Site) -> list[Finding]:
    app, now = site.app(), datetime.now(timezone.utc)
    return [each for each in findings(gather(app, now), app.settings, now) if each.target == "drive"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_revoked_told_authorized_and_whole_again(
    vendors: Cloud, site: Site, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = vendors.google_tokens if kind == "google_drive" else vendors.microsoft_tokens
    site.variables |= vendors.environment
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    site.settings().secrets_file.set("DRIVE", str(GOOGLE_CLIENT.secret))
    office = site.document["storage_targets"]["office"]
    site.set(storage_targets={"office": office, "drive": {**KINDS[kind], "path": f"reauthorize/{kind}"}})
    # Nobody was asked yet: the other target is served, and the drive is told by its name.
    assert "target_reauthorize" in {copy.error_code for copy in taken(site, whole=False)}
    (told,) = [each for each in wrong(site) if each.kind == "reauthorize"]
    assert "nobody has authorized drive yet" in told.message

    with owner(tokens):
        capsys.readouterr()
        assert main(["targets", "authorize", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["account"] == "owner@example.com"
    assert [copy.state for copy in taken(site)] == ["checked", "checked"]
    assert not [each for each in wrong(site) if each.kind == "reauthorize"]

    # What runs on for days, such as the shipping of write-ahead log.
    lasting = site.app().targets["drive"]
    assert lasting.stat("erp/nothing") is None
    tokens.revoke()
    for _ in range(2):
        with pytest.raises(TargetReauthorize, match="twist-dr targets authorize drive"):
            lasting.stat("erp/nothing")
    (bad,) = [copy for copy in taken(site, whole=False) if copy.state != "checked"]
    assert (bad.target, bad.error_code) == ("drive", "target_reauthorize")
    (told,) = [each for each in wrong(site) if each.kind == "reauthorize"]
    service = "Google Drive" if kind == "google_drive" else "OneDrive"
    assert told.message.startswith(f"{service} backup failed: reauthorize drive (")
    assert "twist-dr targets authorize drive" in told.advice
    status = render_status(collect(site.app(), datetime.now(timezone.utc)))
    assert f"{service} backup failed: reauthorize drive" in status.partition("health")[0]

    with owner(tokens):
        assert main(["targets", "authorize", "drive"]) == 0
    said = capsys.readouterr().out
    assert "the account owner@example.com" in said and re.search(r"On any device, open https://\S+ and type: \w+", said)
    assert not [each for each in wrong(site) if each.kind == "reauthorize"]
    assert lasting.stat("erp/nothing") is None
    assert [copy.state for copy in taken(site)] == ["checked", "checked"]
    assert not wrong(site)

    # With a clean machine, the keyring and the entry: the owner is asked anew, once.
    entry = {
        **site.document["storage_targets"]["drive"],
        **({"client_secret": "${DRIVE}"} if kind == "google_drive" else {}),
    }
    (site.folder / "entry.yaml").write_text(yaml.safe_dump(entry))
    monkeypatch.setenv("DRIVE", str(GOOGLE_CLIENT.secret))
    grant = site.folder / "grant.yaml"
    words = [
        "recover",
        "--from-target",
        str(site.folder / "entry.yaml"),
        "--keyring",
        str(site.keyring_path),
        "--grant",
        str(grant),
    ]
    with owner(tokens):
        assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert site.latest().backup_id in {each["backup_id"] for each in json.loads(said.out)["backups"]}
    assert "On any device, open" in said.err
    assert main(words) == 0
    said = capsys.readouterr()
    assert site.latest().backup_id in said.out and "On any device" not in said.err
    assert "refresh" not in grant.read_text() and grant.stat().st_mode & 0o777 == 0o600


def taken(site: Site, *, whole: bool = True) -> list[CopyRow]:
    """The copies of a new backup, by target."""
    with nullcontext() if whole else pytest.raises(CopyFailed):
        BACKUP_FULL(site.app(), BACKUP_FULL.config())
    gc.collect()  # what this application had started ends with it
    return sorted(site.catalog().copies(site.latest().backup_id), key=lambda copy: copy.target)
