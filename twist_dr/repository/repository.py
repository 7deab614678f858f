"""Backups on a storage target: the layout, and reading with every byte checked.

<application>/backups/<backup_id>/manifest.json            written last: a backup exists where its manifest does
                                 /database.dump.zst.enc ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twist_dr.errors import (
    FROM_ANOTHER,
    ArtifactInvalid,
    BackupNotFound,
    ManifestInvalid,
    ObjectArchived,
    ObjectCorrupt,
    ObjectMissing,
    TargetUnavailable,
    about,
)
from twist_dr.repository.compression import HIGHEST, SUFFIXES, Compression, decompress
from twist_dr.repository.emptied import emptied
from twist_dr.repository.encryption import associated_data, decrypt
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import (
    MANIFEST_NAME,
    MOST_BYTES,
    Artifact,
    ArtifactForm,
    Kind,
    Manifest,
    is_backup_id,
    kind_of,
    open_manifest,
)
from twist_dr.repository.streams import Form, write_new
from twist_dr.storage.base import OnBytes, StorageTarget, StoredObject, no_progress
from twist_dr.storage.chunks import counted, hashed, prefetch, read_chunks

#: Of what is held in memory whole (roles.sql, server.json), bytes: a hundred thousand roles.
_MOST_SMALL = 64 << 20

#: Most documents are read at once.
_PIECE = 1 << 20

_LEVELS: dict[Compression, range] = {each: range(HIGHEST.get(each, 0) + 1) for each in SUFFIXES}
_FORMS = {
    form.name: form for form in (Form(c, e, n) for c, levels in _LEVELS.items() for n in levels for e in (True, False))
}


def form_named(name: str) -> Form | None:
    """The form that manifests call by this name, if this version knows it."""
    return _FORMS.get(name)


@dataclass(frozen=True)
class Repository:
    """One application's backups on one target."""

    target: StorageTarget
    application: str
    summaries: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What is kept, while a command lasts, of manifests that were read and authenticated, by backup: they are written once and never changed."""

    def key(self, backup_id: str, name: str) -> str:
        return f"{self.application}/backups/{backup_id}/{name}"

    def backup_ids(self) -> list[str]:
        """Ids of the folders that look like backups, oldest first. Whether one is a backup its manifest says."""
        return [name for name in self.target.children(f"{self.application}/backups") if is_backup_id(name)]

    def has_manifest(self, backup_id: str) -> bool:
        return self.target.stat(self.key(backup_id, MANIFEST_NAME)) is not None

    def emptied(self) -> TargetUnavailable:
        """What to raise where this target lists no backups though it held some: it may not be mounted, or somebody emptied it."""
        rebuild = f"run: twist-dr catalog rebuild --from {self.target.name}"
        return emptied(self.target, self.application, held="backups", on_purpose=rebuild)

    def need_backups(self) -> None:
        """Raise ``TargetUnavailable`` where this target, which held backups, lists none, or cannot be asked."""
        try:
            held = self.backup_ids()
        except TargetUnavailable as error:
            raise TargetUnavailable(
                f"it held backups before, and now: {error.clause}", target=self.target.name
            ) from error
        if not held:
            raise self.emptied()

    def latest(self, kind: Kind) -> str | None:
        """The newest id of a kind that has a manifest."""
        ids = (backup_id for backup_id in reversed(self.backup_ids()) if kind_of(backup_id) == kind)
        return next((backup_id for backup_id in ids if self.has_manifest(backup_id)), None)

    def manifest_bytes(self, backup_id: str) -> bytes:
        """Raises ``BackupNotFound`` when there is none."""
        try:
            data = self.document(self.key(backup_id, MANIFEST_NAME), MOST_BYTES)
        except ObjectMissing:
            raise BackupNotFound(
                f"it holds no backup {backup_id} of {self.application}",
                remedy="see what there is with: twist-dr list",
                target=self.target.name,
            ) from None
        if len(data) > MOST_BYTES:
            raise ManifestInvalid(
                f"{backup_id}/{MANIFEST_NAME}: larger than any manifest",
                remedy=FROM_ANOTHER,
                target=self.target.name,
            )
        return data

    def document(self, key: str, most: int) -> bytes:
        """A small object's bytes: ``most`` of them, and one more where there are more, so that none is read without an end.

        Raises ``ObjectMissing`` and storage errors.
        """

        # Python sets aside all that it is asked for, before it reads.
        pieces, left = list[bytes](), most + 1
        with self.target.open(key) as stream:
            while left and (piece := stream.read(min(left, _PIECE))):
                pieces.append(piece)
                left -= len(piece)
        return b"".join(pieces)

    def manifest(self, backup_id: str, keyring: Keyring) -> Manifest:
        """The authenticated manifest. Raises the errors of :func:`twist_dr.repository.manifest.open_manifest`."""
        return self.sealed(backup_id, keyring)[0]

    def sealed(self, backup_id: str, keyring: Keyring) -> tuple[Manifest, bytes]:
        """The same with its bytes, fetched once. Raises the same."""
        data = self.manifest_bytes(backup_id)
        return self.opened(data, backup_id, keyring), data

    def opened(self, sealed: bytes, backup_id: str, keyring: Keyring) -> Manifest:
        """A manifest that was fetched from here, authenticated. Raises the same."""
        what = f"{backup_id}/{MANIFEST_NAME}"
        with about(self.target.name):
            return open_manifest(sealed, keyring, application=self.application, backup_id=backup_id, what=what)

    def held(self, manifest: Manifest) -> dict[str, tuple[Form, ArtifactForm]]:
        """By artifact, the form in which this target holds it. Raises ``ObjectMissing`` or ``ObjectCorrupt`` when it is not all here."""
        return self._held(manifest, self._listed(manifest.backup_id))

    def readable(self, manifest: Manifest) -> dict[str, tuple[Form, ArtifactForm]]:
        """The same where all of it can be read at once; raises also ``ObjectArchived``."""
        listed = self._listed(manifest.backup_id)
        held = self._held(manifest, listed)
        for _, stored in held.values():
            # A list does not tell what was restored for a while.
            if listed[stored.name].archived and (now := self.target.stat(listed[stored.name].key)) and now.archived:
                raise ObjectArchived(
                    f"{manifest.backup_id}/{stored.name} is in the archive storage class {now.storage_class}",
                    remedy="restore all of that backup there first, or use another target's copy",
                    target=self.target.name,
                )
        return held

    def _listed(self, backup_id: str) -> dict[str, StoredObject]:
        prefix = self.key(backup_id, "")
        return {each.key.removeprefix(prefix): each for each in self.target.list(prefix.rstrip("/"))}

    def _held(self, manifest: Manifest, listed: Mapping[str, StoredObject]) -> dict[str, tuple[Form, ArtifactForm]]:
        sizes = {name: each.size for name, each in listed.items()}
        return {artifact.name: self._held_form(manifest, artifact, sizes) for artifact in manifest.artifacts}

    def _held_form(self, manifest: Manifest, artifact: Artifact, sizes: dict[str, int]) -> tuple[Form, ArtifactForm]:
        wrong_size = None
        for form_name, stored in artifact.stored.items():
            form = form_named(form_name)
            if form is None or stored.name not in sizes:
                continue
            if sizes[stored.name] == stored.size:
                return form, stored
            wrong_size = stored
        if wrong_size is not None:
            raise ObjectCorrupt(
                f"{manifest.backup_id}/{wrong_size.name}: {sizes[wrong_size.name]} bytes where {wrong_size.size} were recorded",
                remedy=FROM_ANOTHER,
                target=self.target.name,
            )
        raise ObjectMissing(
            f"{manifest.backup_id}/{artifact.name}: missing, though the manifest is there",
            remedy=FROM_ANOTHER,
            target=self.target.name,
        )

    def read(self, manifest: Manifest, name: str, keyring: Keyring, progress: OnBytes = no_progress) -> Iterator[bytes]:
        """An artifact's plain bytes: fetched, hashed as stored, authenticated, unpacked, hashed again.

        The bytes are good only when the iterator has ended without an error. ``progress`` counts stored bytes.
        Raises ``ArtifactInvalid``, ``AuthenticationFailed``, and storage errors.
        """
        form, stored = self.held(manifest)[name]
        artifact = manifest.artifact(name)
        assert artifact is not None
        what = f"{manifest.backup_id}/{stored.name}"
        key = keyring.find(manifest.key.id, manifest.key.check_value)

        def stored_chunks() -> Iterator[bytes]:
            with self.target.open(self.key(manifest.backup_id, stored.name)) as stream:
                yield from hashed(counted(read_chunks(stream), progress), stored.digest, what)

        chunks = prefetch(stored_chunks())
        if form.encrypted:
            chunks = decrypt(chunks, key, associated_data(manifest.application, manifest.backup_id, name), what)
        yield from self.named(hashed(prefetch(decompress(chunks, form.compression, what)), artifact.digest, what))

    def named(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Bytes that come from here: errors about them name the target."""
        with about(self.target.name):
            yield from chunks

    def read_small(self, manifest: Manifest, name: str, keyring: Keyring) -> bytes:
        """A small artifact whole. Nothing is given before all of it was checked. Raises also ``ArtifactInvalid`` when it is not small."""
        artifact = manifest.artifact(name)
        if artifact is not None and artifact.size > _MOST_SMALL:
            raise ArtifactInvalid(
                f"{manifest.backup_id}/{name}: {artifact.size} bytes, which none of ours has",
                remedy="restore another backup",
                target=self.target.name,
            )
        return b"".join(self.read(manifest, name, keyring))

    def fetch(
        self,
        manifest: Manifest,
        name: str,
        keyring: Keyring,
        path: Path,
        progress: OnBytes = no_progress,
        *,
        durable: bool = True,
    ) -> None:
        """Write an artifact's plain bytes to a new file, which is gone again unless all of it was good.

        ``durable`` False: for a file that is used and removed at once. Raises what :meth:`read` raises, and ``StagingFull``.
        """
        write_new(path, self.read(manifest, name, keyring, progress), durable=durable)
