"""rclone's words as errors of ours: what it is, what to do, and no secret."""

from __future__ import annotations

import pytest

from twist_dr.errors import (
    CredentialsRefused,
    ObjectCorrupt,
    ObjectMissing,
    RcloneMissing,
    StorageError,
    TargetBusy,
    TargetDailyLimit,
    TargetFull,
    TargetReauthorize,
    TargetRefused,
    TargetUnavailable,
)
from twist_dr.storage.rclone_errors import asked_to_wait, rclone_error


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            'couldn\'t fetch token: invalid_grant: maybe token expired? - try refreshing with "rclone config reconnect"',
            TargetReauthorize,
        ),
        ("token expired and there's no refresh token - manually refresh", TargetReauthorize),
        (
            "googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded",
            TargetFull,
        ),
        ("quotaLimitReached: Insufficient Space Available", TargetFull),
        ("Update Create failed: sftp: \"write /x: no space left on device\" (SSH_FX_FAILURE)", TargetFull),
        ("Insufficient Storage: 507 Insufficient Storage", TargetFull),
        ("googleapi: Error 403: User rate limit exceeded., userRateLimitExceeded", TargetDailyLimit),
        ("googleapi: got HTTP response code 429 with body: Too many", TargetBusy),
        ("googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded", TargetBusy),
        ("activityLimitReached: throttled: try again in 30 s", TargetBusy),
        ("unexpected response 503 Service Unavailable", TargetBusy),
        ("HTTP error 502 (502 Bad Gateway) returned body", TargetBusy),
        ("dial tcp 127.0.0.1:22: connect: connection refused", TargetUnavailable),
        ("lookup files.example: no such host", TargetUnavailable),
        ("read tcp 127.0.0.1:1->127.0.0.1:2: i/o timeout", TargetUnavailable),
        ("unexpected EOF", TargetUnavailable),
        ("ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password]", CredentialsRefused),
        ("couldn't connect SMB: response error: The attempted logon is invalid.", CredentialsRefused),
        ("530 Login incorrect.", CredentialsRefused),
        ("401 Unauthorized", CredentialsRefused),
        ("googleapi: Error 403: Insufficient Permission, insufficientPermissions", CredentialsRefused),
        ("accessDenied: Access denied", CredentialsRefused),
        ("sftp: \"permission denied\" (SSH_FX_PERMISSION_DENIED)", CredentialsRefused),
        ("ssh: handshake failed: knownhosts: key mismatch", TargetRefused),
        ("ssh: handshake failed: knownhosts: key is unknown", TargetRefused),
        ("corrupted on transfer: sizes differ src 5 vs dst 4", ObjectCorrupt),
        ("corrupted on transfer: sha256 hashes differ src(Local) \"a\" vs dst(Drive) \"b\"", ObjectCorrupt),
        ("object not found", ObjectMissing),
        ('couldn\'t find method "config/unlock"', RcloneMissing),
        ("the list is incomplete", TargetUnavailable),
        ("something that nobody has seen", TargetUnavailable),
    ],
)  # fmt: skip
def test_each_says_what_happened_and_what_to_do(said: str, kind: type[StorageError]) -> None:
    error = rclone_error("drive", "the server", "store erp/x", said)
    assert type(error) is kind
    assert error.target == "drive" and error.remedy and "{" not in str(error)
    assert "store erp/x: " in str(error)


def test_a_grant_that_ended_names_the_command() -> None:
    error = rclone_error("drive", "Google Drive", "list the target", "invalid_grant")
    assert "twist-dr targets authorize drive" in str(error)


@pytest.mark.promise(6)
@pytest.mark.parametrize(
    "said",
    [
        "Get https://user:5ecret@host/dav?sig=5ecret: 500",
        "bad header Authorization: Bearer ya29.5ecret-0123456789012345678901234567890123456789",
        "x" * 1000 + "5ecret",
        'token {"access_token":"5ecret_0123456789012345678901234567890123456789"}',
    ],
)
def test_what_may_be_a_secret_is_not_shown(said: str) -> None:
    assert "5ecret" not in str(rclone_error("drive", "the server", "store x", said))


def test_a_provider_that_says_how_long_to_wait_is_heard() -> None:
    assert asked_to_wait("429 Too Many Requests, Retry-After: 17") == 17
    assert asked_to_wait("429 Too Many Requests") == 0
