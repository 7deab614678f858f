"""Attributes, access control lists, further names and holes of files: kept, compared, restored, and open to tar itself."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

import twist_dr.repository.archive as archive_module
from twist_dr.doctor.files import check_media
from twist_dr.errors import ArchiveInvalid
from twist_dr.repository import attributes
from twist_dr.repository.archive_reading import compare_archive, read_archive
from twist_dr.system.words import shown
from twist_dr_tests.backup.test_backup import Take, staging, take
from twist_dr_tests.doctor.test_doctor import findings_of
from twist_dr_tests.repository.test_archive import archive
from twist_dr_tests.repository.test_unpack import archived, only_root, unpacked
from twist_dr_tests.storage.conftest import mounted_tmpfs

__all__ = ["staging", "take"]  # fixtures

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
MIB = 1 << 20


def acl(*entries: tuple[int, int, int]) -> bytes:
    """As the kernel has it: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def list_for(user: int, rights: int) -> bytes:
    return acl(
        (1, 7, 0xFFFFFFFF), (2, rights, user), (4, 5, 0xFFFFFFFF), (0x10, rights | 5, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)
    )


def all_of(root: Path) -> dict[str, dict[str, bytes]]:
    """Every attribute of what lies at and below a folder."""
    return {
        str(path.relative_to(root)): {name: os.getxattr(path, name) for name in os.listxattr(path)}
        for path in [root, *root.rglob("*")]
        if not path.is_symlink()
    }


NOT_UTF8 = os.fsdecode(b"user.caf\xe9")

