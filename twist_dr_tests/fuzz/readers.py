"""The readers, each with good examples of what it reads."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from twist_dr.backup.base.backup_label import ManifestTail, read_label
from twist_dr.backup.base.tar_tap import TarTap
from twist_dr.cli.init import _settings_text
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.dump_list import definitions_of, parse_list
from twist_dr.postgres.dump_offsets import fill_in_offsets
from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.statements import statements
from twist_dr.recovery.untar import Owner, untar
from twist_dr.repository.archive import archive_media
from twist_dr.repository.archive_index import read_index
from twist_dr.repository.archive_reading import compare_archive, read_archive
from twist_dr.repository.compression import compressor, decompress
from twist_dr.repository.encryption import Encryptor, decrypt
from twist_dr.repository.keys import Keyring, parse_keyring
from twist_dr.repository.manifest import Manifest, open_manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sealing import mac_of
from twist_dr.repository.secrets_file import SecretsFile
from twist_dr.repository.unpack import unpack
from twist_dr.restore.journal import FileJournals, Journal
from twist_dr.retention.holds import HoldNote, HoldNotes
from twist_dr.retention.model import Hold
from twist_dr.retention.tombstones import Tombstone, has_genuine_tombstone
from twist_dr.settings.reading import parse_settings
from twist_dr.storage.base import Digest
from twist_dr.storage.chunks import hashed
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.machine import Grant
from twist_dr.storage.oauth import GOOGLE, OAuthClient, granted_by
from twist_dr.storage.oauth_http import OAuthAnswer
from twist_dr.system.documents import NOTE, DocumentInvalid, read_json, read_yaml
from twist_dr.system.lock import FileLocks
from twist_dr.wal.bundles import PackedSegment, bundled, segments_of, unbundled
from twist_dr.wal.history import parse_history
from twist_dr.wal.names import Segment
from twist_dr.wal.pages import PageCheck, pages_written
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.spool import Spool
from twist_dr.wal.state import ShippingState
from twist_dr_tests.fuzz.inputs import changed, documents
from twist_dr_tests.helpers import KEY, KEYRING, chunked
from twist_dr_tests.repository.test_manifest import BACKUP, document

#: Beside our own errors, what a reader says that is asked inside another one only.
Refused = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Reader:
    """``read`` must come to an end, and raise nothing but ``TwistDRError`` and ``refuses``; ``inputs`` are tried. It takes each of ``good``."""

    read: Callable[[bytes], object]
    good: list[bytes]
    refuses: Refused = ()
    inputs: list[st.SearchStrategy[bytes]] = field(default_factory=list)

    @property
    def strategy(self) -> st.SearchStrategy[bytes]:
        return st.one_of(*self.inputs, changed(self.good), changed(self.good), st.binary(max_size=2000))


def in_folder(read: Callable[[Path, bytes], object]) -> Callable[[bytes], object]:
    """A reader that needs a folder to itself."""

    def with_folder(data: bytes) -> object:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            return read(folder, data)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return with_folder


# -- documents --------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
MANIFEST = Manifest.model_validate(document()).seal(KEY)


def read_manifest(data: bytes) -> object:
    return open_manifest(data, KEYRING, application="erp", backup_id=BACKUP, what="nas: it")


def sealed_anew(changed: Any) -> bytes:
    """As whoever has the key would write it: what lies behind the MAC is read too."""
    return sealed_as("manifest", changed)


def sealed_as(kind: str, changed: Any) -> bytes:
    with suppress(ValueError, TypeError, AttributeError):
        changed.pop("mac", None)
        return json.dumps({**changed, "mac": mac_of(changed, KEY, kind)}).encode()
    return json.dumps(changed).encode()


HOLD = HoldNote(Hold(BACKUP, "a@b", "audit", NOON), NOON).document("erp", KEY)


def read_hold(folder: Path, data: bytes) -> object:
    place = folder / "erp" / "holds" / BACKUP
    place.mkdir(parents=True)
    (place / "20261121T100000Z-00000000.json").write_bytes(data)
    notes = HoldNotes(Repository(LocalTarget("nas", folder), "erp"), KEYRING)
    assert len(notes.all()) == 1, "a hold that cannot be read still holds"
    return notes


TOMBSTONE = Tombstone(BACKUP, "a@b", "older than 7 days", NOON).document("erp", KEY)


def read_tombstone(folder: Path, data: bytes) -> object:
    (folder / "erp" / "tombstones").mkdir(parents=True)
    (folder / "erp" / "tombstones" / f"{BACKUP}.json").write_bytes(data)
    return has_genuine_tombstone(Repository(LocalTarget("nas", folder), "erp"), BACKUP, KEYRING)


JOURNAL = Journal.model_validate(
    {
        "restore_id": "20261121T140000Z-restore-3f9a", "kind": "restore", "application": "erp", "began_at": "2026-11-21T14:00:00Z",
        "database": {"live": "erp", "live_oid": 5, "incoming": "erp_restore", "kept": "erp_replaced", "migrations": {"a": ["0001"]}},
        "folders": [{"name": "m", "live": "/m", "live_identity": [1, 2], "incoming": "/.m", "kept": "/.k", "aside": "/.a"}],
    }
).model_dump_json().encode()  # fmt: skip


def read_journal(folder: Path, data: bytes) -> object:
    (folder / "20261121T140000Z-restore-3f9a.json").write_bytes(data)
    return FileJournals(folder).all()


STATE = json.dumps(
    vars(ShippingState(["7"], 1 << 20, 1, [("2026-11-21T14:00:00+00:00", 5)], {"nas": {"timeline": 1}}, {"nas": ["a"]}))
).encode()


def read_state(folder: Path, data: bytes) -> object:
    spool = Spool(folder)
    spool.state_path.write_bytes(data)
    return spool.load_state()


def read_use(folder: Path, data: bytes) -> object:
    """A file in use by nobody is removed; so it is locked by another descriptor, as its holder would."""
    import fcntl

    (folder / "erp.uses").mkdir()
    with open(folder / "erp.uses" / "it.json", "wb+") as file:
        file.write(data)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        return FileLocks(folder, "erp").used_now()


def _secrets(folder: Path) -> SecretsFile:
    (folder / "keyring.yaml").write_bytes(KEYRING_TEXT)
    return SecretsFile(folder / "secrets.yaml", "erp", str(folder / "keyring.yaml"))


def _secrets_text() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = _secrets(Path(folder))
        file.set("A", "the value of it")
        with file.held("drive") as held:
            held.commit(Grant("refresh", NOON, ("files",), "ada@example.org"))
        return file.path.read_bytes()


def read_secrets(folder: Path, data: bytes) -> object:
    """What is read is written again, too."""
    file = _secrets(folder)
    file.path.touch(0o600)
    file.path.write_bytes(data)
    file.check()
    file.set("B", "another")
    return file.check()


def read_token(data: bytes) -> object:
    """What a provider answers to who asks for a token."""
    document = json.loads(data)
    answer = OAuthAnswer(200, document if isinstance(document, dict) else {})
    return granted_by(answer, OAuthClient(GOOGLE, "client", None, ("files",)), "drive", NOON)


def read_settings(data: bytes) -> object:
    return parse_settings(
        data.decode(errors="replace"), Path("/etc/twist-dr.yaml"), {"DATABASE_URL": "postgresql://a@b/c"}
    )


# -- archives ---------------------------------------------------------------------------------------------------------


def _media() -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a" / ("n" * 200)).mkdir(parents=True)
        (folder / "a" / ("n" * 200) / "größe.txt").write_bytes(b"x" * 1500)
        (folder / "empty").touch()
        (folder / "link").symlink_to("a")
        os.link(folder / "empty", folder / "further name")
        with suppress(OSError):  # a file system without
            os.setxattr(folder / "a", "user.kind", b"\xff=1\n")
            access = struct.pack("<IHHIHHIHHI", 2, 1, 7, 0xFFFFFFFF, 4, 5, 0xFFFFFFFF, 0x20, 0, 0xFFFFFFFF)
            os.setxattr(folder / "a", "system.posix_acl_default", access)
        with open(folder / "holes", "wb") as file:
            file.truncate((1 << 20) + 4097)
            os.pwrite(file.fileno(), b"data", 300_000)
        parts: list[bytes] = []
        lines: list[bytes] = []
        archive_media({"m": folder}, parts.append, lines.append)
        return b"".join(parts), b"".join(lines)


MEDIA, INDEX = _media()


def with_checksums(data: bytes) -> bytes:
    """Headers whose checksum fits, so that what they say is looked at."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if bytes(out[at + 257 : at + 262]) == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


