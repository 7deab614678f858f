"""The keyring as a resource: read when it is needed, not when definitions are loaded."""

from __future__ import annotations

from dataclasses import dataclass

from twist_dr.engine.keys import Keyring, load_keyring


@dataclass(frozen=True)
class KeyringSource:
    """Where the keyring is: a file, or ``env:NAME``."""

    location: str

    def load(self) -> Keyring:
        """Raises ``KeyringInvalid``."""
        return load_keyring(self.location)
