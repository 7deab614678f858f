"""A night with a Google Drive and a OneDrive: tokens that rotate, a storm of refusals, a kill; and the night after a grant was taken back."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.backup import from_settings
from twist_dr.backup.from_settings import Copying, chosen_targets
from twist_dr.storage.machine import Grant
from twist_dr.storage.oauth import GOOGLE_ALL_FILES
from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud
from twist_dr_tests.drives.gateway import Fault, Request
from twist_dr_tests.drives.google import google_error
from twist_dr_tests.drives.graph import graph_error
from twist_dr_tests.site import Site
from twist_dr_tests.storage.conftest import sftp_server  # noqa: F401
from twist_dr_tests.storage.servers import SftpServer

TARGETS = ("drive", "onedrive")


def authorized(site: Site, vendors: Cloud, target: str) -> str:
    """The owner lets us use the account; the refresh token. No access token is known yet."""
    if target == "drive":
        refresh = vendors.google_tokens.grant(GOOGLE_CLIENT.id, GOOGLE_ALL_FILES)
    else:
        refresh = vendors.microsoft_tokens.grant(MICROSOFT_CLIENT.id, "Files.ReadWrite", "offline_access")
    with site.settings().machine.grants.held(target) as held:
        held.commit(Grant(refresh, datetime.now(timezone.utc) - timedelta(days=1)))
    return refresh


@pytest.fixture
def drives(site: Site, vendors: Cloud) -> Site:
    """Full backups go to a drive of each provider, and nowhere else."""
    site.variables["GOOGLE_CLIENT_SECRET"] = str(GOOGLE_CLIENT.secret)
    site.set(
        storage_targets={
            "drive": {
                "type": "google_drive",
                "folder_id": vendors.google.folder(vendors.google_tokens.account).id,
                "client_id": GOOGLE_CLIENT.id,
                "client_secret": "${GOOGLE_CLIENT_SECRET}",
            },
            "onedrive": {
                "type": "onedrive",
                "account": "business",
                "client_id": MICROSOFT_CLIENT.id,
                "path": f"Backups/{site.folder.name}-{id(site)}",
            },
        }
    )
    return site


def programs_of(folder: Path) -> list[str]:
    """Programs that run with something of that folder in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"rclone") and any(str(folder).encode() in word for word in words):
            found.append(path.parent.name)
    return found


def manifest_put(request: Request) -> bool:
    return request.ends_an_upload


def test_a_night_of_rotating_tokens_refusals_and_a_kill_is_whole_on_both_and_a_grant_taken_back_is_said_to_be_that(
    drives: Site, vendors: Cloud
) -> None:
    first = {target: authorized(drives, vendors, target) for target in TARGETS}

    # Killed while it sends.
    gateway = vendors.gateway
    held = gateway.add(Fault(manifest_put, delay=3.0, times=2))
    killed = drives.start("backup_full")
    while not held.happened:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    end = time.monotonic() + 10
    while programs_of(drives.folder) and time.monotonic() < end:
        time.sleep(0.02)
    assert programs_of(drives.folder) == [], "rclone outlived its owner"
    gateway.clear()
    assert [drives.held(target) for target in TARGETS] == [[], []]

    # Both providers refuse for a while, and end all access tokens in the middle.
    def end_tokens(request: Request) -> None:
        vendors.google_tokens.expire_access()
        vendors.microsoft_tokens.expire_access()

    storms = []
    for path, answer in (
        ("/drive/v3/files", google_error(429, "rateLimitExceeded")),
        ("/v1.0/drives/", graph_error(429, "activityLimitReached", Retry_After="0")),
    ):
        storm = Fault(lambda request, path=path: request.path.startswith(path), answer, times=4)  # type: ignore[misc]
        storms.append(gateway.add(storm))
    gateway.add(Fault(lambda request: request.path.startswith("/up/"), then=end_tokens))
    drives.backup().expect(0)
    assert programs_of(drives.folder) == []
    assert [storm.happened for storm in storms] == [4, 4]
    for target in TARGETS:
        assert len(drives.held(target)) == 1
        drives.verify(target=target).expect(0)
        with drives.settings().machine.grants.held(target) as kept:
            assert kept.grant is not None
            assert (kept.grant.refresh_token == first[target]) == (target == "drive"), "Microsoft's rotates"
    assert vendors.microsoft_tokens.refreshes >= 2

    # Taken back by its owner: the other target has the night's copy, and it is said what to do.
    gateway.clear()
    vendors.google_tokens.revoke()
    night = drives.backup().expect(1)
    assert "targets authorize drive" in night.text
    assert len(drives.held("onedrive")) == 2
    authorized(drives, vendors, "drive")
    drives.backup().expect(0)
    assert len(drives.held("drive")) == 2


def test_a_backup_that_is_called_off_does_not_wait_for_a_server_that_hangs(
    site: Site, sftp_server: SftpServer, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(from_settings, "_CLEARING_SECONDS", 0.5)
    site.backup().expect(0)
    login = {"user": sftp_server.user, "password": sftp_server.password, "known_hosts": str(sftp_server.known_hosts)}
    hangs = {"type": "sftp", "host": "127.0.0.1", "port": sftp_server.port, "path": site.folder.name, **login}
    site.document["storage_targets"]["ssh"] = hangs
    site.save()
    app = site.app()
    chosen = chosen_targets(app.settings, "all")
    places = {name: (repository, chosen[name]) for name, repository in app.repositories().items()}
    backup_id = site.latest().backup_id
    os.kill(sftp_server.pid, signal.SIGSTOP)
    try:
        copies = Copying(app, site.manifest()).side_by_side(site.stored("office").parent / backup_id, places)
        assert {next(copies).target, next(copies).target} == {"office", "archive"}
        copies.close()  # type: ignore[attr-defined]
    finally:
        os.kill(sftp_server.pid, signal.SIGCONT)
    assert programs_of(site.folder) == []
