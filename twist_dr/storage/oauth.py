"""OAuth (RFC 6749): whose drive we may use as whom, and access tokens that are fresh.

A refresh token may be good for one use, after which the answer's counts. So a grant is renewed under a lock of all processes, by the first that needs it, and
what the answer brought is durable before its access token is used. Light to import: that no target uses OAuth costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

from twist_dr.errors import Busy, CredentialsRefused, EncryptionError, TargetReauthorize, TargetUnavailable
from twist_dr.redaction import keep_secret
from twist_dr.storage.machine import Grant, Grants, HeldGrant

if TYPE_CHECKING:
    from twist_dr.storage.oauth_http import OAuthAnswer

#: ``device``: a code is typed on any other device (RFC 8628). ``address``: a browser ends at an address that is pasted here (RFC 8252, with PKCE).
#: ``code``: the provider's page shows a code, which is pasted here.
Flow = Literal["device", "address", "code"]

#: An access token that ends sooner is not worth to begin with.
_LEFT = timedelta(minutes=1)
#: What ends a grant: only its owner can give another (RFC 6749, 5.2; Microsoft's for a password or a second factor that is due).
_ENDED = ("invalid_grant", "interaction_required", "consent_required", "login_required")


@dataclass(frozen=True)
class OAuthProvider:
    """A provider's side. ``service``: where it stores. ``account_url`` answers whose account it is, with the text at one of ``account_paths``."""

    name: str
    service: str
    authorize_url: str
    token_url: str
    device_url: str | None
    account_url: str
    account_paths: tuple[tuple[str, ...], ...]
    #: A grant that is not used for so long ends; None: never for that.
    idle: timedelta | None
    #: What its authorization page is told beside.
    page_options: tuple[tuple[str, str], ...] = ()
    #: ``account_url`` is asked by POST.
    account_by_post: bool = False
    #: Scopes without which ``account_url`` does not answer.
    account_scopes: tuple[str, ...] = ()


#: https://developers.google.com/identity/protocols/oauth2 : six months without use end a refresh token.
GOOGLE = OAuthProvider(
    "Google",
    "Google Drive",
    "https://accounts.google.com/o/oauth2/v2/auth",
    "https://oauth2.googleapis.com/token",
    "https://oauth2.googleapis.com/device/code",
    "https://www.googleapis.com/drive/v3/about?fields=user",
    (("user", "emailAddress"), ("user", "displayName")),
    timedelta(days=180),
    # Otherwise it gives no refresh token, or none the second time.
    (("access_type", "offline"), ("prompt", "consent")),
)
#: https://developers.dropbox.com/oauth-guide
DROPBOX = OAuthProvider(
    "Dropbox",
    "Dropbox",
    "https://www.dropbox.com/oauth2/authorize",
    "https://api.dropboxapi.com/oauth2/token",
    None,
    "https://api.dropboxapi.com/2/users/get_current_account",
    (("email",),),
    None,
    (("token_access_type", "offline"),),
    account_by_post=True,
    account_scopes=("account_info.read",),
)
#: Files that this client made, and all others of the account. Google takes device codes for the first alone.
GOOGLE_OWN_FILES = "https://www.googleapis.com/auth/drive.file"
GOOGLE_ALL_FILES = "https://www.googleapis.com/auth/drive"


def microsoft(tenant: str = "common") -> OAuthProvider:
    """https://learn.microsoft.com/entra/identity-platform/refresh-tokens : 90 days without use end a refresh token. ``tenant``: ``common``, ``consumers``, or an id."""
    base = f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0"
    return OAuthProvider(
        "Microsoft",
        "OneDrive",
        f"{base}/authorize",
        f"{base}/token",
        f"{base}/devicecode",
        "https://graph.microsoft.com/v1.0/me",
        (("userPrincipalName",), ("mail",), ("displayName",)),
        timedelta(days=90),
        account_scopes=("User.Read",),
    )


@dataclass(frozen=True)
class OAuthClient:
    """What its provider knows us as: a client that the user registered there. ``scopes``: what is asked of the drive's owner."""

    provider: OAuthProvider
    client_id: str
    client_secret: str | None = field(repr=False)
    scopes: tuple[str, ...]
    flow: Flow = "device"
    #: The day on which ``client_secret`` ends, as its owner noted it down.
    secret_expires: date | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """All scopes that the owner is asked for."""
        return tuple(dict.fromkeys((*self.scopes, *self.provider.account_scopes)))

    @property
    def login(self) -> dict[str, str]:
        """What goes with each request. A secret."""
        return {"client_id": self.client_id} | ({"client_secret": self.client_secret} if self.client_secret else {})


