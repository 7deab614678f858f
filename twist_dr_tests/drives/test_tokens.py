"""What other tests rely on: the tests' own OAuth endpoints do as the vendors' pages say."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit

from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud

MICROSOFT = "https://login.microsoftonline.com/common/oauth2/v2.0"
GOOGLE = "https://oauth2.googleapis.com"
GOOGLES = {"client_id": GOOGLE_CLIENT.id, "client_secret": str(GOOGLE_CLIENT.secret)}


def ask(url: str, bearer: str = "", **form: str) -> tuple[int, dict[str, Any]]:
    """The status and the document of the answer, by the proxy and the CA of the environment."""
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    request = urllib.request.Request(url, urlencode(form).encode() if form else None, headers)
    try:
        with urllib.request.build_opener(tls).open(request) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def test_microsoft_gives_another_refresh_token_each_time_and_ends_the_one_before(vendors: Cloud) -> None:
    first = vendors.microsoft_tokens.grant(MICROSOFT_CLIENT.id, "Files.ReadWrite", "offline_access")
    form = {"client_id": MICROSOFT_CLIENT.id, "grant_type": "refresh_token"}
    status, given = ask(f"{MICROSOFT}/token", **form, refresh_token=first)
    assert status == 200 and given["refresh_token"] != first
    status, refused = ask(f"{MICROSOFT}/token", **form, refresh_token=first)
    assert (status, refused["error"]) == (400, "invalid_grant")
    assert ask(f"{MICROSOFT}/token", **form, refresh_token=given["refresh_token"])[0] == 200
    assert ask("https://graph.microsoft.com/v1.0/me/drive", given["access_token"])[0] == 200
    vendors.microsoft_tokens.expire_access()
    assert ask("https://graph.microsoft.com/v1.0/me/drive", given["access_token"])[0] == 401


def test_a_device_waits_until_its_owner_allows(vendors: Cloud) -> None:
    scopes = "Files.ReadWrite offline_access openid"
    _, device = ask(f"{MICROSOFT}/devicecode", client_id=MICROSOFT_CLIENT.id, scope=scopes)
    form = {
        "client_id": MICROSOFT_CLIENT.id,
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": device["device_code"],
    }
    assert ask(f"{MICROSOFT}/token", **form)[1]["error"] == "authorization_pending"
    vendors.microsoft_tokens.approve(device["user_code"])
    _, given = ask(f"{MICROSOFT}/token", **form)
    assert given["refresh_token"] and given["id_token"]
    narrow = ask(f"{GOOGLE}/device/code", client_id=GOOGLE_CLIENT.id, scope="https://www.googleapis.com/auth/drive")
    assert narrow[1]["error"] == "invalid_scope"


def test_a_code_is_worth_something_to_whoever_asked_for_it(vendors: Cloud) -> None:
    def code() -> str:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(b"verifier").digest()).rstrip(b"=").decode()
        asked = {
            "client_id": GOOGLE_CLIENT.id,
            "redirect_uri": "http://127.0.0.1:1",
            "response_type": "code",
            "scope": "https://www.googleapis.com/auth/drive",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "state": "mine",
        }
        back = vendors.google_tokens.consent(f"https://accounts.google.com/o/oauth2/v2/auth?{urlencode(asked)}")
        answer = parse_qs(urlsplit(back).query)
        assert answer["state"] == ["mine"]
        return answer["code"][0]

    form = {**GOOGLES, "grant_type": "authorization_code", "redirect_uri": "http://127.0.0.1:1"}
    assert ask(f"{GOOGLE}/token", **form, code=code(), code_verifier="another's")[1]["error"] == "invalid_grant"
    status, given = ask(f"{GOOGLE}/token", **form, code=code(), code_verifier="verifier")
    assert status == 200
    about = ask("https://www.googleapis.com/drive/v3/about?fields=user", given["access_token"])[1]
    assert about["user"]["emailAddress"] == vendors.google_tokens.account
    assert ask(f"{GOOGLE}/revoke", token=given["refresh_token"])[0] == 200
    again = {**GOOGLES, "grant_type": "refresh_token", "refresh_token": given["refresh_token"]}
    assert ask(f"{GOOGLE}/token", **again)[1]["error"] == "invalid_grant"
