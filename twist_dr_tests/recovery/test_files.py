"""Base backups become data folders: chains, tablespaces, damaged links, and archives that nobody of ours made."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from twist_dr.errors import ArchiveInvalid, RecoveryFailed
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.recovery import files
from twist_dr.recovery.planning import PlannedRecovery
from twist_dr.recovery.recover import Recovered, recover
from twist_dr.recovery.untar import Owner, untar
from twist_dr.system.progress import Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import Primary
from twist_dr_tests.recovery.world import Base, archives_of, plan_of, rows


def spaced_primary(major: int, folder: Path) -> Primary:
    """A primary with a tablespace."""
    primary = Primary(TOOLS[major], folder)
    Owner(*unprivileged()).make_folder(primary.base / "space")
    primary.sql(f"CREATE TABLESPACE space LOCATION '{primary.base / 'space'}'")
    primary.sql(
        "CREATE TABLE elsewhere TABLESPACE space AS SELECT g AS id, repeat('y', 500) AS t FROM generate_series(1, 5000) g"
    )
    primary.write(20)
    return primary


@pytest.fixture(scope="module", params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def spaced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Primary]:
    primary = spaced_primary(request.param, tmp_path_factory.mktemp(f"spaced{request.param}"))
    yield primary
    primary.close()


def live_files(primary: Primary) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (primary.base / "space").rglob("*")
        if path.is_file()
    }


def test_tablespaces_get_places_of_their_own_and_the_live_ones_are_not_touched(
    spaced: Primary, open_folder: Path
) -> None:
    base = Base(spaced, "with-space")
    spaced.sql("INSERT INTO elsewhere SELECT 0, 'z' FROM generate_series(1, 100)")
    point = spaced.mark()
    spaced.write(1)
    spaced.archived()
    spaced.sql("CHECKPOINT")
    before = live_files(spaced)
    with (
        recover(
            PlannedRecovery(plan_of(spaced, [base], point), archives_of(spaced), spaced.tools, KEYRING, Report()),
            [base],
            open_folder,
        ) as found,
        found.cluster().connect() as connection,
    ):
        assert connection.execute("SELECT count(*) FROM elsewhere").fetchone() == (5100,)
        ((place,),) = connection.execute(
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"
        ).fetchall()
        assert Path(place).is_relative_to(found.data.parent / "tablespaces")
        connection.execute("INSERT INTO elsewhere SELECT 1, 'new' FROM generate_series(1, 1000)")
        connection.execute("CHECKPOINT")
    assert live_files(spaced) == before


class Chain:
    """A full base, two incremental ones and a differential one, and a point behind them."""

    def __init__(self, primary: Primary) -> None:
        self.primary = primary
        self.bases = [Base(primary, "chain-0")]
        for number in (1, 2):
            primary.write(100)
            primary.sql(f"UPDATE elsewhere SET t = 'changed {number}' WHERE id % 7 = {number}")
            self.bases.append(Base(primary, f"chain-{number}", self.bases[-1]))
        self.differential = Base(primary, "chain-differential", self.bases[0])
        primary.write(5)
        self.point = primary.mark()
        self.expected = primary.one(_SUM)
        primary.write(1)
        primary.archived()

    def copied(self, folder: Path) -> list[Base]:
        """The same in a folder of its own, to be damaged."""
        return [base.copied(folder) for base in self.bases]

    def recovered(self, bases: list[Base], folder: Path) -> AbstractContextManager[Recovered]:
        archives = archives_of(self.primary)
        return recover(
            PlannedRecovery(plan_of(self.primary, bases, self.point), archives, self.primary.tools, KEYRING, Report()),
            bases,
            folder,
        )


_SUM = "SELECT md5(string_agg(t, ',' ORDER BY id, t)) FROM elsewhere"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    newest = max(TOOLS)
    if newest < 17:
        pytest.skip("incremental base backups exist since version 17")
    primary = spaced_primary(newest, tmp_path_factory.mktemp("chain"))
    yield Chain(primary)
    primary.close()


def test_a_chain_is_put_together_and_recovered(chain: Chain, open_folder: Path) -> None:
    with chain.recovered(chain.bases, open_folder) as found:
        assert rows(found.cluster()) == chain.point.rows
        assert "check pages" in found.seconds
        with found.cluster().connect() as connection:
            assert connection.execute(_SUM).fetchone() == (chain.expected,)
        assert not (found.data.parent / "links").exists()


def test_a_differential_base_is_put_together_with_its_full_one_alone(chain: Chain, open_folder: Path) -> None:
    with chain.recovered([chain.bases[0], chain.differential], open_folder) as found:
        assert rows(found.cluster()) == chain.point.rows
        with found.cluster().connect() as connection:
            assert connection.execute(_SUM).fetchone() == (chain.expected,)


def rot(base: Base, wanted: str) -> None:
    """Change three bytes in the middle of a page of a file in a base's archive, as a disk that rots would."""
    path = base.folder / "base.tar"
    with tarfile.open(path) as archive:
        start = archive.getmember(wanted).offset_data
    with path.open("r+b") as file:
        file.seek(start + 4096)
        file.write(b"ROT")


