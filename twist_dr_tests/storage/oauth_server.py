"""An OAuth provider on loopback: a token endpoint whose refresh tokens are good once, device codes, an authorization page's codes, an account."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from twist_dr.storage.oauth import OAuthClient, OAuthProvider

CLIENT_ID, CLIENT_SECRET = "the-client", "client-secret-9f8e7d6c"


@dataclass
class OAuthServer:
    """What the provider knows, and what it was asked."""

    url: str = ""
    #: A refresh token is good once; otherwise the old ones stay good, as Microsoft's do.
    strict: bool = True
    refresh_tokens: set[str] = field(default_factory=set)
    access_tokens: set[str] = field(default_factory=set)
    expires_in: int = 3600
    seconds: float = 0.0
    #: What every call is answered with in the place of what it asks.
    fault: tuple[int, str] | None = None
    refreshes: int = 0
    #: By device code, whether its user said yes, no, or nothing yet, which ends with yes after some calls.
    devices: dict[str, str] = field(default_factory=dict)
    device_calls: int = 0
    #: By authorization code, the challenge of PKCE.
    codes: dict[str, str] = field(default_factory=dict)
    scope: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, **changes: Any) -> OAuthClient:
        provider = OAuthProvider(
            "Paperdrive", "Paperdrive", f"{self.url}/page", f"{self.url}/token", f"{self.url}/device", f"{self.url}/account",
            (("owner", "email"),), None,
        )  # fmt: skip
        return OAuthClient(**{
            "provider": provider, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scopes": ("files",), **changes,
        })  # fmt: skip

    def token(self) -> dict[str, Any]:
        """A new pair."""
        refresh, access = f"refresh-{secrets.token_hex(12)}", f"access-{secrets.token_hex(12)}"
        self.refresh_tokens.add(refresh)
        self.access_tokens.add(access)
        given = {
            "access_token": access,
            "refresh_token": refresh,
            "expires_in": self.expires_in,
            "token_type": "Bearer",
        }
        return given | ({"scope": self.scope} if self.scope is not None else {}) | self.more

    def page(self, address: str) -> str:
        """What somebody who says yes on the page of that address has in his browser at last."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        code = secrets.token_hex(8)
        self.codes[code] = asked["code_challenge"]
        assert asked["code_challenge_method"] == "S256"
        return (
            f"{asked['redirect_uri']}?state={asked['state']}&code={code}&scope=files"
            if "redirect_uri" in asked
            else code
        )

    def answer(self, path: str, form: dict[str, str], bearer: str) -> tuple[int, dict[str, Any]]:
        time.sleep(self.seconds)
        with self.lock:
            if path == "/account":
                return (200, {"owner": {"email": "ada@example.org"}}) if bearer in self.access_tokens else (401, {})
            if form.get("client_id") != CLIENT_ID or (path == "/token" and form.get("client_secret") != CLIENT_SECRET):
                return 401, {"error": "invalid_client", "error_description": "AADSTS7000222: keys have expired."}
            if path == "/device":
                device = secrets.token_hex(8)
                self.devices[device] = "waiting"
                return 200, {
                    "device_code": device, "user_code": "ABCD-EFGH", "verification_uri": f"{self.url}/type", "expires_in": 900, "interval": 0,
                }  # fmt: skip
            return self._token(form)

    def _token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        kind = form["grant_type"].rpartition(":")[2]
        if kind == "refresh_token":
            self.refreshes += 1
            if form["refresh_token"] not in self.refresh_tokens:
                return 400, {"error": "invalid_grant", "error_description": f"{form['refresh_token']} is gone"}
            if self.strict:
                self.refresh_tokens.discard(form["refresh_token"])
            return 200, self.token()
        if kind == "device_code":
            self.device_calls += 1
            state = self.devices[form["device_code"]]
            if state == "waiting" and self.device_calls < 3:
                return 400, {"error": "authorization_pending"}
            return (400, {"error": "access_denied"}) if state == "refused" else (200, self.token())
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if self.codes.pop(form["code"], None) != challenge:
            return 400, {"error": "invalid_grant"}
        return 200, self.token()


@contextmanager
def oauth_server(**options: Any) -> Iterator[OAuthServer]:
    """One that runs."""
    state = OAuthServer(**options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            form = {name: values[0] for name, values in parse_qs(body).items()}
            if state.fault is not None:
                status, said = state.fault
            else:
                status, document = state.answer(urlsplit(self.path).path, form, bearer)
                said = json.dumps(document)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
