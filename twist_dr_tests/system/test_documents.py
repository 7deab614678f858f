"""What comes from outside is bounded before it is parsed: in size, in depth, in how much it becomes."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from twist_dr.backup.base.tar_tap import TarTap
from twist_dr.errors import (
    ArchiveInvalid,
    ArtifactInvalid,
    BackupError,
    KeyringInvalid,
    ManifestInvalid,
    SettingsError,
    WalInvalid,
)
from twist_dr.recovery.untar import Owner, untar
from twist_dr.repository.archive_index import read_index
from twist_dr.repository.archive_reading import read_archive
from twist_dr.repository.compression import compressor, decompress
from twist_dr.repository.keys import load_keyring, parse_keyring
from twist_dr.repository.manifest import LIMITS, open_manifest
from twist_dr.settings import load_settings
from twist_dr.storage.base import Digest
from twist_dr.storage.chunks import hashed
from twist_dr.system.documents import (
    NOTE,
    DocumentInvalid,
    Limits,
    YamlInvalid,
    read_file,
    read_json,
    read_yaml,
    refuse_beyond,
)
from twist_dr.wal.history import joined_history, parse_history
from twist_dr_tests.helpers import KEYRING

#: More than any reader may take beside what it was given, bytes.
MOST = 160 << 20


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def manifest(data: bytes) -> object:
    return open_manifest(data, KEYRING, application="erp", backup_id="20260101T020000Z-full-0000", what="nas: it")


WIDE = "\N{GRINNING FACE}".encode()
LARGE = {
    "empty objects": lambda size: b'{"a":[' + b"{}," * (size // 3) + b"{}]}",
    "lists": lambda size: b'{"a":[' + b"[]," * (size // 3) + b"[]]}",
    "depth": lambda size: b'{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}",
    "keys": lambda size: b"{" + b",".join(b'"%d":0' % number for number in range(size // 10)) + b"}",
    "one wide character": lambda size: b'{"a":"' + WIDE + b"a" * (size - 20) + b'"}',
    "one wide character, escaped": lambda size: b'{"a":"\\uD83D\\uDE00' + b"a" * (size - 20) + b'"}',
    "escaped quotes": lambda size: b'{"a":"' + b'\\"' * (size // 2 - 10) + b'"}',
    "quotes": lambda size: b'{"a":' + b'""' * (size // 2),
    "a number": lambda size: b'{"a":' + b"1" * (size - 10) + b"}",
}


@pytest.mark.parametrize("kind", sorted(LARGE))
def test_a_manifest_that_a_targets_writer_made_huge_is_refused_and_costs_little(kind: str) -> None:
    for size in (64 << 20, LIMITS.size - 100) if kind in ("empty objects", "depth") else (LIMITS.size - 100,):
        data = LARGE[kind](size)

        def read(data: bytes = data) -> None:
            with pytest.raises(ManifestInvalid):
                manifest(data)

        assert peak_of(read) < MOST


def test_limits_count_what_is_structure_and_not_what_is_text() -> None:
    limits = Limits(size=10_000, values=4, depth=2)
    assert read_json(rb'{"a\\":["b,[[[{{{\"",1]}', limits) == {"a\\": ['b,[[[{{{"', 1]}
    for bad in (b"[1,2,3,4,5]", b"[[[]]]", b'{"a":[{}]}', b'["' + b"a" * 10_000 + b'"]'):
        with pytest.raises(DocumentInvalid):
            read_json(bad, limits)
    for bad in (b"", b"[", b'"', b"NaN", b"[Infinity]", b"1" * 50, b'{"a":1', b"\xff", b'["\\"]'):
        with pytest.raises(DocumentInvalid, match="not JSON"):
            read_json(bad, limits)
    # A string that is cut by the pieces in which a text is looked at.
    for shift in range(3):
        text = json.dumps({"a": "x" * ((1 << 16) - 8 + shift) + '"[[[[,,,,', "b": [1]}).encode()
        refuse_beyond(text, Limits(size=1 << 20, values=5, depth=2))


def test_a_file_that_is_too_large_or_would_hang_is_refused(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x" * 100)
    assert read_file(small, 100) == b"x" * 100
    os.mkfifo(tmp_path / "fifo")
    for path in (small, tmp_path / "fifo", Path("/dev/zero"), Path("/proc/kmsg"), tmp_path):
        with pytest.raises((DocumentInvalid, IsADirectoryError)):
            read_file(path, 99)
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    with pytest.raises(KeyringInvalid, match="no regular file"):
        load_keyring(str(tmp_path / "link"))
    with pytest.raises(SettingsError, match="no regular file"):
        load_settings(tmp_path / "link")
    small.write_bytes(b"#" * (1 << 20))
    with pytest.raises(KeyringInvalid, match="more than"):
        load_keyring(str(small))
    with pytest.raises(SettingsError, match="more than"):
        load_settings(small)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 10)}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))


@pytest.mark.parametrize("text", [LAUGHS, MERGED, CHAIN, "a: &a [*a]", "[" * 90 + "]" * 90, "x" * (1 << 20)])
def test_yaml_that_is_a_thousand_times_what_it_seems_is_refused(text: str) -> None:
    def read() -> None:
        with pytest.raises(YamlInvalid):
            read_yaml(text)

    assert peak_of(read) < MOST


@pytest.mark.parametrize("text", [LAUGHS, MERGED])
def test_a_keyring_and_settings_that_are_a_thousand_times_what_they_seem_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(KeyringInvalid):
        parse_keyring(text, "it")
    (tmp_path / "twist-dr.yaml").write_text(text)
    with pytest.raises(SettingsError):
        load_settings(tmp_path / "twist-dr.yaml")


def test_yaml_that_people_write_is_read_aliases_too() -> None:
    text = "base: &base {a: 1, b: [x, 2026-01-01]}\nother:\n  <<: *base\n  c: *base\n"
    read = read_yaml(text)
    assert read["other"] == {**read["base"], "c": read["base"]}
    assert read_yaml("") is None
    for bad in ("!!int ''", "!!bool x", "!!timestamp x", "[1:1" + ":1" * 400 + ".0]", "!!float ''", "0b", "!!set [a]"):
        with pytest.raises(YamlInvalid):
            read_yaml(bad if bad != "0b" else "!!int 0b")


def test_a_line_of_an_index_without_an_end_is_not_read_to_its_end() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            self.given += len(buffer)
            assert self.given < 64 << 20
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    with pytest.raises(ArchiveInvalid, match="index is damaged"):
        list(read_index(io.BufferedReader(Endless())))


@pytest.mark.parametrize(
    "line",
    ['{"path":1}', '{"path":1,"kind":"file","size":1,"sha256":null,"modified":1}', "[]", "null",
     '{"path":"a","kind":"device","size":1,"sha256":null,"modified":1}',
     '{"path":"a","kind":"file","size":-1,"sha256":null,"modified":1}',
     '{"path":"a","kind":"file","size":"1","sha256":null,"modified":1}',
     '{"path":"a","kind":"file","size":1,"sha256":[],"modified":NaN}'],
)  # fmt: skip
def test_a_line_of_an_index_with_fields_of_other_kinds_is_refused(line: str) -> None:
    with pytest.raises(ArchiveInvalid):
        list(read_index(io.BytesIO(line.encode())))


# -- archives ----------------------------------------------------------------------------------------------------------


def header(kind: bytes, size: int, name: str = "x") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


class Zeros(io.RawIOBase):
    """A header, and then as many zeros as anybody asks for."""

    def __init__(self, begin: bytes) -> None:
        self._begin = begin
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        begin, self._begin = self._begin[: len(buffer)], self._begin[len(buffer) :]
        buffer[:] = begin + bytes(len(buffer) - len(begin))
        self.given += len(buffer)
        assert self.given < 1 << 30, "it was read on and on"
        return len(buffer)


def pax(**records: str) -> bytes:
    return tarfile.TarInfo._create_pax_generic_header(records, tarfile.XHDTYPE, "utf-8")  # type: ignore[attr-defined, no-any-return]


HEADERS = {
    "pax header of 8 GB": header(tarfile.XHDTYPE, 8 << 30),
    "long name of 8 GB": header(tarfile.GNUTYPE_LONGNAME, 8 << 30),
    "long link of 8 GB": header(tarfile.GNUTYPE_LONGLINK, 8 << 30),
    "global header": header(tarfile.XGLTYPE, 512),
    "sparse": header(tarfile.GNUTYPE_SPARSE, 512),
    "pax sparse 0.1": pax(**{"GNU.sparse.map": ",".join(["1"] * 9999), "GNU.sparse.size": "1"}) + header(b"0", 0),
    "pax sparse 1.0": pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + header(b"0", 512) + b"9" * 512,
    "negative size": header(b"0", -512),
    "names of names": (header(tarfile.GNUTYPE_LONGNAME, 2) + b"a\0" + bytes(510)) * 5000,
    "time that is none": pax(mtime="nan") + header(b"0", 0),
}


@pytest.mark.parametrize("kind", sorted(HEADERS))
def test_an_archives_header_that_ours_never_have_is_refused_before_it_is_read(kind: str) -> None:
    stream = Zeros(HEADERS[kind])

    def read() -> None:
        with pytest.raises(ArchiveInvalid):
            for member, _ in read_archive(stream, "media.tar"):  # type: ignore[arg-type]
                assert member.mtime == member.mtime
                raise ArchiveInvalid("a file of no bytes is none of these") if kind == "never" else AssertionError(kind)

    assert peak_of(read) < MOST


def test_a_base_backups_archive_of_a_negative_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveInvalid, match="not a tar archive"):
        untar(iter([header(b"0", -512) + bytes(1024)]), tmp_path, Owner(), "base.tar")
    tap = TarTap({}, "the stream")
    block = bytearray(header(b"0", 0))
    block[124:136] = b"zz\0\0\0\0\0\0\0\0\0\0"
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    with pytest.raises(BackupError, match="member of no size"):
        tap.feed(bytes(block))


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_bomb_is_unfolded_no_further_than_the_recorded_size(compression: str) -> None:
    packer = compressor(compression, 3, 1)  # type: ignore[arg-type]
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    given = 0

    def read() -> None:
        nonlocal given
        with pytest.raises(ArtifactInvalid, match="more than the recorded"):
            for chunk in hashed(decompress(iter([bomb]), compression, "it"), Digest(1000, "0" * 64), "it"):  # type: ignore[arg-type]
                given += len(chunk)

    assert peak_of(read) < 16 << 20 and given <= 1000


def test_a_history_without_an_end_is_not_read_to_its_end() -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"#" * (1 << 16)
        raise AssertionError("it was read on and on")

    with pytest.raises(WalInvalid, match="larger than any"):
        joined_history(endless(), "nas: 00000002.history")
    for line in (b"1" * 5000 + b"\t0/1\n", b"-1\t0/1\n", b"\xd9\xa1\t0/1\n"):
        with pytest.raises(WalInvalid):
            parse_history(line, 2, "it")
    with pytest.raises(WalInvalid) as refused:
        parse_history(b"".join(b"%d\t0/1\n" % number for number in range(50_000)), 2, "it")
    assert len(str(refused.value)) < 1000


def test_a_note_of_a_dead_process_may_be_anything(tmp_path: Path) -> None:
    from twist_dr.errors import RestoreInterrupted
    from twist_dr.restore.journal import FileJournals

    journals = FileJournals(tmp_path)
    for content in (b"", b"[]", b"{}", b"\xff", LARGE["empty objects"](NOTE.size - 50), b"x" * (2 << 20)):
        (tmp_path / "20260101T020000Z-restore-0000.json").write_bytes(content)
        with pytest.raises(RestoreInterrupted):
            journals.all()
