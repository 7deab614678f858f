"""One pass from the source into the staging folder: several forms, bounded memory, no half file, no thread left hanging."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.errors import StagingFull
from twist_dr.repository.compression import decompress
from twist_dr.repository.encryption import associated_data, decrypt
from twist_dr.repository.streams import ArtifactWriter, Form
from twist_dr.storage.chunks import read_chunks
from twist_dr_tests.helpers import KEY, chunked, digest_of, joined, no_thread_stays, noise, said_by_python
from twist_dr_tests.storage.conftest import mounted_tmpfs

PLACE = associated_data("erp", "20260101T020000Z-full-0001", "database.dump")
FORMS = (
    Form("zstd", True),
    Form("zstd", False),
    Form("gzip", True),
    Form("gzip", False),
    Form("none", True),
    Form("none", False),
)


def writer(folder: Path, *forms: Form, threads: int = 2) -> ArtifactWriter:
    return ArtifactWriter(folder, "database.dump", forms, key=KEY, data=PLACE, threads=threads)


def read_back(path: Path, form: Form) -> bytes:
    with path.open("rb") as file:
        stored: Iterator[bytes] = read_chunks(file)
        if form.encrypted:
            stored = decrypt(stored, KEY, PLACE, path.name)
        return joined(decompress(stored, form.compression, path.name))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path / "disk", "size=3m") as disk:
        folder = disk / "erp" / "20260101T020000Z-full-0001"
        folder.mkdir(parents=True)
        yield folder


@pytest.mark.parametrize("size", [0, 1, 5_000_003])
def test_all_forms_made_in_one_pass_hold_the_same_bytes(tmp_path: Path, size: int) -> None:
    plain = noise(size // 2) + bytes(size - size // 2)
    with no_thread_stays(), writer(tmp_path, *FORMS) as artifact:
        for chunk in chunked(plain):
            artifact.write(chunk)
    assert artifact.plain == digest_of(plain)
    assert set(artifact.stored) == set(FORMS)
    for form, (name, digest) in artifact.stored.items():
        assert name == "database.dump" + form.suffix
        assert digest_of((tmp_path / name).read_bytes()) == digest
        assert read_back(tmp_path / name, form) == plain
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == len(FORMS)


def test_forms_that_share_a_compression_hold_the_same_compressed_bytes(tmp_path: Path) -> None:
    with writer(tmp_path, *FORMS) as artifact:
        artifact.write(noise(2_000_000))
    sealed, open_one = tmp_path / "database.dump.zst.enc", tmp_path / "database.dump.zst"
    assert joined(decrypt([sealed.read_bytes()], KEY, PLACE, "x")) == open_one.read_bytes()


def test_a_stored_file_is_never_readable_without_the_key(tmp_path: Path) -> None:
    with writer(tmp_path, Form("none", True)) as artifact:
        artifact.write(b"payroll " * 1000)
    assert b"payroll" not in (tmp_path / "database.dump.enc").read_bytes()


@pytest.mark.parametrize(
    "forms",
    [
        (Form("zstd", True),),
        (Form("none", False),),
        (Form("gzip", True), Form("zstd", True), Form("none", False)),
        FORMS,
    ],
    ids=["zstd+enc", "none", "three", "all"],
)
def test_a_full_disk_is_said_leaves_no_file_and_hangs_nothing(small_disk: Path, forms: tuple[Form, ...]) -> None:
    with (
        no_thread_stays(),
        pytest.raises(StagingFull, match=str(small_disk.parents[1])),
        writer(small_disk, *forms) as out,
    ):
        for number in range(200):
            out.write(noise(100_000, seed=number))
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_full_only_for_the_very_last_bytes_is_said_too(small_disk: Path) -> None:
    # zstd keeps what it has until the end, so nothing fails before the file is finished.
    filler = small_disk.parents[1] / "filler"
    filler.write_bytes(bytes((3 << 20) - 40_000))
    with no_thread_stays(), pytest.raises(StagingFull), writer(small_disk, Form("zstd", True), threads=1) as out:
        out.write(noise(100_000))
    assert list(small_disk.iterdir()) == []


def test_a_disk_without_space_for_another_file_is_said_as_full(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", "size=3m,nr_inodes=4") as disk, no_thread_stays():
        folder = disk / "erp" / "backup"
        folder.mkdir(parents=True)
        with pytest.raises(StagingFull), writer(folder, *FORMS):
            pass
        assert list(folder.iterdir()) == []


def test_an_error_of_the_source_removes_the_files(tmp_path: Path) -> None:
    with no_thread_stays(), pytest.raises(RuntimeError, match="the source broke"), writer(tmp_path, *FORMS) as artifact:
        artifact.write(noise(3_000_000))
        raise RuntimeError("the source broke")
    assert list(tmp_path.iterdir()) == []


def test_an_abort_from_another_thread_removes_the_files_and_ends_a_writer_in_its_tracks(tmp_path: Path) -> None:
    with no_thread_stays():
        artifact = writer(tmp_path, *FORMS)
        artifact.write(noise(1_000_000))
        ending = threading.Thread(target=artifact.abort)
        ending.start()
        ending.join(10)
        assert not ending.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_cannot_begin_leaves_no_thread_and_touches_no_file_of_others(tmp_path: Path) -> None:
    there = tmp_path / "database.dump.zst.enc"
    there.write_bytes(b"of an earlier backup")
    with no_thread_stays(), pytest.raises(FileExistsError):
        writer(tmp_path, *FORMS)
    assert [path.name for path in tmp_path.iterdir()] == [there.name]
    assert there.read_bytes() == b"of an earlier backup"


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    said = said_by_python(
        "import sys, random\n"
        "from pathlib import Path\n"
        "from twist_dr.repository.streams import ArtifactWriter, Form\n"
        "from twist_dr_tests.helpers import KEY, peak_memory\n"
        "block = random.Random(1).randbytes(1 << 19) + bytes(1 << 19)\n"
        "forms = [Form('zstd', True), Form('zstd', False)]\n"
        "def run(name, blocks):\n"
        "    with ArtifactWriter(Path(sys.argv[1]), name, forms, key=KEY, data=b'', level=1) as artifact:\n"
        "        for number in range(blocks):\n"
        "            artifact.write(number.to_bytes(8, 'big') + block[8:])\n"
        "run('warm.dump', 8)\n"
        "before = peak_memory()\n"
        "run('database.dump', 400)\n"
        "print(peak_memory() - before)\n",
        tmp_path,
    )
    assert int(said) < 120 << 20
    assert (tmp_path / "database.dump.zst").stat().st_size > 100 << 20


def test_a_writer_in_front_of_a_slow_disk_waits_instead_of_filling_the_memory(tmp_path: Path) -> None:
    said = said_by_python(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from twist_dr.repository.streams import ArtifactWriter, FileSink, Form\n"
        "from twist_dr_tests.helpers import KEY, peak_memory\n"
        "quick = FileSink.write\n"
        "def slow(sink, chunk):\n"
        "    time.sleep(0.01)\n"
        "    quick(sink, chunk)\n"
        "FileSink.write = slow\n"
        "before = peak_memory()\n"
        "with ArtifactWriter(Path(sys.argv[1]), 'x', [Form('none', True)], key=KEY, data=b'') as artifact:\n"
        "    for number in range(150):\n"
        "        artifact.write(number.to_bytes(1, 'big') * (1 << 20))\n"
        "print(peak_memory() - before)\n",
        tmp_path,
    )
    assert int(said) < 60 << 20
