"""How the owner of an account lets us use it, on a server that has no browser.

``device`` (RFC 8628): a code is typed on a page, on any other device. ``address`` (RFC 8252): a browser elsewhere ends at an address of its own machine,
where nobody listens; that address is pasted here, and is worth nothing to who lacks our part of it (PKCE, RFC 7636). ``code``: the page shows the code.
``token``: what rclone authorised for the same client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from twist_dr.errors import CredentialsRefused, TargetReauthorize, TargetUnavailable
from twist_dr.redaction import keep_secret
from twist_dr.storage.machine import Grant
from twist_dr.storage.oauth import GOOGLE_ALL_FILES, GOOGLE_OWN_FILES, Flow, OAuthClient, granted_by, reauthorize_remedy
from twist_dr.storage.oauth_http import OAuthAnswer, ask

#: What somebody may choose.
ChosenFlow = Literal["device", "address", "token"]

#: Of the owner's machine, not of this one. The port that rclone uses, for clients that are registered for it.
_ADDRESS = "http://127.0.0.1:53682/"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
#: Seconds between two questions where the provider does not say, and how many more when it finds that too often (RFC 8628, 3.2 and 3.5).
_INTERVAL, _SHORTEST_INTERVAL, _LONGEST_INTERVAL = 5.0, 1.0, 60.0
_TRIES = 3
#: Scopes that say who somebody is, or how long: no right to files, and not always named in the answer.
_NO_RIGHT = frozenset(("offline_access", "openid", "email", "profile", "user.read", "account_info.read"))
#: Rights that hold in others.
_BROADER = {GOOGLE_OWN_FILES: GOOGLE_ALL_FILES, "Files.ReadWrite": "Files.ReadWrite.All"}


@dataclass(frozen=True)
class Talk:
    """How a person is talked to. ``ask`` gives what is typed or pasted."""

    say: Callable[[str], None]
    ask: Callable[[str], str]
    wait: Callable[[float], None] = time.sleep


def authorize(client: OAuthClient, target: str, talk: Talk, way: ChosenFlow | None = None) -> Grant:
    """A new grant, with whose account it is. ``way``: another than the client's own.

    Raises ``TargetReauthorize`` when none was given, ``CredentialsRefused`` when the client is not known or lacks a right, ``TargetUnavailable``.
    """
    talk.say(f"{client.provider.name} is asked for: {', '.join(client.asked)}")
    asked_at = datetime.now(timezone.utc)
    flow: Flow | ChosenFlow = way or client.flow
    if flow == "device":
        answer = _by_device(client, target, talk)
    elif flow == "token":
        answer = _by_token(client, target, talk)
    else:
        answer = _by_page(client, target, talk, flow)
    # Times are counted from when it was begun: too early rather than too late, and a minute of an hour.
    grant = granted_by(answer, client, target, asked_at)
    _require_rights(client, grant, target)
    return replace(grant, account=account_of(client, grant, target))


def account_of(client: OAuthClient, grant: Grant, target: str) -> str:
    """Whose account it is; empty where its provider does not say: that is no reason to do without it."""
    provider = client.provider
    try:
        answer = ask(target, provider.account_url, bearer=grant.access_token, posting=provider.account_by_post)
    except TargetUnavailable:
        return ""
    for path in provider.account_paths:
        found: object = answer.document
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, str) and found:
            return found
    return ""


def _by_device(client: OAuthClient, target: str, talk: Talk) -> OAuthAnswer:
    provider = client.provider
    if provider.device_url is None:
        raise _cannot(target, f"{provider.name} knows no codes for devices", "leave out --by device")
    begun = ask(target, provider.device_url, {"client_id": client.client_id, "scope": " ".join(client.asked)})
    code, shown = begun.text("device_code"), begun.text("user_code")
    page = begun.text("verification_uri") or begun.text("verification_url")
    if begun.error or not code or not shown or not page:
        why = begun.said or "no code was given"
        remedy = "correct client_id, let it be used by devices (docs/authorize.md), or choose another way: --by address"
        raise _cannot(target, f"{provider.name} gives the client {client.client_id} no code ({why})", remedy)
    keep_secret(code)
    talk.say(f"On any device, open {page} and type: {shown}")
    talk.say("Waiting until that is done ...")
    end = time.monotonic() + (begun.seconds("expires_in") or 900.0)
    said = begun.seconds("interval")
    interval = _INTERVAL if said is None else max(_SHORTEST_INTERVAL, min(said, _LONGEST_INTERVAL))
    away: TargetUnavailable | None = None
    form = {"grant_type": _DEVICE_GRANT, "device_code": code, **client.login}
    while time.monotonic() < end:
        talk.wait(interval)
        try:
            answer = ask(target, provider.token_url, form)
        except TargetUnavailable as error:
            # The owner may have typed it by now: what is away is asked again, and less often (RFC 8628, 3.5).
            interval, away = min(interval + _INTERVAL, _LONGEST_INTERVAL), error
            continue
        away = None
        if answer.error == "slow_down":
            interval += _INTERVAL
        elif answer.error in ("access_denied", "authorization_declined"):
            raise _not_given(target, "it was declined")
        elif answer.error == "expired_token":
            break
        elif answer.error != "authorization_pending":
            return answer
    raise away or _not_given(target, "the code was not typed in time")


def _by_page(client: OAuthClient, target: str, talk: Talk, flow: Flow) -> OAuthAnswer:
    provider, state, verifier = client.provider, secrets.token_urlsafe(16), secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    keep_secret(verifier)
    # A page that shows a code has no address to go to.
    back = {} if flow == "code" else {"redirect_uri": _ADDRESS, "state": state}
    asked = {
        "client_id": client.client_id, "response_type": "code", "scope": " ".join(client.asked), "code_challenge": challenge,
        "code_challenge_method": "S256", **back, **dict(provider.page_options),
    }  # fmt: skip
    talk.say(f"In a browser on any machine, open:\n\n{provider.authorize_url}?{urlencode(asked)}\n")
    if flow == "code":
        question = "Paste the code that the page shows at the end"
    else:
        talk.say(f"It ends at a page that cannot be shown, whose address begins with {_ADDRESS}")
        question = "Paste that address whole"
    code = _code(flow, state, target, talk, question)
    back.pop("state", None)
    form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier, **back, **client.login}
    answer = ask(target, provider.token_url, form)
    if answer.error == "invalid_grant":
        raise _not_given(
            target, f"{provider.name} does not take that code ({answer.said}): it is good for minutes, and once"
        )
    return answer


def _code(flow: Flow, state: str, target: str, talk: Talk, question: str) -> str:
    for _ in range(_TRIES):
        pasted = talk.ask(question).strip()
        if flow == "code" and re.fullmatch(r"[A-Za-z0-9_.~/+=-]{4,2048}", pasted):
            keep_secret(pasted)
            return pasted
        said = parse_qs(urlsplit(pasted).query)
        if said.get("error"):
            raise _not_given(target, "it was declined on that page")
        if (code := said.get("code", [""])[0]) and said.get("state", [""])[0] == state:
            keep_secret(code)
            return code
        if code:
            talk.say("That address is of another attempt, not of this one.")
        else:
            talk.say(
                "That is not it."
                if flow == "code"
                else f"That is not it: it begins with {_ADDRESS} and has code= in it."
            )
    raise _not_given(target, "nothing that fits was pasted")


def _by_token(client: OAuthClient, target: str, talk: Talk) -> OAuthAnswer:
    """What was pasted is renewed at once: it must be good, and of this client."""
    pasted = talk.ask("Paste the token as rclone prints it: {...}")
    found = re.search(r"\{[^{}]*\}", pasted)
    try:
        document = json.loads(found[0]) if found else {}
    except ValueError:
        document = {}
    refresh = document.get("refresh_token")
    if not isinstance(refresh, str) or not refresh:
        raise _not_given(target, "what was pasted is no token of rclone with a refresh_token")
    keep_secret(refresh, str(document.get("access_token", "")))
    form = {"grant_type": "refresh_token", "refresh_token": refresh, **client.login}
    answer = ask(target, client.provider.token_url, form)
    if answer.error in ("invalid_grant", "unauthorized_client"):
        raise TargetReauthorize(
            f"{client.provider.name} does not take that token ({answer.said}): it ended, was used up, or is another client's",
            remedy=f"make it for the client {client.client_id} with rclone authorize, or leave out --by token",
            target=target,
        )
    return OAuthAnswer(answer.status, {"refresh_token": refresh, **answer.document})


def _require_rights(client: OAuthClient, grant: Grant, target: str) -> None:
    """Whoever allows may take single rights away."""
    given = {_bare(scope) for scope in grant.scopes}
    lacking = [
        scope
        for scope in client.scopes
        if _bare(scope) not in given | _NO_RIGHT and _bare(_BROADER.get(scope, scope)) not in given
    ]
    if lacking:
        raise _not_given(target, f"it lacks a right that is needed ({', '.join(lacking)}): tick all boxes on the page")


def _bare(scope: str) -> str:
    """Microsoft names its own with and without their server."""
    return scope.rpartition("/")[2].lower()


def _not_given(target: str, why: str) -> TargetReauthorize:
    return TargetReauthorize(f"no grant was given: {why}", remedy=reauthorize_remedy(target), target=target)


def _cannot(target: str, what: str, remedy: str) -> CredentialsRefused:
    return CredentialsRefused(what, remedy=remedy, target=target)