class AccessTokens:
    """Access tokens of a target's grant. May be asked from several threads and processes at once."""

    def __init__(self, client: OAuthClient, grants: Grants, target: str) -> None:
        self._client = client
        self._grants = grants
        self._target = target

    def fresh(self, refused: str | None = None) -> tuple[str, datetime]:
        """An access token in the first half of its life, and its end (UTC). ``refused``: not this one, which the provider no longer takes.

        Raises ``TargetReauthorize``, ``CredentialsRefused``, ``TargetUnavailable``.
        """
        try:
            with self._grants.held(self._target) as held:
                grant = held.grant
                if grant is None:
                    raise self._reauthorize(f"no grant of {self._client.provider.name} is kept for it")
                token = in_first_half(grant, datetime.now(timezone.utc))
                if token is None or token[0] == refused:
                    # Before anything is asked: a new refresh token that cannot be kept would be lost, and the old one may be used up.
                    held.commit(grant)
                    token = self._renew(held, grant, refused)
                return token
        except Busy as error:
            raise TargetUnavailable(error.what, remedy=error.remedy, target=self._target) from None
        except EncryptionError as error:
            raise CredentialsRefused(error.what, remedy=error.remedy, target=self._target) from None

    def _renew(self, held: HeldGrant, grant: Grant, refused: str | None) -> tuple[str, datetime]:
        from twist_dr.storage.oauth_http import ask

        form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token, **self._client.login}
        asked_at = datetime.now(timezone.utc)
        try:
            answer = ask(self._target, self._client.provider.token_url, form)
        except TargetUnavailable:
            # The second half of a token's life is there for this.
            if grant.access_token in (None, refused) or not grant.expires or grant.expires - asked_at < _LEFT:
                raise
            return grant.access_token, grant.expires
        if answer.error in _ENDED:
            whose = f" of {grant.account}" if grant.account else ""
            raise self._reauthorize(
                f"{self._client.provider.name} has ended the grant{whose}, given on {grant.granted:%Y-%m-%d} ({answer.said})"
            )
        renewed = granted_by(answer, self._client, self._target, asked_at, before=grant)
        held.commit(renewed)
        assert renewed.access_token and renewed.expires
        return renewed.access_token, renewed.expires

    def _reauthorize(self, what: str) -> TargetReauthorize:
        return TargetReauthorize(what, remedy=reauthorize_remedy(self._target), target=self._target)


def reauthorize_remedy(target: str) -> str:
    """What a person does about a grant that is gone."""
    return f"renew it with: twist-dr targets authorize {target}"


def in_first_half(grant: Grant, now: datetime) -> tuple[str, datetime] | None:
    """The access token with its end, while it is in the first half of its life: whoever asks again at half of it gets another. A clock that was set back makes none of it."""
    if not grant.access_token or grant.expires is None or grant.refreshed is None:
        return None
    if not grant.refreshed <= now < grant.refreshed + (grant.expires - grant.refreshed) / 2:
        return None
    return grant.access_token, grant.expires


def granted_by(
    answer: OAuthAnswer, client: OAuthClient, target: str, asked_at: datetime, *, before: Grant | None = None
) -> Grant:
    """The grant that an answer of the token endpoint gives; what it leaves out is as ``before``.

    Times are counted on our clock from when it was asked, so that neither the provider's clock nor the way counts. Raises ``CredentialsRefused``, ``TargetUnavailable``.
    """
    name = client.provider.name
    if answer.error:
        own = "client_id and client_secret, which may have ended"
        raise CredentialsRefused(
            f"{name} refuses the client {client.client_id} ({answer.said})",
            remedy=f"correct {own}, or authorize it anew with: twist-dr targets authorize {target}",
            target=target,
        )
    access, lifetime = answer.token("access_token"), answer.seconds("expires_in")
    refresh = answer.token("refresh_token") or (before and before.refresh_token)
    if not access or not lifetime or lifetime <= 0 or not refresh:
        raise TargetUnavailable(f"{name} answered without a token", remedy="try again", target=target)
    keep_secret(access, refresh)
    left = answer.seconds("refresh_token_expires_in")
    ends = before.ends if before else None
    scopes = tuple((answer.text("scope") or "").split()) or (before.scopes if before else client.scopes)
    found = Grant(refresh, asked_at, scopes, access_token=access, expires=asked_at + timedelta(seconds=lifetime))
    if before is not None:
        found = replace(found, granted=before.granted, account=before.account)
    return replace(found, refreshed=asked_at, ends=asked_at + timedelta(seconds=left) if left else ends)