#: A few bytes may say that a file has holes without end; whoever reads knows from the index how much to read.
_MOST_READ = 4 << 20


def read_media(data: bytes) -> object:
    for _, content in read_archive(io.BytesIO(data), "media.tar"):
        with suppress(tarfile.TarError):  # of one file's bytes; its readers name it
            while content is not None and content.tell() < _MOST_READ and content.read(1 << 16):
                pass
    return compare_archive(io.BytesIO(data), read_index(io.BytesIO(INDEX)), "media.tar")


def read_unpacked(folder: Path, data: bytes) -> object:
    return unpack(io.BytesIO(data), read_index(io.BytesIO(INDEX)), {"m": folder / "m"}, "media.tar")


def _base() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("backup_label", LABEL), ("base/1/PG_VERSION", b"18\n"), ("backup_manifest", TAIL)):
            if "/" in name:
                for above in ("base", "base/1"):
                    folder = tarfile.TarInfo(above)
                    folder.type = tarfile.DIRTYPE
                    archive.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


LABEL = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\nBACKUP FROM: primary\n"
TAIL = b'{"Files":[{"Path":"a"}],"WAL-Ranges":[{"Timeline":1,"Start-LSN":"0/2000028","End-LSN":"0/2000100"}],"Manifest-Checksum":"0"}\n'
BASE = _base()


