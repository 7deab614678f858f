"""The owner of an account lets us use it: at the tests' Google and Microsoft, by each way, and every way in which nothing comes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from twist_dr.errors import CredentialsRefused, TargetReauthorize, TargetUnavailable, TwistDRError
from twist_dr.storage import oauth_flows, oauth_http
from twist_dr.storage.machine import Grant, GrantsInMemory
from twist_dr.storage.oauth import (
    DROPBOX,
    GOOGLE,
    GOOGLE_ALL_FILES,
    GOOGLE_OWN_FILES,
    AccessTokens,
    OAuthClient,
    microsoft,
)
from twist_dr.storage.oauth_flows import Talk, authorize
from twist_dr.storage.oauth_http import OAuthAnswer
from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud
from twist_dr_tests.storage.oauth_server import oauth_server

OWN_FILES = OAuthClient(GOOGLE, GOOGLE_CLIENT.id, GOOGLE_CLIENT.secret, (GOOGLE_OWN_FILES,), "device")
ALL_FILES = replace(OWN_FILES, scopes=(GOOGLE_ALL_FILES,), flow="address")
ONEDRIVE = OAuthClient(microsoft("consumers"), MICROSOFT_CLIENT.id, None, ("Files.ReadWrite", "offline_access"), "device")  # fmt: skip


@dataclass
class Owner:
    """Who reads the terminal, and does in a browser what it says. ``types``: does something with the code of a device; ``pastes``: with an address."""

    types: Callable[[str], None] = lambda code: None
    pastes: Callable[[str], str] = lambda address: address
    said: list[str] = field(default_factory=list)

    @property
    def talk(self) -> Talk:
        return Talk(self._hear, self._answer, lambda seconds: None)

    def _hear(self, line: str) -> None:
        self.said.append(line)
        if found := re.search(r"type: (\S+)", line):
            self.types(found[1])

    def _answer(self, what: str) -> str:
        address = next((found[0] for line in self.said[::-1] if (found := re.search(r"https?://\S+\?\S+", line))), "")
        return self.pastes(address)


def allowed(client: OAuthClient, grant: Grant) -> str:
    """The access token of the grant, renewed."""
    grants = GrantsInMemory()
    with grants.held("drive") as held:
        held.commit(grant)
    return AccessTokens(client, grants, "drive").fresh(refused=grant.access_token)[0]


@pytest.mark.parametrize("client", [OWN_FILES, ONEDRIVE], ids=["Google", "Microsoft"])
def test_a_code_is_typed_on_another_device(vendors: Cloud, client: OAuthClient) -> None:
    tokens = vendors.google_tokens if client is OWN_FILES else vendors.microsoft_tokens
    owner = Owner(types=tokens.approve)
    grant = authorize(client, "drive", owner.talk)
    assert grant.account == "owner@example.com"
    assert set(client.scopes) - {"offline_access"} <= set(grant.scopes)
    assert "asked for: " in owner.said[0] and client.scopes[0] in owner.said[0]
    assert allowed(client, grant)
    assert not [token for token in (grant.refresh_token, grant.access_token or "") if token in " ".join(owner.said)]


def test_a_network_that_is_away_for_a_moment_does_not_end_the_wait_for_the_owner(
    vendors: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, waits = [TargetUnavailable("it did not answer")] * 2, list[float]()

    def ask(target: str, url: str, form: Mapping[str, str] | None = None, **more: Any) -> OAuthAnswer:
        if form and "device_code" in form and answers:
            raise answers.pop()
        return oauth_http.ask(target, url, form, **more)

    monkeypatch.setattr(oauth_flows, "ask", ask)
    owner = Owner(types=vendors.microsoft_tokens.approve)
    assert authorize(ONEDRIVE, "drive", replace(owner.talk, wait=waits.append)).account == "owner@example.com"
    assert len(waits) == 3 and waits == sorted(set(waits)), "each time it waits longer"


def test_an_address_is_pasted_and_is_worth_nothing_from_another_attempt(vendors: Cloud) -> None:
    consent, before = vendors.google_tokens.consent, list[str]()

    def pastes(address: str) -> str:
        assert "access_type=offline" in address and "prompt=consent" in address
        before.append(consent(address))
        # Another attempt's, nonsense, then the right one.
        return [before[0].replace("state=", "state=x"), "https://accounts.google.com/", before[-1]][
            len(before) - 1
        ] + "\n"

    owner = Owner(pastes=pastes)
    grant = authorize(ALL_FILES, "drive", owner.talk)
    assert (grant.account, grant.scopes) == ("owner@example.com", (GOOGLE_ALL_FILES,))
    assert any("another attempt" in line for line in owner.said) and any(
        "That is not it" in line for line in owner.said
    )
    assert allowed(ALL_FILES, grant)


def test_a_token_of_rclone_is_pasted_and_tried_at_once(vendors: Cloud) -> None:
    refresh = vendors.microsoft_tokens.grant(MICROSOFT_CLIENT.id, "Files.ReadWrite", "offline_access")
    token = json.dumps({"access_token": "old", "refresh_token": refresh, "expiry": "2026-01-01T00:00:00Z"})
    grant = authorize(ONEDRIVE, "drive", Owner(pastes=lambda _: f"token = {token}\n").talk, "token")
    assert grant.refresh_token != refresh and allowed(ONEDRIVE, grant)
    with pytest.raises(TargetReauthorize, match=r"does not take that token .*rclone authorize") as caught:
        authorize(ONEDRIVE, "drive", Owner(pastes=lambda _: token).talk, "token")
    assert refresh not in str(caught.value)
    with pytest.raises(TargetReauthorize, match="no token of rclone"):
        authorize(ONEDRIVE, "drive", Owner(pastes=lambda _: '{"access_token": "a"}').talk, "token")


def test_whoever_says_no_gives_nothing(vendors: Cloud) -> None:
    with pytest.raises(TargetReauthorize, match=r"it was declined.*twist-dr targets authorize drive"):
        authorize(ONEDRIVE, "drive", Owner(types=vendors.microsoft_tokens.deny).talk)
    with pytest.raises(TargetReauthorize, match="it was declined"):
        authorize(ALL_FILES, "drive", Owner(pastes=lambda _: "http://127.0.0.1:53682/?error=access_denied").talk)
    with pytest.raises(TargetReauthorize, match="nothing that fits was pasted"):
        authorize(ALL_FILES, "drive", Owner(pastes=lambda _: "").talk)


@pytest.mark.parametrize(
    ("client", "error", "words"),
    [
        (replace(OWN_FILES, scopes=(GOOGLE_ALL_FILES,)), CredentialsRefused, r"invalid_scope.*--by address"),
        (replace(OWN_FILES, client_secret="wrong"), CredentialsRefused, r"invalid_client.*client_id and client_secret"),
        (replace(ONEDRIVE, client_id="nobody"), CredentialsRefused, "AADSTS700016"),
        (replace(OWN_FILES, provider=DROPBOX), CredentialsRefused, "knows no codes for devices"),
    ],
)
def test_a_client_that_may_not_is_named(
    vendors: Cloud, client: OAuthClient, error: type[TwistDRError], words: str
) -> None:
    approve = vendors.google_tokens.approve
    with pytest.raises(error, match=words) as caught:
        authorize(client, "drive", Owner(types=approve).talk)
    assert type(caught.value) is error and caught.value.target == "drive"


def test_a_page_that_shows_a_code_rights_that_were_not_ticked_and_an_end_that_is_told() -> None:
    with oauth_server(scope="files.read") as server:
        client = server.client(flow="code")
        owner = Owner(pastes=lambda address: server.page(address))
        with pytest.raises(TargetReauthorize, match=r"lacks a right that is needed \(files\)"):
            authorize(client, "drive", owner.talk)
        server.scope, server.more = "files", {"refresh_token_expires_in": 604799}
        grant = authorize(client, "drive", owner.talk)
        assert grant.account == "ada@example.org"
        week = datetime.now(timezone.utc) + timedelta(days=7)
        assert grant.ends is not None and abs(grant.ends - week) < timedelta(minutes=1)
        server.more = {}
        grants = GrantsInMemory()
        with grants.held("drive") as held:
            held.commit(grant)
        AccessTokens(client, grants, "drive").fresh(refused=grant.access_token)
        with grants.held("drive") as held:
            assert held.grant is not None and held.grant.ends == grant.ends
