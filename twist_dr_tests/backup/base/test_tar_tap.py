"""Members are taken out of a tar while it streams by, whatever its headers look like, and one that was cut short is known."""

from __future__ import annotations

import io
import tarfile

import pytest

from twist_dr.backup.base.tar_tap import TarTap
from twist_dr.errors import BackupError
from twist_dr_tests.helpers import chunked, noise

LONG = "base/" + "very_long_folder_name/" * 12 + "wanted"


def archive(members: dict[str, bytes], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def taken(data: bytes, *names: str) -> dict[str, bytes]:
    """What the tap takes out of an archive that comes in uneven chunks."""
    found = {name: bytearray() for name in names}
    tap = TarTap({name: content.extend for name, content in found.items()}, "The archive")
    for chunk in chunked(data):
        tap.feed(chunk)
    tap.finish()
    return {name: bytes(content) for name, content in found.items()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_wanted_members_come_out_whole_and_others_do_not_disturb_them(form: int) -> None:
    members = {
        "backup_label": b"START",
        "base/1/1259": noise(100_000),
        "base/1/backup_label": b"another file of that name",
        "empty": b"",
        "backup_manifest": noise(700_003, 2),
    }
    found = taken(archive(members, form), "backup_label", "backup_manifest", "empty")
    assert found == {name: members[name] for name in ("backup_label", "backup_manifest", "empty")}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_too_long_for_a_header_is_read_from_the_one_before_it(form: int) -> None:
    members = {LONG: b"first", "short": b"second"}
    assert taken(archive(members, form), LONG, "short") == members


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_file_of_more_than_8_gb_is_skipped_by_its_whole_size(form: int) -> None:
    size = (9 << 30) + 5
    large = tarfile.TarInfo("base/1/large")
    large.size = size
    found = bytearray()
    tap = TarTap({"backup_label": found.extend}, "The archive")
    tap.feed(large.tobuf(form))
    zeros = bytes(64 << 20)
    for _ in range(size // len(zeros)):
        tap.feed(zeros)
    tap.feed(bytes(size % len(zeros)) + bytes(-size % 512))
    tap.feed(archive({"backup_label": b"START"}, form))
    tap.finish()
    assert found == b"START"


@pytest.mark.parametrize("cut", [100, 700, 1536, -600, -10_000])
def test_an_archive_that_was_cut_short_is_refused(cut: int) -> None:
    data = archive({"backup_label": b"START", "base/1/1259": noise(3000)}, tarfile.USTAR_FORMAT)
    with pytest.raises(BackupError, match="ended in the middle"):
        taken(data[:cut], "backup_label")


def test_a_garbled_header_is_refused() -> None:
    data = bytearray(archive({"backup_label": b"START", "base/1/1259": noise(3000)}, tarfile.USTAR_FORMAT))
    data[1024 + 130] ^= 1
    with pytest.raises(BackupError, match="is no tar archive any more"):
        taken(bytes(data), "backup_label")


def test_a_wanted_member_that_is_missing_is_named() -> None:
    with pytest.raises(BackupError, match="holds no backup_manifest"):
        taken(archive({"backup_label": b"START"}, tarfile.USTAR_FORMAT), "backup_label", "backup_manifest")
