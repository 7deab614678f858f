"""The OAuth endpoints of Google and Microsoft (RFC 6749, 7009, 7636, 8628), with what each does differently.

Google: ``verification_url``, a device gets ``drive.file`` only, the refresh token stays the same. Microsoft: each refresh gives another refresh token,
and the one before is then ``invalid_grant``; errors bear a number (``AADSTS...``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from twist_dr_tests.drives.gateway import Answer, Request, json_answer

_DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
_SERVICE = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class Client:
    """A registered OAuth client. ``secret``: None for a public one. ``secret_ended``: it was right, and is too old."""

    id: str
    secret: str | None = None
    secret_ended: bool = False


@dataclass(frozen=True)
class Token:
    """What a token stands for. ``expires``: seconds since the epoch."""

    client: str
    scopes: tuple[str, ...]
    account: str
    expires: float = 0.0


@dataclass
class _Device:
    token: Token
    user_code: str
    state: str = "authorization_pending"
    expires: float = 0.0


@dataclass(frozen=True)
class _Code:
    token: Token
    challenge: str
    redirect_uri: str


@dataclass
class TokenServer:
    """One provider's endpoints. Tests register clients in ``clients``, and do by :meth:`grant`, :meth:`consent`, :meth:`approve`, :meth:`deny`,
    :meth:`revoke` what the owner of ``account`` does in a browser.
    """

    #: The address and path of each endpoint, as ``host/path``; ``*`` stands for a tenant.
    token_url: str
    device_url: str
    authorize_url: str
    revoke_url: str | None
    #: Whether a refresh gives another refresh token and ends the old one.
    rotates: bool
    #: How the field is called that says where a device is allowed.
    verification: str
    verification_at: str
    #: Scopes that a device may ask for; None: all.
    device_scopes: frozenset[str] | None = None
    clients: dict[str, Client] = field(default_factory=dict)
    #: Who is logged in to the browser, and allows.
    account: str = "owner@example.com"
    #: Seconds that an access token is good for.
    lifetime: float = 3600.0
    #: Seconds that a device waits between two questions.
    interval: int = 1
    #: How often a refresh succeeded.
    refreshes: int = 0
    #: A program's own keys (Google's service accounts): e-mail to the key's PEM.
    service_accounts: dict[str, str] = field(default_factory=dict)
    _access: dict[str, Token] = field(default_factory=dict)
    _refresh: dict[str, Token] = field(default_factory=dict)
    _devices: dict[str, _Device] = field(default_factory=dict)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # -- what tests do --------------------------------------------------------------------------------------------------

    def grant(self, client: str, *scopes: str, account: str | None = None) -> str:
        """A refresh token, as of an owner who allowed it before."""
        return self._new_refresh(Token(client, scopes, account or self.account))

    def access(self, client: str, *scopes: str, account: str | None = None, lifetime: float | None = None) -> str:
        """An access token alone."""
        return self._new_access(Token(client, scopes, account or self.account), lifetime)

    def consent(self, url: str) -> str:
        """The address that a browser is sent to when the owner opens ``url`` and allows what it asks for."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        answer = self._authorize(Request("GET", parts.netloc, parts.path, query, {}, b""))
        if answer.status != 302:
            raise ValueError(answer.body.decode())
        return answer.headers["Location"]

    def approve(self, user_code: str) -> None:
        """The owner typed the code of a device, and allows."""
        self._device(user_code).state = "approved"

    def deny(self, user_code: str) -> None:
        self._device(user_code).state = "denied"

    def revoke(self, account: str | None = None) -> None:
        """The owner takes back every grant (None: all owners), at once: access tokens end as well."""
        with self._lock:
            for tokens in (self._access, self._refresh):
                for text in [text for text, token in tokens.items() if account in (None, token.account)]:
                    del tokens[text]

    def expire_access(self) -> None:
        """Every access token ends now; grants stay."""
        with self._lock:
            self._access = {text: replace(token, expires=0.0) for text, token in self._access.items()}

    def of(self, request: Request) -> Token | None:
        """What the request's access token stands for; None when it has none that is good."""
        with self._lock:
            token = self._access.get(request.bearer or "")
        return token if token is not None and token.expires > time.time() else None

    # -- what programs ask ----------------------------------------------------------------------------------------------

    def serves(self, request: Request) -> bool:
        return any(
            _fits(url, request) for url in (self.token_url, self.device_url, self.authorize_url, self.revoke_url)
        )

    def __call__(self, request: Request) -> Answer:
        with self._lock:
            if _fits(self.token_url, request):
                return self._token(request.form)
            if _fits(self.device_url, request):
                return self._new_device(request.form)
            if _fits(self.authorize_url, request):
                return self._authorize(request)
            return self._revoked(request.form.get("token") or request.query.get("token", ""))

    def _token(self, form: Mapping[str, str]) -> Answer:
        kind = form.get("grant_type", "")
        if kind == _SERVICE:
            return self._for_service(form)
        if (refused := self._refused(form)) is not None:
            return refused
        if kind == "refresh_token":
            return self._refreshed(form.get("refresh_token", ""), form["client_id"])
        if kind == _DEVICE:
            return self._for_device(form.get("device_code", ""))
        if kind == "authorization_code":
            return self._for_code(form)
        return self._error("unsupported_grant_type", 70003)

    def _refused(self, form: Mapping[str, str]) -> Answer | None:
        client = self.clients.get(form.get("client_id", ""))
        if client is None:
            return self._error("invalid_client", 700016, 401)
        if client.secret is not None and form.get("client_secret") != client.secret:
            return self._error("invalid_client", 7000215, 401)
        if client.secret_ended:
            return self._error("invalid_client", 7000222, 401)
        return None

    def _refreshed(self, refresh: str, client: str) -> Answer:
        token = self._refresh.get(refresh)
        if token is None or token.client != client:
            return self._error("invalid_grant", 70000)
        self.refreshes += 1
        if not self.rotates:
            return self._given(token, None)
        del self._refresh[refresh]
        return self._given(token, self._new_refresh(token))

    def _for_device(self, code: str) -> Answer:
        device = self._devices.get(code)
        if device is None:
            return self._error("invalid_grant", 70000)
        if device.expires < time.time():
            return self._error("expired_token", 70020)
        if device.state == "authorization_pending":
            return self._error("authorization_pending", 70016, 428 if self.revoke_url else 400)
        del self._devices[code]
        if device.state == "denied":
            return self._error("access_denied" if self.revoke_url else "authorization_declined", 70016)
        return self._given(device.token, self._new_refresh(device.token))

    def _for_code(self, form: Mapping[str, str]) -> Answer:
        code = self._codes.pop(form.get("code", ""), None)
        if code is None or code.token.client != form["client_id"] or code.redirect_uri != form.get("redirect_uri"):
            return self._error("invalid_grant", 70000)
        found = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if code.challenge and found.rstrip(b"=").decode() != code.challenge:
            return self._error("invalid_grant", 501481)
        return self._given(code.token, self._new_refresh(code.token))

    def _for_service(self, form: Mapping[str, str]) -> Answer:
        header, claims, signature = form.get("assertion", "..").split(".")
        said: dict[str, Any] = json.loads(_unpadded(claims))
        pem = self.service_accounts.get(said.get("iss", ""))
        if pem is None or not _signed(pem, f"{header}.{claims}".encode(), _unpadded(signature)):
            return self._error("invalid_grant", 70000)
        token = Token(said["iss"], tuple(said.get("scope", "").split()), said.get("sub") or said["iss"])
        return self._given(token, None)

    def _new_device(self, form: Mapping[str, str]) -> Answer:
        client, scopes = form.get("client_id", ""), tuple(form.get("scope", "").split())
        if client not in self.clients:
            return self._error("invalid_client", 700016, 401)
        if self.device_scopes is not None and not set(scopes) <= self.device_scopes:
            return self._error("invalid_scope", 70011)
        code, user_code = secrets.token_urlsafe(24), secrets.token_hex(4).upper()
        expires = time.time() + 900
        self._devices[code] = _Device(Token(client, scopes, self.account), user_code, expires=expires)
        return json_answer(
            {
                "device_code": code,
                "user_code": user_code,
                self.verification: self.verification_at,
                "expires_in": 900,
                "interval": self.interval,
                "message": f"To sign in, open {self.verification_at} and enter the code {user_code}.",
            }
        )

    def _authorize(self, request: Request) -> Answer:
        query = request.query
        if query.get("client_id") not in self.clients:
            return self._error("invalid_client", 700016, 401)
        if query.get("response_type") != "code" or query.get("code_challenge_method", "S256") != "S256":
            return self._error("invalid_request", 900144)
        token = Token(query["client_id"], tuple(query.get("scope", "").split()), self.account)
        code = secrets.token_urlsafe(24)
        self._codes[code] = _Code(token, query.get("code_challenge", ""), query.get("redirect_uri", ""))
        back = {"code": code, "scope": " ".join(token.scopes)} | {key: query[key] for key in ("state",) if key in query}
        return Answer(302, headers={"Location": f"{query.get('redirect_uri', '')}?{urlencode(back)}"})

    def _revoked(self, text: str) -> Answer:
        token = self._refresh.get(text) or self._access.get(text)
        if token is None:
            return self._error("invalid_token", 0)
        self.revoke(token.account)
        return json_answer({})

    # -- tokens ---------------------------------------------------------------------------------------------------------

    def _given(self, token: Token, refresh: str | None) -> Answer:
        content: dict[str, Any] = {
            "access_token": self._new_access(token, None),
            "expires_in": round(self.lifetime),
            "scope": " ".join(token.scopes),
            "token_type": "Bearer",
        }
        # Microsoft gives a refresh token to whoever asks for offline_access, Google to whoever asks for access_type=offline.
        if refresh is not None and (self.revoke_url or "offline_access" in token.scopes):
            content["refresh_token"] = refresh
        if "openid" in token.scopes:
            content["id_token"] = _id_token(token)
        return json_answer(content)

    def _new_access(self, token: Token, lifetime: float | None) -> str:
        text = f"access-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._access[text] = replace(token, expires=time.time() + (self.lifetime if lifetime is None else lifetime))
        return text

    def _new_refresh(self, token: Token) -> str:
        text = f"refresh-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._refresh[text] = token
        return text

    def _device(self, user_code: str) -> _Device:
        return next(device for device in self._devices.values() if device.user_code == user_code)

    def _error(self, error: str, number: int, status: int = 400) -> Answer:
        said = {"error": error, "error_description": "Token has been expired or revoked."}
        if self.revoke_url is None:
            said |= {"error_description": f"AADSTS{number}: asked for by the test.", "error_codes": [number]}  # type: ignore[dict-item]
        return json_answer(said, status)