def test_a_damaged_link_is_found_before_it_is_combined(chain: Chain, open_folder: Path) -> None:
    bases = chain.copied(open_folder)
    wanted = chain.primary.one("SELECT pg_relation_filepath('log')")
    rot(bases[0], wanted)
    expected = pytest.raises(RecoveryFailed, match="chain-0 is not what PostgreSQL backed up")
    with expected, chain.recovered(bases, open_folder):
        pass
    assert not list(open_folder.glob("recovery-*"))


def test_a_page_that_was_bad_before_it_was_backed_up_is_found_in_the_result(
    chain: Chain, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = chain.copied(open_folder)
    wanted = chain.primary.one("SELECT pg_relation_filepath('pg_depend')")
    rot(bases[0], wanted)
    # As if the manifest had been made of the bad page.
    monkeypatch.setattr(files, "_verify", lambda *arguments: None)
    with pytest.raises(RecoveryFailed, match="damaged pages"), chain.recovered(bases, open_folder):
        pass


def test_a_base_that_lacks_a_tablespace_of_the_cluster_is_refused(chain: Chain, open_folder: Path) -> None:
    base = chain.bases[0].copied(open_folder)
    assert base.manifest.base is not None
    base.manifest = base.manifest.model_copy(update={"base": base.manifest.base.model_copy(update={"tablespaces": []})})
    with pytest.raises(RecoveryFailed, match="no files of the tablespace"), chain.recovered([base], open_folder):
        pass


def _archive(*members: tuple[str, bytes, bytes]) -> bytes:
    """A tar of name, type and content (of a link: where it leads)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content.decode()
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("../out", tarfile.REGTYPE, b"x")],
        [("/tmp/out", tarfile.REGTYPE, b"x")],
        [("base", tarfile.SYMTYPE, b"/tmp"), ("base/out", tarfile.REGTYPE, b"x")],
        [
            ("pg_tblspc", tarfile.DIRTYPE, b""),
            ("pg_tblspc/1", tarfile.SYMTYPE, b"/tmp"),
            ("pg_tblspc/1/out", tarfile.REGTYPE, b"x"),
        ],
        [("pg_tblspc", tarfile.DIRTYPE, b""), ("pg_tblspc/9", tarfile.SYMTYPE, b"/tmp")],
        [("a", tarfile.REGTYPE, b"x"), ("b", tarfile.LNKTYPE, b"/etc/passwd")],
        [("a", tarfile.REGTYPE, b"x"), ("a", tarfile.REGTYPE, b"y")],
        [("fifo", tarfile.FIFOTYPE, b"")],
    ],
    ids=["above", "absolute", "link", "below a tablespace", "unknown tablespace", "hard link", "twice", "fifo"],
)
def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, members: list[tuple[str, bytes, bytes]]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    data = _archive(*members)
    with pytest.raises(ArchiveInvalid):
        untar(iter([data]), folder, Owner(), "test", {1: tmp_path / "elsewhere"})
    assert not (tmp_path / "out").exists() and not Path("/tmp/out").exists()


def test_whatever_the_chunks_a_tar_is_unpacked_whole_and_a_short_one_is_refused(tmp_path: Path) -> None:
    content = os.urandom(3000)
    data = _archive(("d", tarfile.DIRTYPE, b""), ("d/f", tarfile.REGTYPE, content), ("d/empty", tarfile.REGTYPE, b""))
    for size in (1, 511, 513, 100_000):
        folder = tmp_path / str(size)
        folder.mkdir()
        assert untar((data[at : at + size] for at in range(0, len(data), size)), folder, Owner(), "test") == 3000
        assert (folder / "d/f").read_bytes() == content and (folder / "d/empty").read_bytes() == b""
        assert (folder / "d/f").stat().st_mode & 0o777 == 0o600
    short = tmp_path / "short"
    short.mkdir()
    with pytest.raises(ArchiveInvalid, match="ends in the middle"):
        untar(iter([data[:2000]]), short, Owner(), "test")
