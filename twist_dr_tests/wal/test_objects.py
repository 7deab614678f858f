"""What lies on a target opens only in its own place, with a key of the keyring, and is all of what was stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.errors import ArtifactInvalid, AuthenticationFailed, ObjectMissing, WalInvalid
from twist_dr.repository.keys import Keyring, new_key
from twist_dr.repository.streams import Form
from twist_dr.storage.base import StoredObject
from twist_dr.storage.local import LocalTarget
from twist_dr.storage.patience import patient
from twist_dr.wal.bundles import bundle_name
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import HISTORY_FORM, WalArchive, associated_data
from twist_dr.wal.own_wal import OwnWal, OwnWalCopy
from twist_dr.wal.packing import file_chunks, pack, plain_object
from twist_dr.wal.pages import PageCheck
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.wal.wal_files import MB, NOON, ZSTD, Wal


@pytest.fixture
def archive(tmp_path: Path) -> WalArchive:
    target = LocalTarget("office", tmp_path / "office")
    target.prepare()
    return WalArchive(patient(target, 20), "erp")


def store(
    archive: WalArchive,
    wal: Wal,
    place: int = 0,
    *,
    keyring: Keyring = KEYRING,
    name: str = "",
    size: int | None = None,
) -> str:
    """Store a segment, or its first bytes under another name; gives its key."""
    path, segment = wal.paths[place], wal.segment(place)
    name = name or segment.name
    packed = path.with_suffix(".packed")
    data = associated_data(archive.application, wal.identifier, name)
    digest = pack(file_chunks(path, size), packed, ZSTD, keyring.primary, data)
    key = archive.key(wal.identifier, segment.timeline, name, ZSTD)
    archive.put(packed, key, digest)
    packed.unlink(missing_ok=True)
    return key


def test_a_stored_segment_is_listed_and_read_back(archive: WalArchive, any_wal: Wal) -> None:
    key = store(archive, any_wal)
    segment = any_wal.segment(0)
    assert key == f"erp/wal/{any_wal.identifier}/00000001/{segment.name}.zst.enc"
    assert list(archive.holdings(any_wal.identifier, MB).segments) == [segment]
    assert archive.clusters() == [any_wal.identifier]
    assert archive.segment_size(any_wal.identifier, KEYRING) == MB
    plain = any_wal.paths[0].read_bytes()
    assert b"".join(archive.read(any_wal.identifier, key, KEYRING)) == plain

    def holds(place: int, size: int | None = None) -> bool:
        plain = {segment.name: file_chunks(any_wal.paths[place], size)}
        return archive.holds(any_wal.identifier, key, KEYRING, plain)

    assert holds(0) and not holds(1) and not holds(0, MB - 1)


def test_no_object_opens_under_another_name_application_or_cluster(archive: WalArchive, wal: Wal) -> None:
    key = store(archive, wal)
    for other in (
        key.replace(wal.segment(0).name, wal.segment(1).name),
        key.replace("erp/", "shop/"),
        key.replace(wal.identifier, "7000000000000000001"),
    ):
        place = Path(archive.target.location) / other
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(archive.target.location) / key, place)
        application, _, identifier, *_ = other.split("/")
        with pytest.raises(AuthenticationFailed, match=r"altered or moved.*add that key"):
            list(WalArchive(archive.target, application).read(identifier, other, KEYRING))


def test_altered_and_truncated_objects_are_refused(archive: WalArchive, wal: Wal) -> None:
    key = store(archive, wal)
    path = Path(archive.target.location) / key
    stored = path.read_bytes()
    for bad in (stored[:-1], stored[: len(stored) // 2], b"", stored[:-20] + b"\0" + stored[-19:], stored + b"\0"):
        path.write_bytes(bad)
        with pytest.raises((AuthenticationFailed, ArtifactInvalid)):
            list(archive.read(wal.identifier, key, KEYRING))
    path.unlink()
    with pytest.raises(ObjectMissing):
        list(archive.read(wal.identifier, key, KEYRING))


def test_old_keys_still_read_and_a_lost_key_is_said(archive: WalArchive, wal: Wal) -> None:
    first, second, third = new_key("first"), new_key("second"), new_key("third")
    before = Keyring("first", {"first": first}, "keyring.yaml")
    after = Keyring("third", {"first": first, "second": second, "third": third}, "keyring.yaml")
    key = store(archive, wal, keyring=before)
    assert b"".join(archive.read(wal.identifier, key, after)) == wal.paths[0].read_bytes()
    lost = Keyring("third", {"second": second, "third": third}, "keyring.yaml")
    with pytest.raises(AuthenticationFailed, match=r"no key of keyring\.yaml \(second, third\) opens it") as caught:
        list(archive.read(wal.identifier, key, lost))
    assert key in str(caught.value)


def test_a_partial_says_in_its_name_what_it_holds(archive: WalArchive, wal: Wal) -> None:
    segment = wal.segment(0)
    partial = PartialSegment(segment, 0x1234, NOON.replace(microsecond=123456))
    assert partial.name == f"{segment.name}.00001234.20261121T120000123456Z.partial"
    assert PartialSegment.named(partial.name, MB) == partial and partial.end == segment.start + 0x1234
    assert PartialSegment.named(PartialSegment(segment, 8, None).name, MB) == PartialSegment(segment, 8, None)
    assert PartialSegment.named(segment.name, MB) is None
    assert PartialSegment.named(f"{segment.name}.00001234.20269921T120000123456Z.partial", MB) is None
    assert PartialSegment.named(f"{segment.name}.00200000.none.partial", MB) is None
    key = store(archive, wal, name=partial.name, size=partial.size)
    assert PartialSegment.claim_of(key) == partial.claim
    assert list(archive.holdings(wal.identifier, MB).partials) == [partial]
    assert b"".join(archive.read(wal.identifier, key, KEYRING)) == wal.paths[0].read_bytes()[:0x1234]


def test_strangers_files_beside_archived_wal_harm_nothing(archive: WalArchive, wal: Wal) -> None:
    store(archive, wal)
    folder = Path(archive.target.location) / f"erp/wal/{wal.identifier}"
    for name in (
        "readme",
        "notes.history.enc",
        "x.zst.enc",
        "0000.partial.zst.enc",
        "00000001/000000010000000000FFFFFF.zst.enc",
    ):
        (folder / name).write_bytes(b"?")
    (folder.parent / "lost+found").mkdir()
    assert list(archive.holdings(wal.identifier, MB).segments) == [wal.segment(0)]
    assert archive.clusters() == [wal.identifier]
    assert archive.segment_size(wal.identifier, KEYRING) == MB


def test_what_is_not_the_segment_leaves_nothing_packed(wal: Wal, tmp_path: Path) -> None:
    check = PageCheck(Segment.named(wal.paths[1].name, MB), wal.identifier, "it")
    with pytest.raises(WalInvalid):
        pack(check.looked_at(file_chunks(wal.paths[0])), tmp_path / "packed", ZSTD, KEYRING.primary, b"")
    assert not list(tmp_path.iterdir())


def test_a_target_without_wal_is_given_the_history_that_leads_to_its_base_backup(
    archive: WalArchive, wal: Wal, tmp_path: Path
) -> None:
    first, history = Segment(2, wal.segment(0).number, MB), b"1\t0/5000000\tno recovery target specified\n"
    contents = {first.name: wal.paths[0].read_bytes(), "00000002.history": history}
    for name, content in contents.items():
        form = ZSTD if name == first.name else HISTORY_FORM
        key = archive.key(wal.identifier, 2, name, form) if form == ZSTD else archive.history_key(wal.identifier, 2)
        data = associated_data("erp", wal.identifier, name)
        archive.put(tmp_path / name, key, pack([content], tmp_path / name, form, KEYRING.primary, data))
    bare = WalArchive(LocalTarget("bare", tmp_path / "bare"), "erp")
    bare.prepare()
    folder = tmp_path / "packed"
    folder.mkdir()
    needed = OwnWal(wal.identifier, first, first.start + 100)
    OwnWalCopy(needed, [archive], bare, Form("gzip", True), KEYRING, folder).all()
    assert bare.history_bytes(wal.identifier, 2, KEYRING) == history
    assert list(bare.holdings(wal.identifier, MB).segments) == [first]
    assert bare.lacks(wal.identifier, first, needed.until, Form("gzip", True)) is None


class _Listed(LocalTarget):
    """Counts how often it is listed."""

    times = 0

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self.times += 1
        return super().list(prefix)


def test_a_target_without_wal_is_listed_once_for_all_that_a_base_backup_needs(
    archive: WalArchive, wal: Wal, tmp_path: Path
) -> None:
    files = {path.name: path for path in wal.paths[:2]}
    name, packed = bundle_name(min(files), max(files)), tmp_path / "packed"
    data = associated_data("erp", wal.identifier, name)
    digest = pack(plain_object(files), packed, ZSTD, KEYRING.primary, data)
    archive.put(packed, archive.key(wal.identifier, 1, name, ZSTD), digest)
    packed.unlink()
    store(archive, wal, 2)
    target = _Listed("bare", tmp_path / "bare")
    bare = WalArchive(target, "erp")
    bare.prepare()
    folder = tmp_path / "own"
    folder.mkdir()
    needed = OwnWal(wal.identifier, wal.segment(0), wal.segment(2).end)
    OwnWalCopy(needed, [archive], bare, ZSTD, KEYRING, folder).all()
    assert target.times == 1
    assert len(list(bare.objects())) == 2
    assert bare.lacks(wal.identifier, wal.segment(0), needed.until, ZSTD) is None