def read_base(folder: Path, data: bytes) -> object:
    return untar(chunked(data), folder, Owner(), "base.tar", {1: folder / "elsewhere"})


def read_tap(data: bytes) -> object:
    tap = TarTap({"backup_label": lambda piece: None}, "the stream")
    for chunk in chunked(data, (1, 511, 700)):
        tap.feed(chunk)
    return tap.finish()


def read_tail(data: bytes) -> object:
    tail = ManifestTail()
    tail.feed(data)
    return tail.wal_range()


# -- streams, WAL, dumps -----------------------------------------------------------------------------------------------


def _encrypted() -> bytes:
    encryptor = Encryptor(KEY, b"data")
    return b"".join([*encryptor.update(b"x" * 3000), *encryptor.finish()])


def read_encrypted(data: bytes) -> object:
    return b"".join(decrypt(chunked(data), KEY, b"data", "it"))


PLAIN = b"some text, some text " * 500
PLAIN_DIGEST = Digest(len(PLAIN), hashlib.sha256(PLAIN).hexdigest())


def packed(compression: Any) -> bytes:
    unit = compressor(compression, 3, 1)
    return bytes(unit.compress(PLAIN) + unit.flush())


def read_packed(compression: Any) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        return sum(map(len, hashed(decompress(chunked(data), compression, "it"), PLAIN_DIGEST, "it")))

    return read


SEGMENT = Segment(1, 3, 1 << 20)


def _segment() -> bytes:
    first = struct.pack("<HHIQI4xQII", 0xD118, 2, 1, SEGMENT.start, 0, 7, 1 << 20, 8192).ljust(8192, b"r")
    return first + struct.pack("<HHIQI", 0xD118, 0, 1, SEGMENT.start + 8192, 0).ljust(8192, b"r") + bytes(8192)


def read_segment(data: bytes) -> object:
    pages_written(data, SEGMENT)
    check = PageCheck(SEGMENT, "7", "it", whole=False)
    for chunk in chunked(data):
        check.update(chunk)
    return check.finish()


def _bundle() -> bytes:
    return b"".join(bundled(PackedSegment(each.name, 4096, [b"x" * 4096]) for each in (SEGMENT, SEGMENT.next)))


def read_bundle(data: bytes) -> object:
    return sum(len(chunk) for _, chunk in unbundled(chunked(data), "it"))


def read_names(data: bytes) -> object:
    for line in data.decode(errors="surrogateescape").split("\n"):
        PartialSegment.named(line, 1 << 20)
        PartialSegment.claim_of(line)
        segments_of(line, 1 << 20)
        for parse in (lambda text: Segment.named(text, 1 << 20), parse_lsn):
            with suppress(ValueError):
                parse(line)
    return None


def _integer(value: int) -> bytes:
    return bytes([value < 0]) + abs(value).to_bytes(4, "little")


def _text(value: bytes) -> bytes:
    return _integer(len(value)) + value


def _dump() -> bytes:
    head = b"PGDMP" + bytes([1, 16, 0, 4, 8, 1, 0]) + _integer(1) * 7 + _text(b"erp") * 3
    entry = (
        _integer(7) + _integer(1) + _text(b"0") * 3 + _text(b"TABLE DATA") + _integer(3) + _text(b"") * 6 + _integer(1)
    )
    entry += _text(b"erp") + _text(b"false") + _text(b"5") + _integer(-1) + b"\1" + bytes(8)
    options = b"CREATE TABLE t (a text);\nALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=7, n_distinct=5);\n"
    table = (
        _integer(3) + _integer(0) + _text(b"0") * 3 + _text(b"TABLE") + _integer(2) + _text(options) + _text(b"") * 5
    )
    table += _integer(0) + _text(b"erp") + _text(b"false") + _integer(-1) + b"\3" + bytes(8)
    return head + _integer(2) + table + entry + bytes([1, 0]) + _integer(7)[1:] + _integer(4) + b"row\n" + _integer(0)


def read_dump(folder: Path, data: bytes) -> object:
    (folder / "dump").write_bytes(data)
    return fill_in_offsets(folder / "dump", 0), leave_out_internals(folder / "dump")