ODD = {
    "user.plain": b"text",
    "user.empty": b"",
    "user.with = and % and \n and space": b"a=b\n12 path=elsewhere\n",
    # What old versions of Python's tarfile look for anywhere in a header.
    "user.spiteful": b"\n1 hdrcharset=\xff\xfe\n\0\xff",
    "user.größe": bytes(range(256)),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    (root / "invoices" / "2026").mkdir(parents=True)
    (root / "plain").write_text("nothing special")
    (root / "invoices" / "a.pdf").write_text("a")
    (root / "invoices" / "2026" / "b.pdf").write_text("b")
    (root / "link").symlink_to("plain")
    for name, value in ODD.items():
        os.setxattr(root / "invoices" / "a.pdf", name, value)
    os.setxattr(root / "invoices" / "2026", "user.kind", b"year")
    os.setxattr(root, DEFAULT, list_for(1234, 7))
    os.setxattr(root / "invoices", DEFAULT, list_for(33, 6))
    os.setxattr(root / "invoices", ACCESS, list_for(4_000_000, 5))
    os.setxattr(root / "invoices" / "a.pdf", ACCESS, list_for(33, 4))
    (root / "invoices" / "2026" / "b.pdf").chmod(0o400)
    return root


def test_attributes_and_lists_come_back_and_new_files_inherit_as_before(tree: Path, tmp_path: Path) -> None:
    before = all_of(tree)
    made = archived(media=tree)
    assert made.compared() == (3, []) and made.report.warnings("media") == []
    done = unpacked(made, media=tmp_path / "restored")
    assert all_of(tmp_path / "restored") == before and done.notes == []
    (tmp_path / "restored" / "invoices" / "new").touch()
    (tree / "invoices" / "new").touch()
    assert all_of(tmp_path / "restored") == all_of(tree)


def test_lists_of_the_folder_above_are_not_inherited(tree: Path, tmp_path: Path) -> None:
    for name in (DEFAULT, ACCESS):
        os.removexattr(tree / "invoices", name)
    os.removexattr(tree, DEFAULT)
    os.removexattr(tree / "invoices" / "a.pdf", ACCESS)
    before = all_of(tree)
    (tmp_path / "place").mkdir()
    os.setxattr(tmp_path / "place", DEFAULT, list_for(99, 7))
    unpacked(archived(media=tree), media=tmp_path / "place" / "restored")
    assert all_of(tmp_path / "place" / "restored") == before


def test_an_archive_of_an_earlier_version_is_read_and_its_folder_inherits_as_it_did(tmp_path: Path) -> None:
    """Its index has no attributes at all, not even of the topmost folder."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a").write_text("a")
    made = archived(media=tmp_path / "media")
    old = [dataclasses.replace(entry, attributes=None) for entry in made.entries()]
    assert [entry.line() for entry in old if b"attributes" in entry.line()] == []
    (tmp_path / "place").mkdir()
    os.setxattr(tmp_path / "place", DEFAULT, list_for(99, 7))
    unpacked(made, old, media=tmp_path / "place" / "restored")
    assert DEFAULT in os.listxattr(tmp_path / "place" / "restored")
    assert compare_archive(io.BytesIO(made.archive), iter(old), "media.tar") == (1, [])


@only_root
@pytest.mark.parametrize("what", ["attributes", "names and holes"])
def test_tar_opens_it_without_us(tree: Path, tmp_path: Path, what: str) -> None:
    if what == "names and holes":
        _with_names_and_holes(tree)
    made = archived(media=tree)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        ["tar", "--acls", "--xattrs", "--xattrs-include=user.*", "--numeric-owner", "-xpf", "-", "-C", tmp_path / "out"],
        input=made.archive, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all_of(tmp_path / "out" / "media") == all_of(tree)
    if what == "names and holes":
        restored = tmp_path / "out" / "media"
        assert (restored / "sparse").read_bytes() == (tree / "sparse").read_bytes()
        assert (restored / "sparse").stat().st_blocks * 512 < 4 * MIB
        assert (restored / "z further").samefile(restored / "a first")


def test_other_attributes_than_were_recorded_are_a_difference_and_are_not_restored(tree: Path, tmp_path: Path) -> None:
    made = archived(media=tree)
    os.setxattr(tree / "invoices" / "a.pdf", "user.plain", b"TEXT")
    entries = archived(media=tree).entries()
    _, differences = compare_archive(io.BytesIO(made.archive), iter(entries), "media.tar")
    assert differences == ["media.tar: media/invoices/a.pdf has other attributes than were recorded"]
    with pytest.raises(ArchiveInvalid, match=r"media/invoices/a\.pdf has other attributes"):
        unpacked(made, entries, media=tmp_path / "restored")


@only_root
def test_what_must_not_come_back_is_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    for name in ("tool", "other"):
        (root / name).touch()
        os.setxattr(root / name, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(root / "tool", "trusted.overlay.x", b"y")
    # Standard tar has no way to write such a name.
    os.setxattr(root / "tool", NOT_UTF8, b"y")
    os.setxattr(root / "tool", "user.kept", b"y")
    made = archived(media=root)
    assert made.report.warnings("media") == [
        "media: 2 files or folders have the attribute security.capability, which backups do not keep",
        "media: 1 file or folder has the attribute trusted.overlay.x, which backups do not keep",
        f"media: 1 file or folder has the attribute {shown(NOT_UTF8)}, which backups do not keep",
    ]
    unpacked(made, media=tmp_path / "restored")
    assert all_of(tmp_path / "restored") == {".": {}, "tool": {"user.kept": b"y"}, "other": {}}


def test_what_is_left_out_stands_in_the_manifest_for_plan_and_verification_and_is_told_by_the_doctor(
    take: Take, tmp_path: Path
) -> None:
    root = tmp_path / "media"
    (root / "folder").mkdir(parents=True)
    (root / "file").touch()
    os.setxattr(root / "folder", NOT_UTF8, b"y")
    os.link(root / "file", tmp_path / "elsewhere")
    taken = take(parts=("media",), media={"uploads": root})
    of_media = taken.left_out
    assert [sentence.partition(" ")[2] for sentence in of_media] == [
        f"1 file or folder has the attribute {shown(NOT_UTF8)}, which backups do not keep",
        "1 file has further names (hard links) elsewhere, without which a file comes back as one of its own",
    ]
    assert set(of_media) <= set(taken.warnings)
    both = taken.model_copy(update={"left_out": ["the slot a: b is in no dump", *of_media]})
    assert both.left_out_of(["media"]) == of_media and len(both.left_out_of(["database"])) == 1
    told = [each.found for each in findings_of(check_media({"uploads": root})) if each.status == "warning"]
    assert told == [sentence.partition(" ")[2] for sentence in of_media]


@only_root
def test_labels_of_selinux_come_back(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    try:
        os.setxattr(root, "security.selinux", b"system_u:object_r:httpd_sys_rw_content_t:s0\0")
    except OSError as error:  # a kernel that has a policy knows no such label
        assert error.errno in (errno.EINVAL, errno.EPERM)
        return
    unpacked(archived(media=root), media=tmp_path / "restored")
    assert all_of(tmp_path / "restored") == all_of(root)


def test_more_attributes_than_a_header_should_hold_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "media").mkdir()
    values = {f"user.{number:03}": b"x" * 5000 for number in range(300)}
    monkeypatch.setattr(os, "listxattr", lambda file: list(values))
    monkeypatch.setattr(os, "getxattr", lambda file, name: values[name])
    made = archived(media=tmp_path / "media")
    [warning] = made.report.warnings("media")[:1]
    assert warning.startswith("media: 1 file or folder has more extended attributes than the 256 and 256 KiB")
    assert len(made.archive) < 1 << 19 and made.compared() == (0, [])


def test_a_file_system_that_takes_none_of_it_is_named_and_the_files_come_back(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = archived(media=tree)

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "setxattr", refuse)
    done = unpacked(made, media=tmp_path / "restored")
    assert done.files == 3 and (tmp_path / "restored" / "plain").read_text() == "nothing special"
    assert done.notes == [
        "media.tar: access control lists of 4 files or folders could not be restored (Operation not supported).",
        "media.tar: extended attributes of 6 files or folders could not be restored (Operation not supported).",
    ]


# -- further names ----------------------------------------------------------------------------------------------------


def _with_names_and_holes(root: Path) -> None:
    (root / "a first").write_bytes(b"x" * 3000)
    os.link(root / "a first", root / "invoices" / "second")
    os.link(root / "a first", root / "z further")
    with open(root / "sparse", "wb") as file:
        file.truncate(8 * MIB)
        os.pwrite(file.fileno(), b"begin", 0)
        os.pwrite(file.fileno(), b"middle" * 50_000, 3 * MIB + 17)


def test_names_of_one_file_are_one_file_again(tree: Path, tmp_path: Path) -> None:
    _with_names_and_holes(tree)
    (tmp_path / "outside").mkdir()
    os.link(tree / "plain", tmp_path / "outside" / "plain")
    made = archived(media=tree)
    assert made.compared() == (7, []) and made.report.files == 7
    assert [warning for warning in made.report.warnings("media") if "hard links" in warning] == [
        "media: 1 file has further names (hard links) elsewhere, without which a file comes back as one of its own"
    ]
    done = unpacked(made, media=tmp_path / "restored")
    restored = tmp_path / "restored"
    assert (done.files, done.notes) == (7, []) and done.bytes == made.report.bytes
    first = (restored / "a first").stat()
    assert first.st_nlink == 3 and (restored / "plain").stat().st_nlink == 1
    assert (restored / "invoices" / "second").samefile(restored / "z further")
    assert [entry.same_as for entry in made.entries() if entry.path == "media/z further"] == ["media/a first"]


def test_of_very_many_files_with_several_names_some_become_files_of_their_own(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_MOST_NAMED_AT_ONCE", 1)
    for name in ("a", "b"):
        (tree / name).write_text(name)
        os.link(tree / name, tree / f"z{name}")
    made = archived(media=tree)
    assert made.report.not_kept.named_outside == 2 and made.compared()[1] == []
    unpacked(made, media=tmp_path / "restored")
    assert (tmp_path / "restored" / "za").stat().st_nlink == 2 and (tmp_path / "restored" / "zb").read_text() == "b"


@pytest.mark.parametrize("links", [1, 2])
def test_a_new_file_with_the_number_of_a_deleted_one_is_no_further_name_of_it(
    tree: Path, monkeypatch: pytest.MonkeyPatch, links: int
) -> None:
    _with_names_and_holes(tree)
    first = (tree / "a first").stat()
    real = os.stat

    def reused(path: Any, **options: Any) -> os.stat_result:
        found = real(path, **options)
        if path != "b upload":
            return found
        fields = list(found)
        fields[1], fields[2], fields[3] = first.st_ino, first.st_dev, links
        return os.stat_result((*fields, 0.0, 0.0, 0.0, 0, found.st_mtime_ns, 0, 0, 0))

    (tree / "b upload").write_text("another")
    monkeypatch.setattr(os, "stat", reused)
    made = archived(media=tree)
    assert made.contents()["media/b upload"] == b"another"
    assert [entry.same_as for entry in made.entries() if entry.path == "media/z further"] == ["media/a first"]


def test_where_a_file_can_have_but_one_name_each_gets_its_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_names_and_holes(tree)
    made = archived(media=tree)

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(os, "link", refuse)
    done = unpacked(made, media=tmp_path / "restored")
    assert (tmp_path / "restored" / "z further").read_bytes() == b"x" * 3000
    assert done.files == 7 and done.notes == [
        "media.tar: 2 further names of files (hard links) could not be restored; they are files of their own."
    ]


@pytest.mark.parametrize("wrong", ["media/plain", "media/nothing", None])
def test_a_name_of_another_file_than_was_recorded_is_refused(tree: Path, tmp_path: Path, wrong: str | None) -> None:
    _with_names_and_holes(tree)
    made = archived(media=tree)
    index = [
        dataclasses.replace(entry, same_as=wrong) if entry.path == "media/z further" else entry
        for entry in made.entries()
    ]
    _, differences = compare_archive(io.BytesIO(made.archive), iter(index), "media.tar")
    assert differences == ["media.tar: media/z further is a name of another file than was recorded"]
    with pytest.raises(ArchiveInvalid, match="media/z further"):
        unpacked(made, index, media=tmp_path / "restored")


# -- holes ------------------------------------------------------------------------------------------------------------


def test_a_file_with_holes_takes_no_more_space_in_the_archive_nor_when_it_is_back(tmp_path: Path) -> None:
    """A file much larger than the disk that it comes back to."""
    (tmp_path / "media").mkdir()
    with open(tmp_path / "media" / "image", "wb") as file:
        file.truncate(200 * MIB)
        os.pwrite(file.fileno(), b"\1" * MIB, 70 * MIB + 5)
    made = archived(media=tmp_path / "media")
    assert len(made.archive) < 2 * MIB and made.compared() == (1, [])
    [entry] = [entry for entry in made.entries() if entry.kind == "file"]
    assert entry.size == 200 * MIB
    with mounted_tmpfs(tmp_path / "disk", "size=20m") as disk:
        done = unpacked(made, media=disk / "restored")
        status = (disk / "restored" / "image").stat()
        assert status.st_size == 200 * MIB and status.st_blocks * 512 < 4 * MIB
        with open(disk / "restored" / "image", "rb") as file:
            file.seek(70 * MIB + 4)
            assert file.read(MIB + 2) == b"\0" + b"\1" * MIB + b"\0"
    assert done.bytes == 200 * MIB


@pytest.mark.parametrize(
    "runs", [[], [(0, 5)], [(3 * MIB - 7, 7)], [(MIB, MIB)], [(number * 128 << 10, 4096) for number in range(1, 24)]],
    ids=["nothing", "begin", "end", "middle", "many"],
)  # fmt: skip
def test_holes_anywhere(tmp_path: Path, runs: list[tuple[int, int]]) -> None:
    (tmp_path / "media").mkdir()
    file = tmp_path / "media" / ("ü" * 120)  # a name that needs a record of its own
    with open(file, "wb") as opened:
        opened.truncate(3 * MIB)
        for begin, length in runs:
            os.pwrite(opened.fileno(), b"\7" * length, begin)
    made = archive(tmp_path / "media")
    assert len(made.archive) < 2 * MIB and made.contents()[f"media/{file.name}"] == file.read_bytes()
    unpacked(made, media=tmp_path / "restored")
    assert (tmp_path / "restored" / file.name).read_bytes() == file.read_bytes()


def test_data_that_the_file_system_takes_for_a_hole_is_archived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "media"
    root.mkdir()
    with open(root / "image", "wb") as file:
        file.truncate(8 * MIB)
        os.pwrite(file.fileno(), b"\1" * MIB, 5 * MIB)

    def nothing(*arguments: int) -> int:
        raise OSError(errno.ENXIO, "no data")

    monkeypatch.setattr(os, "lseek", nothing)
    assert archive(root).contents()["media/image"] == (root / "image").read_bytes()


def test_a_file_with_holes_that_shrinks_while_it_is_read_is_named_and_the_archive_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "media"
    root.mkdir()
    with open(root / "image", "wb") as file:
        file.truncate(8 * MIB)
        os.pwrite(file.fileno(), b"\1" * MIB, 5 * MIB)
    real = archive_module.data_runs

    def shrink(descriptor: int, size: int) -> Any:
        found = real(descriptor, size)
        os.truncate(root / "image", 5 * MIB + 1000)
        return found

    monkeypatch.setattr(archive_module, "data_runs", shrink)
    made = archive(root)
    assert made.report.changed == ["media/image"] and made.compared() == (1, [])


def _handmade(stored: bytes, real: int, **records: str) -> bytes:
    import tarfile

    header = tarfile.TarInfo("media/image")
    header.size = len(stored)
    header.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "media/image",
        "GNU.sparse.realsize": str(real), **records,
    }  # fmt: skip
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + stored + bytes(-len(stored) % 512 + 1024)


@pytest.mark.parametrize(
    "text",
    [b"", b"1\n", b"x\n", b"-1\n", b"1\n0\n5\n", b"2\n600\n1\n0\n1\n", b"1\n0\n99999999999999999999\n", b"9" * 30 + b"\n", b"1" * 5000],
)  # fmt: skip
def test_a_map_that_is_none_is_refused(text: bytes) -> None:
    data = _handmade(text + bytes(-len(text) % 512), 1000)
    with pytest.raises(ArchiveInvalid):
        _read(data)


def _read(data: bytes) -> list[bytes]:
    return [content.read() for _, content in read_archive(io.BytesIO(data), "media.tar") if content is not None]


def test_the_next_file_is_found_behind_one_with_holes_whose_size_stands_in_a_record() -> None:
    text = b"1\n0\n5\n"
    stored = text + bytes(512 - len(text)) + b"hello"
    data = _handmade(stored, 1 << 20, size=str(len(stored)))[:-1024]
    assert [len(content) for content in _read(data + _handmade(stored, 7))] == [1 << 20, 7]


def test_a_damaged_access_control_list_is_refused() -> None:
    for text in (b"", b"user:x:rwx", b"user::rwz", b"other:5:rwx", b"user:1", b"user:99999999999:rwx", b"\xff"):
        with pytest.raises(ValueError):
            attributes._acl_bytes(text)
