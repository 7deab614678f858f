"""A configuration backup read back: every byte authenticated and hashed, files against their index, each database opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twist_dr.backup.configuration import HISTORY
from twist_dr.backup.snapshots import dump_damage, sqlite_damage
from twist_dr.repository.archive_index import beside_index
from twist_dr.repository.archive_reading import checked_members, compare_archive
from twist_dr.repository.compression import decompress
from twist_dr.repository.encryption import associated_data, decrypt
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import form_named
from twist_dr.repository.streams import Form, write_new
from twist_dr.storage.chunks import hashed, prefetch, read_chunks
from twist_dr.system.progress import Report, human_seconds
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over
from twist_dr.system.words import counted
from twist_dr.verify.verification import VerificationResult

_PREFIX = "check-"

#: Gives an artifact's plain bytes by its name. They are good only when the iterator has ended without an error.
Read = Callable[[str], Iterator[bytes]]


def staged(manifest: Manifest, folder: Path, keyring: Keyring) -> dict[str, Read]:
    """How to read a backup that lies in a staging folder, in each form in which it lies there."""
    key = keyring.find(manifest.key.id, manifest.key.check_value)

    def reader(form: Form) -> Read:
        def read(name: str) -> Iterator[bytes]:
            artifact = manifest.artifact(name)
            assert artifact is not None
            stored = artifact.stored[form.name]
            what = f"staging: {manifest.backup_id}/{stored.name}"
            with open(folder / stored.name, "rb", buffering=0) as file:
                chunks = hashed(read_chunks(file), stored.digest, what)
                if form.encrypted:
                    data = associated_data(manifest.application, manifest.backup_id, name)
                    chunks = decrypt(chunks, key, data, what)
                yield from hashed(prefetch(decompress(chunks, form.compression, what)), artifact.digest, what)

        return read

    names = {name for artifact in manifest.artifacts for name in artifact.stored}
    return {name: reader(form) for name in sorted(names) if (form := form_named(name)) is not None}


def read_configuration(
    manifest: Manifest, read: Read, place: str, *, scratch: Path, client_tools: Sequence[Path] = (), report: Report
) -> VerificationResult:
    """Read all of a configuration backup from ``place`` (a target's name, or staging).

    What is damaged in it is among the result's ``differences``. Bytes that are missing or altered raise, as in ``verify_backup``. Databases
    are written plain into a folder below ``scratch`` while they are looked at.
    """
    result = VerificationResult(manifest.backup_id, place)
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    clear_left_over(scratch, _PREFIX)
    with result.timed("total"), ScratchFolder(scratch, _PREFIX) as folder:
        check = _Check(manifest, read, folder, client_tools, report, result)
        for artifact in manifest.artifacts:
            if not artifact.name.endswith(".files.jsonl"):  # each is read beside its archive
                check.artifact(artifact.name)
    outcome = "good" if result.verified else f"NOT good, {counted(len(result.differences), 'difference')}"
    report.info(
        f"{manifest.backup_id} was read back from {place}: {outcome}, in {human_seconds(result.seconds['total'])}"
    )
    return result


@dataclass
class _Check:
    manifest: Manifest
    read: Read
    folder: Path
    client_tools: Sequence[Path]
    report: Report
    result: VerificationResult

    def artifact(self, name: str) -> None:
        with self.report.part(f"reading {name}") as self._advance:
            if name == f"{HISTORY}.tar":
                self._history(name)
            elif name.endswith(".tar"):
                self._archive(name)
            elif name.endswith(".sqlite"):
                self._note(name, self._damage(self.read(name), sqlite_damage))
            elif name.endswith(".dump"):
                self._note(name, self._damage(self.read(name), lambda path: dump_damage(path, self.client_tools)))
            else:
                for chunk in self.read(name):
                    self._advance(len(chunk))

    def _archive(self, name: str) -> None:
        with beside_index(self.read, name) as (stream, index):
            files, differences = compare_archive(stream, index, name)
        self.result.differences += differences
        self.result.count_files(self.manifest, name, files)

    def _history(self, name: str) -> None:
        """Each file in it is a database of its own; one at a time takes space."""
        files = 0
        with beside_index(self.read, name) as (stream, index):
            for member, _, content in checked_members(stream, index, name):
                if member.isreg():
                    self._note(f"{name}: {member.name}", self._damage(content, sqlite_damage))
                    files += 1
        self.result.count_files(self.manifest, name, files)

    def _damage(self, chunks: Iterator[bytes], look: Callable[[Path], str | None]) -> str | None:
        path = self.folder / "database"
        write_new(path, self._counted(chunks), durable=False)
        try:
            return look(path)
        finally:
            path.unlink()

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._advance(len(chunk))
            yield chunk

    def _note(self, what: str, damage: str | None) -> None:
        if damage is not None:
            self.result.differences.append(f"{what} is damaged: {damage}")
