"""Access tokens of a drive: renewed once whoever asks, never lost to a kill, and a grant that ended is said to be that."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.errors import CredentialsRefused, TargetReauthorize, TargetUnavailable, TwistDRError
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.repository.secrets_file import SecretsFile
from twist_dr.storage.machine import Grant, Grants, HeldGrant
from twist_dr.storage.oauth import AccessTokens, OAuthClient, in_first_half, microsoft
from twist_dr_tests.drives.cloud import MICROSOFT_CLIENT, Cloud
from twist_dr_tests.storage.oauth_server import CLIENT_SECRET, OAuthServer, oauth_server

TARGET = "drive"


@pytest.fixture(scope="module")
def running() -> Iterator[OAuthServer]:
    with oauth_server() as server:
        yield server


@pytest.fixture
def server(running: OAuthServer) -> OAuthServer:
    fresh = OAuthServer()
    for name in ("strict", "expires_in", "seconds", "fault", "refreshes", "scope", "more"):
        setattr(running, name, getattr(fresh, name))
    return running


@pytest.fixture
def file(tmp_path: Path) -> SecretsFile:
    key = new_key("k1")
    save_keyring(Keyring("k1", {"k1": key}, "new"), tmp_path / "keyring.yaml")
    return SecretsFile(tmp_path / "secrets.yaml", "erp", str(tmp_path / "keyring.yaml"))


def granted(server: OAuthServer, file: SecretsFile, age: timedelta = timedelta(hours=2)) -> Grant:
    """A grant whose access token ended an hour ago."""
    given, then = server.token(), datetime.now(timezone.utc) - age
    grant = Grant(
        given["refresh_token"], then, ("files",), "ada@example.org", given["access_token"], then + timedelta(hours=1), then
    )  # fmt: skip
    with file.held(TARGET) as held:
        held.commit(grant)
    return grant


def in_processes(count: int, work: Callable[[], None]) -> list[int]:
    """Exit statuses of so many processes that do it at once."""
    children = []
    for _ in range(count):
        if (child := os.fork()) == 0:
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_eight_processes_renew_a_rotating_token_once_and_all_go_on(
    server: OAuthServer, file: SecretsFile, tmp_path: Path
) -> None:
    server.seconds = 0.1
    grant = granted(server, file)
    for round in range(3):
        before = server.refreshes

        def work(folder: Path = tmp_path, round: int = round) -> None:
            token, _ = AccessTokens(server.client(), file, TARGET).fresh()
            (folder / f"{round}-{os.getpid()}").write_text(token)

        assert in_processes(8, work) == [0] * 8
        tokens = {path.read_text() for path in tmp_path.glob(f"{round}-*")}
        assert len(tokens) == 1 and tokens <= server.access_tokens
        assert server.refreshes == before + 1
        kept = file.grant(TARGET)
        assert kept is not None and {kept.access_token} == tokens
        assert (kept.account, kept.granted, kept.scopes) == (grant.account, grant.granted, grant.scopes)
        with file.held(TARGET) as held:
            old = kept.expires and kept.expires - timedelta(hours=2)
            held.commit(replace(kept, expires=old, refreshed=old))


def test_microsofts_rotating_token_survives_eight_processes(vendors: Cloud, file: SecretsFile) -> None:
    """By its proxy and its certificates, as in a company's network."""
    refresh = vendors.microsoft_tokens.grant(MICROSOFT_CLIENT.id, "Files.ReadWrite", "offline_access")
    client = OAuthClient(microsoft("organizations"), MICROSOFT_CLIENT.id, None, ("Files.ReadWrite", "offline_access"))
    with file.held(TARGET) as held:
        held.commit(Grant(refresh, datetime.now(timezone.utc), client.scopes))
    assert in_processes(8, lambda: print(AccessTokens(client, file, TARGET).fresh()[1])) == [0] * 8
    assert vendors.microsoft_tokens.refreshes == 1
    kept = file.grant(TARGET)
    assert kept is not None and kept.refresh_token != refresh


class KilledBeforeItIsKept:
    """Grants of a process that dies when it has the new token, and has not kept it yet."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants

    def held(self, target: str) -> AbstractContextManager[HeldGrant]:
        return self._held(target)

    @contextmanager
    def _held(self, target: str) -> Iterator[HeldGrant]:
        with self._grants.held(target) as held:

            def commit(grant: Grant) -> None:
                if grant == held.grant:
                    return held.commit(grant)
                os.kill(os.getpid(), signal.SIGKILL)

            yield HeldGrant(held.grant, commit)


@pytest.mark.parametrize("strict", [False, True])
def test_a_process_that_is_killed_before_the_new_token_is_kept_used_nothing_of_it(
    server: OAuthServer, file: SecretsFile, strict: bool
) -> None:
    """Where the old token stays good, as at Microsoft and Google, the next one goes on; elsewhere its owner is asked, by name."""
    server.strict = strict
    grant = granted(server, file)
    died = in_processes(1, lambda: print(AccessTokens(server.client(), KilledBeforeItIsKept(file), TARGET).fresh()))
    assert died == [-signal.SIGKILL]
    assert file.grant(TARGET) == grant
    tokens = AccessTokens(server.client(), file, TARGET)
    if strict:
        with pytest.raises(TargetReauthorize, match="twist-dr targets authorize drive") as caught:
            tokens.fresh()
        assert "ada@example.org" in str(caught.value) and "invalid_grant" in str(caught.value)
        assert grant.refresh_token not in str(caught.value)
    else:
        assert tokens.fresh()[0] in server.access_tokens


def test_a_token_that_cannot_be_kept_is_not_asked_for(
    server: OAuthServer, file: SecretsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full, or mounted read-only, the old refresh token stays the good one."""
    granted(server, file)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    before = server.refreshes
    with monkeypatch.context() as patch:
        patch.setattr("twist_dr.repository.secrets_file.replace_file", full)
        with pytest.raises(CredentialsRefused, match=r"No space left on device.*free space"):
            AccessTokens(server.client(), file, TARGET).fresh()
    assert server.refreshes == before
    assert AccessTokens(server.client(), file, TARGET).fresh()[0] in server.access_tokens


