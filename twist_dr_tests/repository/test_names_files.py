"""Any name that a file, folder or tenant can have goes through archive, index, comparison, unpacking, difference and impact."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from twist_dr.backup.diff import compare, render
from twist_dr.backup.diff_files import compare_files
from twist_dr.backup.storing import store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.catalog import Catalog, SealedBackup
from twist_dr.redaction import one_line
from twist_dr.repository.archive_index import read_index
from twist_dr.repository.archive_reading import compare_archive
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.repository.staging import StagingArea
from twist_dr.restore.impact import Impact, MediaImpact
from twist_dr.restore.impact_media import media_impact
from twist_dr.restore.media import unpack_media
from twist_dr.storage.chunks import buffered
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr_tests.backup.test_backup import FORM, NO_CLUSTER
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.repository.test_unpack import facts

PIECES = [
    b"a", b"B", b".", b"..", b"...", b"~", b"-", b"--", b"-rf", b" ", b"\n", b"\r", b"\t", b"\x01", b"\x7f", b"\x1b[31m", b"\x1b]0;t\x07", b"\xff",
    b"\xc3", b"\xc3\xa9", "e\u0301".encode(), "\u202e".encode(), "\ud800".encode("utf-8", "surrogatepass"), "\U0001f600".encode(), b"'", b'"', b"`", b"\\",
    b"%", b"%s", b"{}", b"{0}", b"$(id)", b";", b"&", b"|", b"*", b"?", b"[x](y)", b"<b>", b"#", b"=", b":", b"PaxHeader", b"30 path=evil\n",
    b"\n21 hdrcharset=BINARY\n", b"22 GNU.sparse.major=1\n", b"@LongLink", b".zst.enc", b".partial", b"x" * 90, b"\xc3\xbc" * 60,
]  # fmt: skip


def fits(name: bytes) -> bool:
    return 0 < len(name) <= 255 and name not in (b".", b"..")


PIECED = st.lists(st.sampled_from(PIECES), min_size=1, max_size=10).map(b"".join).filter(fits)
ANY = st.binary(min_size=1, max_size=255).map(lambda name: name.translate(None, b"/\0")).filter(fits)
NAMES = (PIECED | ANY).map(os.fsdecode)


class Media:
    """A media folder with a file, a link and a tenant's folder of each name; its backups, and what is said about them."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.live = folder, folder / "media"
        self.repository = Repository(LocalTarget("office", folder / "office"), "erp")
        self.catalog = Catalog(f"sqlite:///{folder / 'catalog.sqlite'}")
        for number, name in enumerate(names):
            tenant = self.live / "companies" / name
            tenant.mkdir(parents=True)
            for other in names:
                (tenant / other).write_bytes(os.fsencode(name) * number)
            # A link's target has its own ways through a header.
            (self.live / f"link {number}").symlink_to(name)

    def back_up(self) -> SealedBackup:
        staging = StagingArea(self.folder / "staging" / "erp")
        plan = BackupPlan("erp", parts=("media",), targets={"office": FORM}, media={"files": self.live})
        manifest = take_full_backup(plan, NO_CLUSTER, KEYRING, staging, Report())
        with staging.using(manifest.backup_id) as staged:
            store_copy(manifest, staged, self.repository, FORM, Report())
        self.catalog.record_backup(manifest, manifest.seal(KEYRING.primary), run_id=None)
        return self.catalog.find("erp", manifest.backup_id)

    def impact(self, row: SealedBackup) -> MediaImpact:
        with buffered(self.repository.read(row.manifest, "media.files.jsonl", KEYRING)) as lines:
            (found,) = media_impact({"files": self.live}, read_index(lines))
        return found

    def compared(self, row: SealedBackup) -> tuple[int, list[str]]:
        parts = (self.repository.read(row.manifest, name, KEYRING) for name in ("media.tar", "media.files.jsonl"))
        with buffered(next(parts)) as stream, buffered(next(parts)) as lines:
            return compare_archive(stream, read_index(lines), "media.tar")

    def unpacked(self, row: SealedBackup, place: Path) -> Path:
        sources = Sources(row.backup_id, [self.repository], KEYRING, Report())
        assert unpack_media(sources, {"files": place}, Report()).notes == []
        return place


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(names=st.lists(NAMES, min_size=2, max_size=7, unique=True))
def test_any_name_of_a_file_folder_or_tenant_comes_back_and_is_told_apart(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="twist-dr-test-") as folder:
        media = Media(Path(folder), names)
        tenant, file = media.live / "companies" / names[0], media.live / "companies" / names[-1] / names[0]
        first = media.back_up()
        assert media.compared(first) == (len(names) ** 2, [])
        assert facts(media.unpacked(first, Path(folder, "restored"))) == facts(media.live)
        found = media.impact(first)
        assert (found.gone.count, found.changed.count, found.back.count, found.notes) == (0, 0, 0, [])

        file.write_bytes(b"another")
        shutil.rmtree(tenant)
        (media.live / names[0]).write_bytes(b"new")
        found = media.impact(first)
        assert (found.gone.count, found.changed.count, found.back.count) == (1, 1, len(names))
        second = media.back_up()
        (told,) = compare_files(first, second, {"office": media.repository.target}, KEYRING).values()
        # A link that led nowhere may lead to what is new: it is what it was.
        assert list(told.added) == [f"files/{names[0]}"]
        assert list(told.changed) == [f"files/companies/{names[-1]}/{names[0]}"]
        assert set(told.removed) == {
            f"files/companies/{names[0]}",
            *(f"files/companies/{names[0]}/{name}" for name in names),
        }

        page = Impact(first.started_at, first.started_at, [], [found]).markdown()
        difference = compare(first.manifest, second.manifest)
        difference.files["media"] = told
        for text in (page, render(difference)):
            assert all(one_line(line) == line for line in text.split("\n"))
        assert len(page.splitlines()) == 11, "no name begins a line of its own"
        assert (
            f"+ {one_line(next(iter(told.added)))}"
            in render(difference).splitlines()[-1 - len(told.removed) - len(told.changed)]
        )
