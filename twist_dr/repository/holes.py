"""Files with holes, in the archive as GNU tar's format 1.0 for pax has them: a map of where data lies, in decimal lines, and the data alone.

https://www.gnu.org/software/tar/manual/html_node/PAX-1.html
"""

from __future__ import annotations

import errno
import os
import tarfile
from typing import IO

from twist_dr.system.sizes import CHUNK

#: Where data begins, and how much of it there is, in bytes.
DataRun = tuple[int, int]

#: A hole must save this many bytes: smaller ones take longer to write down than to read.
_LEAST_HOLE = 64 << 10
#: A map of a megabyte at most, which readers hold in memory; what lies behind the last run is data, holes and all.
_MOST_RUNS = 16_384
#: Of a map, with numbers of 20 digits.
_LARGEST_MAP = 1 << 20
_BLOCK = 512
_ZEROS, _CHUNK_OF_ZEROS = bytes(_LEAST_HOLE), bytes(CHUNK)
_NO_MAP = "a map of holes that is none"


def data_runs(descriptor: int, size: int) -> list[DataRun] | None:
    """Where an open file has data, in order; None when it has no holes worth speaking of, or its file system does not tell."""
    runs: list[DataRun] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
            end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                break
            return None
        if begin >= size:
            break
        if runs and begin - sum(runs[-1]) < _LEAST_HOLE:
            begin = runs.pop()[0]
        if len(runs) == _MOST_RUNS - 1:
            end = size
        runs.append((begin, end - begin))
        at = end
    if size - sum(length for _, length in runs) < _LEAST_HOLE:
        return None
    return runs if _all_zeros(descriptor, runs, size) else None


def _all_zeros(descriptor: int, runs: list[DataRun], size: int) -> bool:
    """Whether what is said to be holes reads so. Releases of OpenZFS reported holes where data had just been written (its issue 15526), and
    reading a hole costs a fraction of hashing it."""
    at = 0
    for begin, length in [*runs, (size, 0)]:
        while at < begin and (piece := os.pread(descriptor, min(CHUNK, begin - at), at)):
            if piece != _CHUNK_OF_ZEROS[: len(piece)]:
                return False
            at += len(piece)
        at = begin + length
    return True


def map_text(runs: list[DataRun], size: int) -> bytes:
    """The map, filled up to whole blocks. An empty run at the end says how long the file is, as GNU tar has it."""
    numbers = [len(runs) + 1, *(number for run in runs for number in run), size, 0]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + bytes(-len(text) % _BLOCK)


def read_map(stream: IO[bytes], stored: int, size: int) -> list[DataRun]:
    """The map at the place where a reader stands, with the reader left behind it. ``stored``: bytes of map and data together.

    Raises ``ValueError`` for one that does not fit these, or the file's ``size``.
    """
    rest, read = b"", 0

    def number() -> int:
        nonlocal rest, read
        while b"\n" not in rest:
            block = stream.read(_BLOCK) if read < min(stored, _LARGEST_MAP) else b""
            if len(block) < _BLOCK:
                raise ValueError(_NO_MAP)
            rest, read = rest + block, read + _BLOCK
        line, _, rest = rest.partition(b"\n")
        if not line.isdigit() or len(line) > 20:
            raise ValueError(_NO_MAP)
        return int(line)

    runs, at, data = [], 0, 0
    for _ in range(number()):
        begin, length = number(), number()
        if begin < at or begin + length > size:
            raise ValueError(_NO_MAP)
        at, data = begin + length, data + length
        if length:
            runs.append((begin, length))
    if read + data != stored:
        raise ValueError(_NO_MAP)
    return runs


def is_sparse(member: tarfile.TarInfo) -> bool:
    """Whether it stands with holes in its archive."""
    return member.sparse is not None


def write_with_holes(descriptor: int, chunk: bytes) -> None:
    """Write a chunk where an open file stands, and skip what is zeros: the caller sets the file's size at the end."""
    view = memoryview(chunk)
    for begin in range(0, len(chunk), _LEAST_HOLE):
        piece = view[begin : begin + _LEAST_HOLE]
        if piece == _ZEROS[: len(piece)]:
            os.lseek(descriptor, len(piece), os.SEEK_CUR)
            continue
        while piece:
            piece = piece[os.write(descriptor, piece) :]