def test_a_token_is_renewed_at_half_of_its_life_and_when_it_is_refused(server: OAuthServer, file: SecretsFile) -> None:
    granted(server, file)
    tokens = AccessTokens(server.client(), file, TARGET)
    first, end = tokens.fresh()
    assert timedelta(minutes=59) < end - datetime.now(timezone.utc) <= timedelta(hours=1)
    assert tokens.fresh() == (first, end)
    second, _ = tokens.fresh(refused=first)
    assert second != first
    grant = file.grant(TARGET)
    assert grant is not None and grant.refreshed is not None
    for minutes, good in ((0, True), (29, True), (31, False), (61, False), (-1, False)):
        assert bool(in_first_half(grant, grant.refreshed + timedelta(minutes=minutes))) is good, minutes


def test_while_the_provider_is_away_what_is_left_of_a_token_is_used(server: OAuthServer, file: SecretsFile) -> None:
    grant = granted(server, file, timedelta(minutes=40))
    server.fault = (503, "busy")
    tokens = AccessTokens(server.client(), file, TARGET)
    assert tokens.fresh() == (grant.access_token, grant.expires)
    with pytest.raises(TargetUnavailable):
        tokens.fresh(refused=grant.access_token)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ((400, '{"error": "invalid_grant"}'), TargetReauthorize, "twist-dr targets authorize drive"),
        ((401, '{"error": "invalid_client", "error_description": "AADSTS7000222: it ended"}'), CredentialsRefused, "AADSTS7000222"),
        ((400, '{"error": "<b>refresh-1</b>"}'), CredentialsRefused, "unknown_error"),
        ((429, "{}"), TargetUnavailable, "cannot answer just now"),
        ((502, "<html>"), TargetUnavailable, "cannot answer just now"),
        ((200, "<html>log in to the hotel's network</html>"), TargetUnavailable, "something else than JSON"),
        ((200, '{"access_token": "\\ud800", "expires_in": 60}'), TargetUnavailable, "something else than JSON"),
        ((200, '{"access_token": "a\\r\\nb", "expires_in": 60}'), TargetUnavailable, "without a token"),
        ((200, f'{{"access_token": "{"a" * 200_000}", "expires_in": 60}}'), TargetUnavailable, "without a token"),
        ((200, '{"access_token": "", "expires_in": 3600}'), TargetUnavailable, "without a token"),
        ((200, '{"access_token": "a", "expires_in": 1e300}'), TargetUnavailable, "without a token"),
        ((302, '{"access_token": "stolen-access-token"}'), TargetUnavailable, "without a token"),
    ],
)  # fmt: skip
def test_what_a_provider_answers_is_told_by_a_name_and_a_remedy(
    server: OAuthServer, file: SecretsFile, fault: tuple[int, str], error: type[TwistDRError], words: str
) -> None:
    grant = granted(server, file)
    server.fault = fault
    with pytest.raises(error) as caught:
        AccessTokens(server.client(), file, TARGET).fresh()
    assert type(caught.value) is error
    said = str(caught.value)
    assert said.startswith("drive: ") and words in said
    assert not [each for each in (grant.refresh_token, grant.access_token, CLIENT_SECRET) if each and each in said]
    assert file.grant(TARGET) == grant


def test_nobody_listening_and_no_grant_are_named(file: SecretsFile) -> None:
    with oauth_server() as server:
        client = server.client()
        with pytest.raises(TargetReauthorize, match="no grant of Paperdrive is kept"):
            AccessTokens(client, file, TARGET).fresh()
        granted(server, file)
    with pytest.raises(TargetUnavailable, match="could not be asked: Connection refused"):
        AccessTokens(client, file, TARGET).fresh()


def test_an_altered_or_foreign_secrets_file_refuses_this_target_alone(
    server: OAuthServer, file: SecretsFile, tmp_path: Path
) -> None:
    """As an error of the storage target: the others are served."""
    granted(server, file)
    key = new_key("k2")
    save_keyring(Keyring("k2", {"k2": key}, "new"), tmp_path / "keyring.yaml")
    with pytest.raises(CredentialsRefused, match=r"needs key 'k1'.*add that key"):
        AccessTokens(server.client(), file, TARGET).fresh()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
