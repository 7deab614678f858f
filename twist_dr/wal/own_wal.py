"""The write-ahead log within a base backup, for a storage target that gets no other: without it the copy there would be worth nothing.

It is taken from a target that gets all of it, once that has it: object by object, authenticated, packed anew as this target keeps bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from twist_dr.errors import ObjectMissing, TwistDRError, WalNotShipped
from twist_dr.repository.first_good import first_good, told_by_all
from twist_dr.repository.keys import Keyring
from twist_dr.repository.streams import Form
from twist_dr.storage.base import Digest
from twist_dr.wal.bundles import segments_of
from twist_dr.wal.holdings import Holdings
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import HISTORY_FORM, WalArchive, associated_data, name_of
from twist_dr.wal.packing import pack


@dataclass(frozen=True)
class OwnWal:
    """What a base backup needs: a cluster's log from the segment ``first`` on to the LSN ``until``, on one timeline."""

    system_identifier: str
    first: Segment
    until: int

    def held(self, archive: WalArchive) -> Holdings:
        return archive.holdings(self.system_identifier, self.first.size, self.first.timeline)


@dataclass
class OwnWalCopy:
    """Copies what ``to`` lacks of it, which it keeps in ``form``. ``folder``: of ours, for what is packed."""

    needed: OwnWal
    sources: Sequence[WalArchive]
    to: WalArchive
    form: Form
    keyring: Keyring
    folder: Path
    _listed: dict[str, Holdings] = field(default_factory=dict)

    def all(self) -> None:
        """Raises ``WalNotShipped`` when no source has something good, and storage errors of the target."""
        identifier, timeline = self.needed.system_identifier, self.needed.first.timeline
        history = self.to.history_key(identifier, timeline)
        if timeline > 1 and not self.to.has(history):
            self._give(history, lambda source: history, lambda key: history, HISTORY_FORM)
        held, copied = self.needed.held(self.to), set[Segment]()
        for segment in self.needed.first.until(self.needed.until):
            if segment not in copied and held.covering(segment, self.needed.until) is None:
                key = self._give(segment.name, partial(self._key_of, segment), self._place, self.form.confidential)
                # It may hold several.
                copied.update(segments_of(name_of(key), segment.size))

    def _key_of(self, segment: Segment, source: WalArchive) -> str | None:
        name = source.target.name
        if name not in self._listed:
            self._listed[name] = self.needed.held(source)
        stored = self._listed[name].covering(segment, self.needed.until)
        return None if stored is None else stored.key

    def _place(self, key: str) -> str:
        """Where the target keeps an object that is called so elsewhere."""
        return self.to.key(self.needed.system_identifier, self.needed.first.timeline, name_of(key), self.form)

    def _give(
        self, what: str, find: Callable[[WalArchive], str | None], place: Callable[[str], str], form: Form
    ) -> str:
        """Copy an object; gives where it lies on the target."""
        identifier, packed = self.needed.system_identifier, self.folder / "packed"

        def pack_from(source: WalArchive) -> tuple[str, Digest]:
            key = find(source)
            if key is None:
                raise ObjectMissing(f"it has not got {what}", target=source.target.name)
            packed.unlink(missing_ok=True)
            data = associated_data(self.to.application, identifier, name_of(key))
            plain = source.read(identifier, key, self.keyring)
            return place(key), pack(plain, packed, form, self.keyring.primary, data)

        failed: list[TwistDRError] = []
        found = first_good(self.sources, pack_from, lambda source, error: failed.append(error))
        if found is None:
            raise WalNotShipped(
                f"{what}, which a base backup needs, could not be copied to it: {told_by_all(failed)}",
                remedy="see twist-dr wal status",
                target=self.to.target.name,
            )
        _, (key, digest) = found
        self.to.put(packed, key, digest)
        return key
