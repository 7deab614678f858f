"""The secrets file: client secrets, passwords and the grants of storage targets, each encrypted by itself; names can be read.

A small YAML document (mode 0600) beside the settings::

    format: 1
    application: erp
    secrets:
      "S3_SECRET": {set: "2026-11-30T15:00:00+00:00", key: "k20261121", check: 1f..., value: base64}
    grants:
      "office_drive": {...}      # as JSON: refresh token, access token, whose account

A value is an encrypted stream (``encryption.py``) under a key of the keyring; the associated data binds it to application and name, so that
none can be put in another's place. Changes are made under a lock of all processes, and are durable before they are told.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from twist_dr.errors import AuthenticationFailed, SecretMissing, SecretsInvalid
from twist_dr.redaction import keep_secret, keep_url
from twist_dr.repository.encryption import Encryptor, decrypt
from twist_dr.repository.keys import Keyring, load_keyring
from twist_dr.storage.machine import Grant, HeldGrant
from twist_dr.system.documents import BY_HAND, DocumentInvalid, YamlInvalid, read_file, read_yaml, replace_file
from twist_dr.system.lock import FileLocks

_FORMAT = 1
#: Names of secrets stand in settings and in YAML.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_WORDS = "at most 64 letters, digits, '_', '.' and '-', a letter first"
#: Far longer than any password, key or token.
MOST_CHARACTERS = 16_384
#: Characters of the file that secrets may take, half of what is read of it: grants grow with each renewal, and must find room then.
_MOST_WITH_SECRETS = BY_HAND.size // 2
_FREE_SPACE = "remove what nothing needs: twist-dr secrets remove NAME"
#: One write of a small file.
_WRITTEN_SECONDS = 30.0
#: Whoever renews a grant waits for its provider this long at most, with what lies before and after it (``oauth_http.py``).
_RENEWED_SECONDS = 120.0
_BRING_BACK = (
    "bring it back from a configuration backup, or remove it and set the secrets anew: twist-dr secrets set NAME"
)

SecretKind = Literal["secrets", "grants"]


@dataclass(frozen=True)
class SealedValue:
    """A value as the file holds it."""

    set_at: datetime
    key_id: str
    check_value: str
    sealed: bytes = field(repr=False)


_Content = dict[SecretKind, dict[str, SealedValue]]


class SecretsFile:
    """The secrets of one application. Inert: each method reads the file as it is then. Is :class:`~twist_dr.storage.machine.Grants`, too."""

    def __init__(self, path: Path, application: str, keyring: str) -> None:
        self.path = path
        self._application = application
        self._keyring = keyring
        # Beside the file, so that all who share it share them.
        self._locks = FileLocks(path.parent, f".{path.name}")

    def listed(self) -> dict[str, dict[str, SealedValue]]:
        """All by ``secret`` or ``grant``, and by name; none where there is no file. No key is needed. Raises ``SecretsInvalid``."""
        return {kind.removesuffix("s"): dict(sorted(values.items())) for kind, values in self._read().items()}

    def reader(self) -> Callable[[str], str]:
        """Gives secrets by name, of the file as it was at the first one. Raises ``SecretMissing``, ``SecretsInvalid``, ``KeyringInvalid``, ``KeyMissing``, ``WrongKey``."""
        content: _Content | None = None
        keyring: Keyring | None = None

        def read(name: str) -> str:
            nonlocal content, keyring
            content = content or self._read()
            if name not in content["secrets"]:
                raise self._missing(name)
            keyring = keyring or load_keyring(self._keyring)
            return self._opened(content, keyring, "secrets", name)

        return read

    def set(self, name: str, value: str) -> SealedValue:
        """Keep a secret under the primary key, in the place of one of that name. Raises ``SecretsInvalid``, ``KeyringInvalid``."""
        if not _NAME.fullmatch(name):
            raise SecretsInvalid(f"A secret's name is {NAME_WORDS}", remedy="choose another name")
        if not value or len(value) > MOST_CHARACTERS:
            raise SecretsInvalid(f"A secret has 1 to {MOST_CHARACTERS} characters, this one has {len(value)}")
        keep_secret(value)
        return self._put("secrets", name, value)

    def remove(self, name: str) -> None:
        """Raises ``SecretMissing``, ``SecretsInvalid``."""
        with self._changing() as content:
            if content["secrets"].pop(name, None) is None:
                raise self._missing(name, "see those that are there: twist-dr secrets list")

    def check(self) -> int:
        """Open all that it holds; returns how much is not encrypted with the primary key. Raises as :meth:`reader`."""
        content = self._read()
        keyring = load_keyring(self._keyring)
        for kind, values in content.items():
            for name in values:
                self._opened(content, keyring, kind, name)
        return sum(value.key_id != keyring.primary_id for values in content.values() for value in values.values())

    def rotate(self) -> list[str]:
        """Encrypt with the primary key what is encrypted with another; returns the names of those secrets and targets. Raises as :meth:`reader`."""
        keyring = load_keyring(self._keyring)
        changed = []
        with self._changing() as content:
            for kind, values in content.items():
                for name, value in values.items():
                    if (value.key_id, value.check_value) != (keyring.primary_id, keyring.primary.check_value):
                        text = self._opened(content, keyring, kind, name)
                        values[name] = replace(self._sealed(keyring, kind, name, text), set_at=value.set_at)
                        changed.append(name)
        return sorted(changed)

    # -- grants ------------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, target: str) -> Iterator[HeldGrant]:
        """See ``Grants``. Raises as :meth:`reader`, and ``Busy`` when somebody renews it for minutes."""
        with self._lock("Renewing a grant", f"grant-{target}", _RENEWED_SECONDS):
            yield HeldGrant(self.grant(target), lambda grant: self._commit(target, grant))

    def grant(self, target: str) -> Grant | None:
        """The grant as it is now, for whoever only looks. Raises as :meth:`reader`."""
        content = self._read()
        if target not in content["grants"]:
            return None
        text = self._opened(content, load_keyring(self._keyring), "grants", target)
        try:
            grant = _grant_of(json.loads(text))
        except (ValueError, TypeError, KeyError):
            raise self._altered("the grant", target) from None
        keep_secret(grant.refresh_token, grant.access_token or "")
        return grant

    def _commit(self, target: str, grant: Grant) -> None:
        keep_secret(grant.refresh_token, grant.access_token or "")
        self._put("grants", target, json.dumps(asdict(grant), default=datetime.isoformat))

    # -- one value ---------------------------------------------------------------------------------------------------

    def _put(self, kind: SecretKind, name: str, text: str) -> SealedValue:
        sealed = self._sealed(load_keyring(self._keyring), kind, name, text)
        with self._changing() as content:
            content[kind][name] = sealed
            if kind == "secrets" and len(self._text(content)) > _MOST_WITH_SECRETS:
                raise SecretsInvalid(
                    f"{self.path} has no space for {name} beside what it holds",
                    remedy=_FREE_SPACE,
                )
        return sealed

    def _sealed(self, keyring: Keyring, kind: SecretKind, name: str, text: str) -> SealedValue:
        encryptor = Encryptor(keyring.primary, self._associated_data(kind, name))
        sealed = b"".join((*encryptor.update(text.encode("utf-8", "surrogateescape")), *encryptor.finish()))
        now = datetime.now(timezone.utc).replace(microsecond=0)
        return SealedValue(now, keyring.primary_id, keyring.primary.check_value, sealed)

    def _opened(self, content: _Content, keyring: Keyring, kind: SecretKind, name: str) -> str:
        value = content[kind][name]
        what = "the secret" if kind == "secrets" else "the grant"
        key = keyring.find(value.key_id, value.check_value, f"{what} {name} in {self.path}")
        try:
            plain = b"".join(decrypt([value.sealed], key, self._associated_data(kind, name), name))
        except AuthenticationFailed:
            raise self._altered(what, name) from None
        text = plain.decode("utf-8", "surrogateescape")
        if kind == "secrets":
            keep_secret(text)
            if "://" in text:
                keep_url(text)
        return text

    def _associated_data(self, kind: SecretKind, name: str) -> bytes:
        return "\n".join(("twist-dr secret 1", self._application, kind, name)).encode()

    def _altered(self, what: str, name: str) -> SecretsInvalid:
        anew = "twist-dr secrets set" if what == "the secret" else "twist-dr targets authorize"
        return SecretsInvalid(
            f"{what[0].upper()}{what[1:]} {name} in {self.path} was altered, or belongs to another name or application",
            remedy=f"bring the file back from a configuration backup, or renew it: {anew} {name}",
        )

    def _missing(self, name: str, remedy: str | None = None) -> SecretMissing:
        where = f"{self.path} has no secret {name}" if self.path.exists() else f"There is no {self.path}"
        return SecretMissing(
            where, remedy=remedy or f"bring it back from a configuration backup, or set it: twist-dr secrets set {name}"
        )

    # -- the file ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[_Content]:
        with self._lock("Changing the secrets file", "", _WRITTEN_SECONDS):
            content = self._read()
            yield content
            text = self._text(content)
            if len(text) > BY_HAND.size:
                # It could not be read again: one answer of one provider would take all secrets with it.
                raise SecretsInvalid(
                    f"{self.path} has no space for what was to be kept there, and is as it was", remedy=_FREE_SPACE
                )
            try:
                owner = (self.path if self.path.exists() else self.path.parent).stat()
                replace_file(self.path, text.encode())
                _give_to(owner, self.path)
            except OSError as error:
                raise self._not_written(error) from None

    @contextmanager
    def _lock(self, what: str, scope: str, patience: float) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(self._locks.hold(what, scope=scope, patience=patience))
            except OSError as error:
                raise self._not_written(error) from None
            _give_to(self.path.parent.stat(), self.path.with_name(f".{self.path.name}{scope and f'.{scope}'}.lock"))
            yield

    def _not_written(self, error: OSError) -> SecretsInvalid:
        return SecretsInvalid(
            f"{self.path} cannot be written ({error.strerror or type(error).__name__})",
            remedy=f"free space, or let this user write in {self.path.parent}, or name another file under secrets: in the settings",
        )

    def _read(self) -> _Content:
        content: _Content = {kind: {} for kind in get_args(SecretKind)}
        try:
            mode = self.path.stat().st_mode
            if mode & 0o077:
                raise SecretsInvalid(
                    f"Others than its owner may use {self.path} (mode {mode & 0o777:03o})",
                    remedy=f"run: chmod 600 {self.path}",
                )
            document = read_yaml(read_file(self.path, BY_HAND.size).decode())
        except FileNotFoundError:
            return content
        except OSError as error:
            raise SecretsInvalid(
                f"{self.path} cannot be read ({error.strerror})", remedy="fix its owner, or that of its folder"
            ) from None
        except (YamlInvalid, DocumentInvalid, UnicodeDecodeError):
            raise self._damaged() from None
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise self._damaged()
        if document.get("application") != self._application:
            raise SecretsInvalid(
                f"{self.path} holds the secrets of another application than {self._application}",
                remedy="give each application a file of its own: secrets: NAME.yaml in its settings",
            )
        try:
            for kind, values in content.items():
                # Both are always written: of a file that was cut off between two lines the rest would pass for all.
                values.update({_word(name): _value(each) for name, each in (document[kind] or {}).items()})
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
            raise self._damaged() from None
        return content

    def _damaged(self) -> SecretsInvalid:
        return SecretsInvalid(f"{self.path} is no secrets file: truncated or overwritten", remedy=_BRING_BACK)

    def _text(self, content: _Content) -> str:
        lines = [
            f"# twist-dr secrets of {self._application}: each value is encrypted with a key of the keyring. Change it by: twist-dr secrets",
            f"format: {_FORMAT}",
            f'application: "{self._application}"',
        ]
        for kind, values in content.items():
            lines.append(f"{kind}:")
            for name, value in sorted(values.items()):
                told = f'{{set: "{value.set_at.isoformat()}", key: "{value.key_id}", check: "{value.check_value}", value: "{base64.b64encode(value.sealed).decode()}"}}'
                lines.append(f'  "{name}": {told}')
        return "\n".join(lines) + "\n"


def _give_to(owner: os.stat_result, path: Path) -> None:
    """What root made in somebody's folder is his: the service could not use it otherwise."""
    if os.geteuid() == 0:
        # He may put a link in its place at any moment, which would have us give him somebody else's file.
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _value(document: Any) -> SealedValue:
    sealed = base64.b64decode(document["value"], validate=True)
    set_at = datetime.fromisoformat(document["set"]).astimezone(timezone.utc)
    return SealedValue(set_at, _word(document["key"]), _word(document["check"]), sealed)


def _word(text: object) -> str:
    """What is written again as it was read must mean the same to YAML then. Raises ``ValueError``."""
    if not isinstance(text, str) or not _WORD.fullmatch(text):
        raise ValueError
    return text


def _grant_of(document: dict[str, Any]) -> Grant:
    times = {
        name: datetime.fromisoformat(document[name]) if document.get(name) else None
        for name in ("expires", "refreshed", "ends")
    }
    return Grant(
        refresh_token=document["refresh_token"],
        granted=datetime.fromisoformat(document["granted"]),
        scopes=tuple(document["scopes"]),
        account=document["account"],
        access_token=document["access_token"],
        **times,
    )