def google_tokens() -> TokenServer:
    """developers.google.com/identity/protocols/oauth2: web-server, native-app, limited-input-device, service-account."""
    return TokenServer(
        token_url="oauth2.googleapis.com/token",
        device_url="oauth2.googleapis.com/device/code",
        authorize_url="accounts.google.com/o/oauth2/v2/auth",
        revoke_url="oauth2.googleapis.com/revoke",
        rotates=False,
        verification="verification_url",
        verification_at="https://www.google.com/device",
        device_scopes=frozenset(
            {
                "email",
                "openid",
                "profile",
                "https://www.googleapis.com/auth/drive.file",
                "https://www.googleapis.com/auth/drive.appdata",
            }
        ),
    )


def microsoft_tokens() -> TokenServer:
    """learn.microsoft.com/entra/identity-platform: v2-oauth2-auth-code-flow, v2-oauth2-device-code, refresh-tokens."""
    return TokenServer(
        token_url="login.microsoftonline.com/*/oauth2/v2.0/token",
        device_url="login.microsoftonline.com/*/oauth2/v2.0/devicecode",
        authorize_url="login.microsoftonline.com/*/oauth2/v2.0/authorize",
        revoke_url=None,
        rotates=True,
        verification="verification_uri",
        verification_at="https://microsoft.com/devicelogin",
    )


def _fits(url: str | None, request: Request) -> bool:
    if url is None:
        return False
    parts, asked = url.split("/"), f"{request.host}{request.path}".split("/")
    return len(parts) == len(asked) and all(part in ("*", other) for part, other in zip(parts, asked, strict=True))


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _id_token(token: Token) -> str:
    """As OpenID Connect has it, without a signature that anybody checks: it comes over TLS from its issuer."""
    claims = {"email": token.account, "preferred_username": token.account, "aud": token.client}
    parts: tuple[dict[str, str], ...] = ({"alg": "RS256"}, claims, {})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)


def _signed(pem: str, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    try:
        key.public_key().verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True
