"""Where an object costs half a second, segments go as one; whoever reads the archive finds each of them all the same."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard

from twist_dr.errors import ArtifactInvalid, AuthenticationFailed, WalConflict, WalInvalid
from twist_dr.postgres.lsn import Gap
from twist_dr.recovery.status import ArchiveStatus, WalStatus, render_wal_status
from twist_dr.storage.local import LocalTarget
from twist_dr.wal import parcels
from twist_dr.wal.bundles import PackedSegment, bundled, segments_of
from twist_dr.wal.names import Segment, kind_of
from twist_dr.wal.objects import WalArchive, associated_data
from twist_dr.wal.packing import pack
from twist_dr.wal.parcels import parcels as made_parcels
from twist_dr.wal.partial_segment import PartialSegment
from twist_dr.wal.spool import Wanted
from twist_dr_tests.drives.cloud import Cloud
from twist_dr_tests.helpers import KEYRING, python
from twist_dr_tests.repository.test_encryption import tink_primitive
from twist_dr_tests.storage.conftest import google_place, machine_folder
from twist_dr_tests.sweep import instants
from twist_dr_tests.wal.test_shipping import PAGE, names
from twist_dr_tests.wal.wal_files import MB, NOON, ZSTD, Round, Wal, changed, holdings, said

__all__ = ["machine_folder"]

FIVE_MINUTES = timedelta(minutes=5)


@pytest.fixture
def round_(tmp_path: Path) -> Iterator[Round]:
    """An office that gets everything at once, and a drive that gets it every five minutes."""
    made = Round(tmp_path, {name: LocalTarget(name, tmp_path / name) for name in ("office", "drive")})
    made.every = {"drive": FIVE_MINUTES}
    yield made
    made.restart()


def objects(round_: Round, target: str) -> list[str]:
    """Names of the objects with whole segments in one target's archive, without the endings of their form."""
    found = (path.name.removesuffix(".zst.enc") for path in (round_.folder / target / "erp").rglob("*.enc"))
    return sorted(name for name in found if not name.endswith(".partial"))


def begun(round_: Round, wal: Wal) -> None:
    """The first segment is on both targets, at noon."""
    round_.archive(wal.paths[0])
    round_.ship(said(wal.identifier, wal.segment(0).end))
    assert objects(round_, "drive") == names(wal, 0)


def bundle_of(wal: Wal, first: int, last: int) -> str:
    return f"{wal.paths[first].name}-{wal.paths[last].name}.tar"


def same_bytes(round_: Round, wal: Wal, target: str) -> None:
    """Every segment that a target lists is read out of wherever it lies, and is what it was."""
    archive = WalArchive(round_.targets[target], "erp")
    plain = {path.name: path.read_bytes() for path in wal.paths}
    for segment, stored in holdings(round_.targets[target], wal.identifier).whole():
        chunks = archive.segments(wal.identifier, stored.key, KEYRING)
        assert b"".join(chunk for found, chunk in chunks if found == segment) == plain[segment.name]


# -- shipping ------------------------------------------------------------------------------------------------------------


def test_a_drive_gets_one_object_for_all_of_its_time_and_no_other_target_waits(round_: Round, any_wal: Wal) -> None:
    wal = any_wal
    begun(round_, wal)
    for place in (1, 2, 3):
        round_.archive(wal.paths[place], age=1)
        shipped = round_.ship(said(wal.identifier, wal.segment(place).end, minutes=place))
        assert objects(round_, "office") == names(wal, *range(place + 1))
        assert objects(round_, "drive") == names(wal, 0), "it is not its turn"
        assert shipped.targets["office"].position.lsn == wal.segment(place).end  # type: ignore[union-attr]
        assert shipped.targets["drive"].position.lsn == wal.segment(0).end  # type: ignore[union-attr]
    assert round_.spooled() == names(wal, 1, 2, 3), "what the drive lacks stays"
    shipped = round_.ship(said(wal.identifier, wal.segment(3).end, minutes=5))
    assert objects(round_, "drive") == [wal.paths[0].name, bundle_of(wal, 1, 3)]
    assert shipped.targets["drive"].segments == 3 and not shipped.gaps and round_.spooled() == []
    assert shipped.targets["drive"].position == shipped.targets["office"].position
    assert round_.held("drive", wal.identifier) == round_.held("office", wal.identifier) == names(wal, 0, 1, 2, 3)
    same_bytes(round_, wal, "drive")


