"""Grants for a recovery: the owner of a drive is asked when the first token is needed, for those of the old machine are gone with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from twist_dr.cli.targets import pasted
from twist_dr.storage.machine import Grants, HeldGrant
from twist_dr.storage.oauth import OAuthClient


class AskedGrants:
    """:class:`Grants` of the one target of a recovery. ``kept``: where what the owner allows is kept, and looked for first."""

    def __init__(self, client: OAuthClient, kept: Grants) -> None:
        self._client = client
        self._kept = kept

    @contextmanager
    def held(self, target: str) -> Iterator[HeldGrant]:
        # There is one, whose name here is where it lies.
        with self._kept.held("target") as held:
            if held.grant is None:
                from twist_dr.storage.oauth_flows import Talk, authorize

                # Beside what the command prints.
                talk = Talk(
                    lambda line: print(line, file=sys.stderr, flush=True), lambda what: pasted(what, beside=True)
                )
                grant = authorize(self._client, target, talk)
                held.commit(grant)
                held = HeldGrant(grant, held.commit)
            yield held
