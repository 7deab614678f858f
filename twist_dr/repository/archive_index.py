"""The index of an archive: a line of JSON per entry, in the archive's order, with what the entry holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from twist_dr.errors import FROM_ANOTHER, ArchiveInvalid
from twist_dr.storage.chunks import buffered, read_out
from twist_dr.system.documents import LINE, DocumentInvalid, read_mapping


@dataclass(frozen=True)
class ArchiveEntry:
    """One line of the index. ``kind`` is file, folder or link; ``sha256`` of a link is that of its target's name, of a file with holes that
    of all its bytes, zeros too.

    ``attributes`` is the digest of extended attributes and access control lists, None where there are none; the topmost folders always
    have it, by which one knows an archive that keeps them. A file of several names has ``names`` (1 otherwise) where it first stands, and
    further on ``same_as``, the path of that.
    """

    path: str
    kind: str
    size: int
    sha256: str | None
    modified: float
    attributes: str | None = None
    names: int = 1
    same_as: str | None = None

    def line(self) -> bytes:
        """As it stands in the index: fields that say nothing are left out, as indexes of earlier versions lack them."""
        said = {name: value for name, value in vars(self).items() if name in _ALWAYS or value != _UNSAID[name]}
        return json.dumps(said, separators=(",", ":")).encode() + b"\n"


_ALWAYS = ("path", "kind", "size", "sha256", "modified")
_UNSAID = {"attributes": None, "names": 1, "same_as": None}


def read_index(lines: BinaryIO) -> Iterator[ArchiveEntry]:
    """Entries of an index. Raises ``ArchiveInvalid``."""
    while line := lines.readline(LINE.size + 1):
        try:
            entry = ArchiveEntry(**read_mapping(line, LINE))
        except (DocumentInvalid, TypeError):
            entry = None
        if entry is None or not _is_sound(entry):
            raise ArchiveInvalid("The archive's index is damaged", remedy=FROM_ANOTHER)
        yield entry


def index_of(archive: str) -> str:
    """The artifact beside an archive that is its index."""
    return f"{archive.removesuffix('.tar')}.files.jsonl"


@contextmanager
def beside_index(
    read: Callable[[str], Iterator[bytes]], archive: str
) -> Iterator[tuple[BinaryIO, Iterator[ArchiveEntry]]]:
    """An archive and its index, side by side. When the block ends well both have been read to their ends, and so been checked.

    ``read`` gives an artifact's plain bytes by its name. Raises what that raises, and ``ArchiveInvalid``.
    """
    with buffered(read(archive)) as stream, buffered(read(index_of(archive))) as lines:
        yield stream, read_index(lines)
        read_out(stream, lines)


def _is_sound(entry: ArchiveEntry) -> bool:
    """Whether each field is what its type says: a dataclass takes anything."""
    return (
        isinstance(entry.path, str)
        and entry.kind in ("file", "folder", "link")
        and isinstance(entry.size, int)
        and entry.size >= 0
        and isinstance(entry.sha256, (str, type(None)))
        and isinstance(entry.modified, (int, float))
        and isinstance(entry.attributes, (str, type(None)))
        and isinstance(entry.names, int)
        and isinstance(entry.same_as, (str, type(None)))
    )