def test_the_open_segment_goes_to_a_drive_as_seldom(round_: Round, wal: Wal) -> None:
    round_.receive(wal.identifier, wal.paths[0].name, wal.paths[0].read_bytes())
    round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes())
    begin = wal.segment(1).start
    for minutes, size in ((0, PAGE), (1, 2 * PAGE), (4, 3 * PAGE), (5, 4 * PAGE)):
        round_.ship(said(wal.identifier, begin + size, received=begin + size, minutes=minutes))
        ends = [partial.size for partial in holdings(round_.targets["office"], wal.identifier).partials]
        assert ends == [size]
        ends = [partial.size for partial in holdings(round_.targets["drive"], wal.identifier).partials]
        assert ends == [PAGE if minutes < 5 else 4 * PAGE], "what was committed five minutes ago is there"


def test_it_is_a_drives_turn_by_the_age_of_what_waits_when_the_server_does_not_answer(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(wal.paths[1], age=1)
    round_.ship()
    assert objects(round_, "drive") == names(wal, 0)
    round_.archive(wal.paths[2], age=1)
    os.utime(round_.spool.archived / wal.paths[1].name, (time.time() - 301,) * 2)
    round_.ship()
    assert objects(round_, "drive") == [wal.paths[0].name, bundle_of(wal, 1, 2)]


def test_the_end_of_the_log_reaches_a_drive_though_the_server_never_answers_again(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    end = round_.receive(wal.identifier, f"{wal.paths[1].name}.partial", wal.paths[1].read_bytes()[: 3 * PAGE])
    round_.ship()
    assert round_.partials("drive", wal.identifier) != round_.partials("office", wal.identifier)
    os.utime(end, (time.time() - 301,) * 2)
    assert round_.ship().targets["drive"].position == round_.ship().targets["office"].position
    assert round_.partials("drive", wal.identifier) == round_.partials("office", wal.identifier)


def test_a_bundle_that_is_full_goes_at_once_and_none_is_larger(
    round_: Round, wal: Wal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "MOST_BYTES", 2 * MB)
    begun(round_, wal)
    round_.archive(wal.paths[1], age=1)
    round_.ship()
    assert objects(round_, "drive") == names(wal, 0)
    round_.archive(*wal.paths[2:6], age=1)
    round_.ship()
    assert objects(round_, "drive") == [wal.paths[0].name, bundle_of(wal, 1, 2), bundle_of(wal, 3, 4), *names(wal, 5)]


def test_a_base_backup_and_a_person_wait_for_no_bundle(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(*wal.paths[1:3], age=1)
    round_.spool.want(Wanted(wal.identifier, wal.segment(2).end - 8))
    round_.ship(said(wal.identifier, wal.segment(2).end, minutes=1))
    assert objects(round_, "drive") == [wal.paths[0].name, bundle_of(wal, 1, 2)]
    # What was wanted is there: the next one takes its time again, unless a person asks.
    round_.archive(wal.paths[3], age=1)
    round_.ship(said(wal.identifier, wal.segment(3).end, minutes=2))
    assert round_.held("drive", wal.identifier) == names(wal, 0, 1, 2)
    round_.ship(said(wal.identifier, wal.segment(3).end, minutes=2), everything=True)
    assert round_.held("drive", wal.identifier) == names(wal, 0, 1, 2, 3)


def test_a_hole_parts_bundles_and_is_a_gap(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(wal.paths[1], wal.paths[2], wal.paths[4], wal.paths[5])
    shipped = round_.ship(said(wal.identifier, wal.segment(5).end, minutes=6))
    assert objects(round_, "drive") == [wal.paths[0].name, bundle_of(wal, 1, 2), bundle_of(wal, 4, 5)]
    assert shipped.gaps_of("drive") == [Gap(1, wal.segment(3).start, wal.segment(4).start)]


def test_a_file_that_is_no_wal_is_put_aside_and_the_others_go_without_it(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(wal.paths[1], wal.paths[3])
    # Its header is right, and a page within is another segment's.
    bad = changed(wal.paths[2].read_bytes(), lambda copy: copy.__setitem__(slice(PAGE, 2 * PAGE), copy[:PAGE]))
    (round_.folder / "bad").write_bytes(bad)
    round_.archive(round_.folder / "bad", name=wal.paths[2].name)
    shipped = round_.ship(said(wal.identifier, wal.segment(3).end, minutes=6))
    assert len(shipped.refused) == 1 and wal.paths[2].name in shipped.refused[0]
    assert objects(round_, "drive") == names(wal, 0, 1, 3)


def test_what_can_be_lost_is_shown() -> None:
    status = WalStatus(NOON, [ArchiveStatus("office"), ArchiveStatus("drive", bundle_seconds=300)])
    told = render_wal_status(status)
    assert "drive: WAL goes there every 5 min 00 s, in bundles: if it alone is left, so much is lost" in told
    assert "office: WAL" not in told
    assert [each["bundle_seconds"] for each in status.document()["targets"]] == [0, 300]


# -- what is there already ---------------------------------------------------------------------------------------------------


def test_bundled_in_another_way_the_same_bytes_are_recognised_and_others_refused(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(*wal.paths[1:4])
    round_.ship(said(wal.identifier, wal.segment(3).end, minutes=6))
    stored = objects(round_, "drive")
    shutil.rmtree(round_.spool.root)
    round_.restart()
    round_.spool.prepare()
    # Another machine has all of it, and one more.
    round_.archive(*wal.paths[:5])
    shipped = round_.ship(said(wal.identifier, wal.segment(4).end, minutes=7))
    assert not shipped.errors and not shipped.gaps and round_.spooled() == []
    assert objects(round_, "drive") == [*stored, wal.paths[4].name], "one by itself is no bundle"
    # A server that wrote another fifth segment of the same timeline: nothing of its is taken, and nothing lost.
    shutil.rmtree(round_.spool.root)
    round_.restart()
    round_.spool.prepare()
    other = wal.paths[2].read_bytes()
    assert other.count(b"filler") == 1
    (round_.folder / "other").write_bytes(other.replace(b"filler", b"FILLER"))
    round_.archive(round_.folder / "other", name=wal.paths[2].name)
    shipped = round_.ship(said(wal.identifier, wal.segment(2).end, minutes=8))
    assert isinstance(shipped.errors["drive"], WalConflict) and isinstance(shipped.errors["office"], WalConflict)
    assert bundle_of(wal, 1, 3) in str(shipped.errors["drive"])
    assert round_.spooled() == names(wal, 2) and objects(round_, "drive") == [*stored, wal.paths[4].name]
    same_bytes(round_, wal, "drive")


def test_what_was_bundled_before_the_settings_changed_is_recognised_segment_by_segment(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(*wal.paths[1:4])
    round_.ship(said(wal.identifier, wal.segment(3).end, minutes=6))
    stored = objects(round_, "drive")
    # Killed when it was stored, and before anything was noted of it.
    round_.restart()
    round_.archive(*wal.paths[1:4])
    round_.spool.note_look("drive", None)
    round_.every = {}
    round_.archive(wal.paths[4])
    shipped = round_.ship(said(wal.identifier, wal.segment(4).end, minutes=7))
    assert not shipped.errors and not shipped.gaps and round_.spooled() == []
    assert objects(round_, "drive") == [*stored, wal.paths[4].name]


def test_earlier_versions_take_a_bundle_for_no_segment(wal: Wal) -> None:
    name = bundle_of(wal, 0, 2)
    assert kind_of(name) is None and PartialSegment.named(name, MB) is None
    with pytest.raises(ValueError, match="not the name of a WAL segment"):
        Segment.named(name, MB)


def test_two_that_bundle_at_once_leave_overlapping_bundles_of_which_each_is_good(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(*wal.paths[1:4])
    round_.ship(said(wal.identifier, wal.segment(3).end, minutes=6))
    overlapping = WalArchive(round_.targets["drive"], "erp")
    packed = round_.folder / "packed"
    name = bundle_of(wal, 2, 4)
    members = [PackedSegment(path.name, MB, [path.read_bytes()]) for path in wal.paths[2:5]]
    digest = pack(bundled(members), packed, ZSTD, KEYRING.primary, associated_data("erp", wal.identifier, name))
    overlapping.put(packed, overlapping.key(wal.identifier, 1, name, ZSTD), digest)
    held = holdings(round_.targets["drive"], wal.identifier)
    assert sorted(each.name for each in held.segments) == names(wal, 0, 1, 2, 3, 4)
    assert len({stored.key for _, stored in held.whole()}) == 3
    assert held.stored_bytes == sum(path.stat().st_size for path in (round_.folder / "drive").rglob("*.enc"))
    same_bytes(round_, wal, "drive")


def test_a_bundle_that_is_gone_is_noticed_and_one_that_is_there_is_not_missed(round_: Round, wal: Wal) -> None:
    begun(round_, wal)
    round_.archive(*wal.paths[1:3])
    round_.ship(said(wal.identifier, wal.segment(2).end, minutes=6))
    archive = WalArchive(round_.targets["drive"], "erp")
    assert archive.lacks(wal.identifier, wal.segment(0), wal.segment(2).end, ZSTD) is None
    assert archive.lacks(wal.identifier, wal.segment(0), wal.segment(3).end, ZSTD) == wal.segment(3)
    round_.restart()
    assert not round_.ship(said(wal.identifier, wal.segment(2).end, minutes=12)).gaps
    round_.restart()
    archive.remove(archive.key(wal.identifier, 1, bundle_of(wal, 1, 2), ZSTD))
    # A drive with many objects is not listed at each turn.
    assert not round_.ship(said(wal.identifier, wal.segment(2).end, minutes=18)).gaps
    round_.restart()
    round_.spool.note_look("drive", time.time() - 3700)
    shipped = round_.ship(said(wal.identifier, wal.segment(2).end, minutes=24))
    assert [each.gap for each in shipped.gaps] == [Gap(1, wal.segment(0).end, wal.segment(2).end)]


# -- killed ------------------------------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from twist_dr.storage.local import LocalTarget
from twist_dr.wal import packing, spool
from twist_dr.wal.objects import WalArchive
from twist_dr_tests.wal.wal_files import Round, said

folder, identifier, end, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
count = 0

def counted(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **options):
        step()
        result = real(*arguments, **options)
        step()
        return result
    setattr(owner, name, call)

def step():
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)

counted(packing, "pack")
counted(WalArchive, "put")
for name in ("note_stored", "remove", "save_state"):
    counted(spool.Spool, name)
made = Round(folder, {"drive": LocalTarget("drive", folder / "drive")}, every={"drive": timedelta(minutes=5)})
made.ship(said(identifier, end, minutes=6))
print(count)
"""


@pytest.mark.sweep
@pytest.mark.promise(8)
def test_killed_at_any_step_the_next_round_finishes_what_lacks(tmp_path: Path, wal: Wal) -> None:
    def opened(folder: Path) -> Round:
        return Round(folder, {"drive": LocalTarget("drive", folder / "drive")}, every={"drive": FIVE_MINUTES})

    template = opened(tmp_path / "template")
    begun_alone(template, wal)
    template.archive(*wal.paths[1:4])
    end = wal.segment(3).end
    # When it is packed, stored and not noted, and half noted.
    for at in instants((3, 4, 8), every=range(1, 15)):
        folder = tmp_path / f"killed{at}"
        shutil.copytree(template.folder, folder)
        with python(_KILLED, folder, wal.identifier, end, at) as process:
            process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL, at
        round_ = opened(folder)
        listed = round_.held("drive", wal.identifier)
        assert listed in (names(wal, 0), names(wal, 0, 1, 2, 3)), at
        # One more has come, so that what is bundled now would be another bundle.
        round_.archive(wal.paths[4], age=1)
        shipped = round_.ship(said(wal.identifier, wal.segment(4).end, minutes=20))
        assert not shipped.errors and not shipped.gaps and round_.spooled() == [], at
        assert round_.held("drive", wal.identifier) == names(wal, 0, 1, 2, 3, 4), at
        assert len(objects(round_, "drive")) == (2 if listed == names(wal, 0) else 3), at
        assert shipped.targets["drive"].position.lsn == wal.segment(4).end  # type: ignore[union-attr]
        same_bytes(round_, wal, "drive")
        assert not list(round_.spool.packed.iterdir())
        round_.restart()
    template.restart()


def begun_alone(round_: Round, wal: Wal) -> None:
    round_.archive(wal.paths[0])
    round_.ship(said(wal.identifier, wal.segment(0).end))
    round_.restart()


# -- the format --------------------------------------------------------------------------------------------------------------


def test_tink_zstd_and_tar_open_a_bundle_without_us(round_: Round, wal: Wal, tmp_path: Path) -> None:
    begun(round_, wal)
    round_.archive(*wal.paths[1:4])
    round_.ship(said(wal.identifier, wal.segment(3).end, minutes=6))
    name = bundle_of(wal, 1, 3)
    (path,) = (round_.folder / "drive").rglob(f"{name}.zst.enc")
    assert path.parent.name == "00000001"
    place = f"twist-dr wal 1\nerp\n{wal.identifier}\n{name}".encode()
    with tink_primitive().new_decrypting_stream(io.BytesIO(path.read_bytes()), place) as stream:
        tar = zstandard.ZstdDecompressor().decompressobj().decompress(stream.read())
    folder = tmp_path / "by hand"
    folder.mkdir()
    subprocess.run(["tar", "-x"], input=tar, cwd=folder, check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert sorted(each.name for each in folder.iterdir()) == [*names(wal, 1, 2, 3), "SHA256SUMS"]
    assert all((folder / each.name).read_bytes() == each.read_bytes() for each in wal.paths[1:4])


def _tar(*members: tuple[str, bytes], sums: str | None = None) -> bytes:
    found = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in members)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [*members, ("SHA256SUMS", (found if sums is None else sums).encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_a_bundle_that_is_not_what_its_name_says_gives_nothing(tmp_path: Path, wal: Wal) -> None:
    """Sealed with our key: by a defect of ours, or whoever had it."""
    target = LocalTarget("drive", tmp_path / "drive")
    target.prepare()
    archive = WalArchive(target, "erp")
    whole = [(path.name, path.read_bytes()) for path in wal.paths[:3]]
    name = bundle_of(wal, 0, 2)
    key = archive.key(wal.identifier, 1, name, ZSTD)

    def read(plain: bytes, sealed_for: str = name) -> None:
        packed = tmp_path / "packed"
        digest = pack([plain], packed, ZSTD, KEYRING.primary, associated_data("erp", wal.identifier, sealed_for))
        target.delete(key)
        archive.put(packed, key, digest)
        packed.unlink()
        for _ in archive.segments(wal.identifier, key, KEYRING):
            pass

    read(_tar(*whole))
    with pytest.raises(AuthenticationFailed):
        read(_tar(*whole), bundle_of(wal, 0, 3))
    for bad in (
        _tar(*whole[:2]),
        _tar(whole[0], whole[2], whole[1]),
        _tar(*whole, (wal.paths[3].name, wal.paths[3].read_bytes())),
        _tar(*whole[:2], (whole[2][0], whole[1][1])),
        _tar(*whole, sums=""),
        _tar(*whole)[: -2 * MB],
        _tar(*whole)[: 512 * 100],
        b"",
        _tar(("../evil", b"x" * 512), *whole),
    ):
        with pytest.raises((ArtifactInvalid, WalInvalid)):
            read(bad)


def test_names_that_anybody_can_write_make_no_million_segments() -> None:
    first = "000000010000000000000001"
    assert [each.number for each in segments_of(f"{first}-{first[:-1]}3.tar", MB)] == [1, 2, 3]
    for name in (
        f"{first}-{first}.tar",
        f"{first[:-1]}2-{first}.tar",
        f"{first}-00000002{first[8:-1]}3.tar",
        f"{first}-00000001FFFFFFFF000000FF.tar",
        f"{first}-{first[:-1]}3.tar.tar",
        f"{first}-{first[:-1]}3",
    ):
        assert segments_of(name, MB) == []


def test_only_what_follows_each_other_is_one_bundle(round_: Round, wal: Wal) -> None:
    round_.archive(*wal.paths)
    files = dict(zip((file.name for file in round_.spool.files()), round_.spool.files(), strict=True))
    lacking = [(files[wal.paths[place].name], wal.segment(place)) for place in (0, 1, 3, 4, 5)]
    together = [[each.name for each in parcel.files] for parcel in made_parcels(lacking, ZSTD, together=True)]
    assert together == [names(wal, 0, 1), names(wal, 3, 4, 5)]


# -- on a drive ----------------------------------------------------------------------------------------------------------------


def test_five_minutes_of_log_are_one_upload_to_google_drive(
    tmp_path: Path, wal: Wal, vendors: Cloud, machine_folder: Path
) -> None:
    drive = google_place(vendors, machine_folder).target()
    round_ = Round(tmp_path, {"drive": drive}, patience=60, every={"drive": FIVE_MINUTES})
    round_.archive(wal.paths[0])
    round_.ship()
    before = _uploads(vendors)
    round_.archive(*wal.paths[1:5], age=301)
    shipped = round_.ship()
    assert not shipped.errors and round_.spooled() == [] and _uploads(vendors) == before + 1
    assert [each.key.rpartition("/")[2] for each in drive.list("erp/wal")] == [
        f"{wal.paths[0].name}.zst.enc",
        f"{bundle_of(wal, 1, 4)}.zst.enc",
    ]
    same_bytes(round_, wal, "drive")
    round_.restart()


def _uploads(vendors: Cloud) -> int:
    return sum(request.method == "POST" and "/upload/" in request.path for request in vendors.gateway.requests)