LISTING = b"; Archive\n7; 1259 16384 TABLE public a erp\n;\tdepends on: 3 4\n8; 0 16384 TABLE DATA public a erp\n;\tdepends on: 7\n"


def read_listing(data: bytes) -> object:
    entries = parse_list(data)
    return definitions_of(entries, {entry.number for entry in entries[:1]})


KEYRING_TEXT = Keyring(KEY.id, {KEY.id: KEY}, "it").to_yaml().encode()
HISTORY = b"# a comment\n1\t0/A000198\tno recovery target specified\n2\t0/B000198\tno recovery target specified\n"
LINES = "\n".join(
    [SEGMENT.name, "00000002.history", f"{SEGMENT.name}.00002000.20261121T153329123456Z.partial", "0/3000000"]
).encode()
ROLES = b"CREATE ROLE a;\nALTER ROLE a WITH LOGIN;\nCOMMENT ON ROLE a IS 'x\ny';\nDO $a$ BEGIN; END $a$;\n/* c /* d */ */ SELECT 1;"

SECRETS = _secrets_text()
TOKEN = b'{"access_token": "a", "expires_in": 3599, "refresh_token": "r", "scope": "files", "refresh_token_expires_in": "604799"}'

READERS: dict[str, Reader] = {
    "archive index": Reader(lambda data: list(read_index(io.BytesIO(data))), [INDEX], inputs=[documents([INDEX.split(b"\n")[0]])]),
    "backup_label": Reader(read_label, [LABEL]),
    "backup_manifest": Reader(read_tail, [TAIL], inputs=[documents([TAIL])]),
    "base.tar": Reader(in_folder(read_base), [BASE], inputs=[changed([BASE], with_checksums)]),
    "base backup's stream": Reader(read_tap, [BASE], inputs=[changed([BASE, MEDIA], with_checksums)]),
    "dump": Reader(in_folder(read_dump), [_dump()]),
    "dump's list": Reader(read_listing, [LISTING]),
    "encrypted stream": Reader(read_encrypted, [_encrypted()]),
    "gzip": Reader(read_packed("gzip"), [packed("gzip")]),
    "hold": Reader(in_folder(read_hold), [HOLD], inputs=[documents([HOLD]), documents([HOLD], partial(sealed_as, "hold"))]),
    "JSON": Reader(lambda data: read_json(data, NOTE), [HOLD, TAIL], (DocumentInvalid,)),
    "keyring": Reader(lambda data: parse_keyring(data.decode(errors="replace"), "it"), [KEYRING_TEXT]),
    "manifest": Reader(read_manifest, [MANIFEST], inputs=[documents([MANIFEST]), documents([MANIFEST], sealed_anew)]),
    "media.tar": Reader(read_media, [MEDIA], inputs=[changed([MEDIA], with_checksums)]),
    "names of WAL": Reader(read_names, [LINES]),
    "restore journal": Reader(in_folder(read_journal), [JOURNAL], inputs=[documents([JOURNAL])]),
    "roles.sql": Reader(lambda data: list(statements(data)), [ROLES]),
    "secrets file": Reader(in_folder(read_secrets), [SECRETS]),
    "settings": Reader(read_settings, [_settings_text("erp").encode()]),
    "state of the spool": Reader(in_folder(read_state), [STATE], inputs=[documents([STATE])]),
    "timeline history": Reader(lambda data: parse_history(data, 3, "it"), [HISTORY]),
    "token of a provider": Reader(read_token, [TOKEN], (ValueError, RecursionError), inputs=[documents([TOKEN])]),
    "tombstone": Reader(in_folder(read_tombstone), [TOMBSTONE], inputs=[documents([TOMBSTONE]), documents([TOMBSTONE], partial(sealed_as, "tombstone"))]),
    "unpacked media": Reader(in_folder(read_unpacked), [MEDIA], inputs=[changed([MEDIA], with_checksums)]),
    "use of a backup": Reader(in_folder(read_use), [b'{"backups": ["a"], "what": "it is read"}'], inputs=[documents([b'{"backups": ["a"], "what": "b"}'])]),
    "WAL bundle": Reader(read_bundle, [_bundle()], inputs=[changed([_bundle()], with_checksums)]),
    "WAL segment": Reader(read_segment, [_segment()]),
    "YAML": Reader(lambda data: read_yaml(data.decode(errors="replace")), [KEYRING_TEXT, b"a: &a [x]\nb: *a\nc: {<<: {d: 1}}\n"], (DocumentInvalid,)),
    "zstd": Reader(read_packed("zstd"), [packed("zstd")]),
}  # fmt: skip
