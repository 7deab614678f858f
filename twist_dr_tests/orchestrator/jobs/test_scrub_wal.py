"""A scrub reads archived WAL in a rotation of its own, and repairs what opens no more."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.catalog import WalPositionRow
from twist_dr.catalog.notes import WalScrubbed
from twist_dr.errors import CopyFailed
from twist_dr.postgres.lsn import format_lsn, parse_lsn
from twist_dr.repository.streams import Form
from twist_dr.scrub.found import ScrubResult, raise_bad
from twist_dr.scrub.repairer import repairs
from twist_dr.scrub.wal_reading import fetch_good_wal, wal_objects
from twist_dr.storage.base import StoredObject
from twist_dr.storage.local import LocalTarget
from twist_dr.system.lock import FileLocks
from twist_dr.wal.bundles import bundle_name
from twist_dr.wal.from_settings import Shipping
from twist_dr.wal.names import Segment
from twist_dr.wal.objects import WalArchive, associated_data
from twist_dr.wal.packing import file_chunks, pack, plain_object
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.orchestrator.jobs.test_backup_base import back_up as take_base
from twist_dr_tests.orchestrator.jobs.test_backup_base import latest, source
from twist_dr_tests.orchestrator.jobs.test_backup_base import site as with_wal
from twist_dr_tests.orchestrator.jobs.test_scrub import BOTH, rot, scrub, site, truncate
from twist_dr_tests.retention_site import bury
from twist_dr_tests.site import Site
from twist_dr_tests.wal.conftest import small_servers, wal, wals
from twist_dr_tests.wal.wal_files import ZSTD, Wal

__all__ = ["site", "small_servers", "source", "wal", "wals", "with_wal"]

HISTORY = "00000002.history"
NOW = datetime.now(timezone.utc)


def archive(site: Site, target: str) -> WalArchive:
    return WalArchive(site.settings().storage_targets[target].build(target, site.settings().machine), "erp")


def store(site: Site, wal: Wal, target: str, path: Path, form: Form = ZSTD, size: int | None = None) -> Path:
    """Store a file as shipping does; gives where it lies."""
    place, name = archive(site, target), path.name
    if size is not None:
        name = f"{name}.{size:08X}.none.partial"
    key = place.history_key(wal.identifier, 2) if name == HISTORY else place.key(wal.identifier, 1, name, form)
    packed = site.folder / f"{target}.packed"
    form = Form("none", True) if name == HISTORY else form
    digest = pack(
        file_chunks(path, size), packed, form, site.keyring.primary, associated_data("erp", wal.identifier, name)
    )
    place.put(packed, key, digest)
    packed.unlink()
    return site.folder / "targets" / target / key


@pytest.fixture
def stored(site: Site, wal: Wal) -> dict[str, list[Path]]:
    """The segments of a real cluster on both targets, and a history file, last."""
    history = site.folder / HISTORY
    history.write_text("1\t0/5000000\tno recovery target specified\n")
    return {target: [store(site, wal, target, path) for path in [*wal.paths, history]] for target in BOTH}


def plain(site: Site, wal: Wal, target: str, path: Path) -> bytes:
    place = archive(site, target)
    key = str(path.relative_to(site.folder / "targets" / target))
    return b"".join(place.read(wal.identifier, key, site.keyring))


@pytest.mark.promise(2, 4)
@pytest.mark.parametrize("damage", ["rot", "truncate", "swap", "empty"])
@pytest.mark.parametrize("which", [0, -1], ids=["segment", "history"])
def test_wal_that_went_bad_is_repaired_from_the_other_target(
    site: Site, wal: Wal, stored: dict[str, list[Path]], damage: str, which: int
) -> None:
    path, others = stored["office"][which], [each.read_bytes() for each in stored["office"][1:-1]]
    good = plain(site, wal, "office", path)
    if damage == "rot":
        rot(path)
    elif damage == "truncate":
        truncate(path)
    elif damage == "swap":
        path.write_bytes(stored["office"][1].read_bytes())
    else:
        path.write_bytes(b"")
    result = scrub(site)
    raise_bad(result)
    assert [(found.target, found.outcome) for found in result.found] == [("office", "repaired")]
    assert plain(site, wal, "office", path) == good
    assert [each.read_bytes() for each in stored["office"][1:-1]] == others
    assert repairs(site.catalog(), "erp")[0].backup_id == result.found[0].what
    assert scrub(site).found == []


def bundle(site: Site, wal: Wal, target: str, first: int, last: int) -> Path:
    """Store segments as one object; gives where it lies."""
    place, files = archive(site, target), {path.name: path for path in wal.paths[first : last + 1]}
    name, packed = bundle_name(min(files), max(files)), site.folder / "packed"
    data = associated_data("erp", wal.identifier, name)
    digest = pack(plain_object(files), packed, ZSTD, site.keyring.primary, data)
    key = place.key(wal.identifier, 1, name, ZSTD)
    place.put(packed, key, digest)
    packed.unlink()
    return site.folder / "targets" / target / key


def test_targets_that_bundle_and_such_that_do_not_repair_each_other(site: Site, wal: Wal) -> None:
    office = [store(site, wal, "office", path) for path in wal.paths]
    bundles = [bundle(site, wal, "archive", 0, 2), bundle(site, wal, "archive", 3, 5)]
    good = plain(site, wal, "archive", bundles[0])
    assert scrub(site).wal_objects == len(office) + len(bundles)
    data = bytearray(bundles[0].read_bytes())
    data[-100] ^= 1
    bundles[0].write_bytes(data)
    rot(office[4])
    # And one that was lost, which lies in a bundle there.
    office[3].unlink()
    result = scrub(site)
    raise_bad(result)
    assert {(found.target, found.outcome) for found in result.found} == {
        ("archive", "repaired"),
        ("office", "repaired"),
    }
    assert plain(site, wal, "archive", bundles[0]) == good
    for place in (3, 4):
        assert plain(site, wal, "office", office[place]) == wal.paths[place].read_bytes()
    assert scrub(site).found == []


def test_one_bad_segment_elsewhere_keeps_no_bundle_from_being_repaired(site: Site, wal: Wal) -> None:
    office = [store(site, wal, "office", path) for path in wal.paths]
    bad = bundle(site, wal, "archive", 3, 5)
    good, key = plain(site, wal, "archive", bad), str(bad.relative_to(site.folder / "targets" / "archive"))
    # The one that would be asked for how large the cluster's segments are.
    office[0].write_bytes(bytes(100) + office[0].read_bytes()[100:])
    each = next(each for each in wal_objects(archive(site, "archive")) if each.key == key)
    folder = site.folder / "fetched"
    folder.mkdir()
    packed = fetch_good_wal(each, [archive(site, "office")], site.keyring, folder, {"office": lambda count: None})
    bad.write_bytes(packed.path.read_bytes())
    assert plain(site, wal, "archive", bad) == good


def test_all_of_it_is_read_and_what_is_good_is_left_alone(site: Site, stored: dict[str, list[Path]]) -> None:
    result = scrub(site)
    assert result.wal_objects == sum(len(paths) for paths in stored.values()) and result.found == []


def test_a_target_that_packs_otherwise_helps_all_the_same(site: Site, wal: Wal) -> None:
    office = store(site, wal, "office", wal.paths[0])
    store(site, wal, "archive", wal.paths[0], Form("gzip", True))
    rot(office)
    raise_bad(scrub(site))
    assert plain(site, wal, "office", office) == wal.paths[0].read_bytes()


def test_wal_that_is_bad_everywhere_is_named_and_looked_at_again_first(
    site: Site, wal: Wal, stored: dict[str, list[Path]]
) -> None:
    for target in BOTH:
        rot(stored[target][2])
    before = stored["office"][2].read_bytes()
    with pytest.raises(CopyFailed, match=r"was not repaired.*No other storage target has a good"):
        raise_bad(scrub(site))
    assert stored["office"][2].read_bytes() == before
    mark = site.catalog().note("erp", WalScrubbed, "office")
    assert mark is not None and [Path(key).name for key in mark.bad] == [stored["office"][2].name]
    stored["archive"][2].unlink()
    store(site, wal, "archive", wal.paths[2])
    raise_bad(scrub(site, everything=False))
    assert plain(site, wal, "office", stored["office"][2]) == wal.paths[2].read_bytes()
    mark = site.catalog().note("erp", WalScrubbed, "office")
    assert mark is not None and mark.bad == {}


def test_the_rotation_goes_on_where_it_was_and_around(site: Site, stored: dict[str, list[Path]]) -> None:
    site.set(scrub={"period": "3 days"})
    read, after = [], []
    for day in range(3):
        result = scrub(site, everything=False, targets=("office",), now=NOW + timedelta(days=day))
        mark = site.catalog().note("erp", WalScrubbed, "office")
        assert mark is not None
        read.append(result.wal_objects)
        after.append(mark.after)
    assert sum(read) >= len(stored["office"]) > max(read) + 1
    assert after[0] < after[1] or after[2] < after[1], "from behind the last one, and around again"
    assert after[0] != after[1]


def position(site: Site, wal: Wal, segment: Path, timeline: int = 1) -> None:
    """The catalog knows that office has everything up to the end of a segment."""
    size = wal.segment(0).size
    end = format_lsn(Segment.named(segment.name[:24], size).end)
    row = WalPositionRow("erp", "office", wal.identifier, timeline, end, NOW, NOW, 0, 0.0, 0)
    site.catalog().record_wal_position(row)


@pytest.mark.parametrize("which", [2, -1], ids=["segment", "history"])
def test_wal_that_one_target_lost_and_another_has_is_stored_there_anew(
    site: Site, wal: Wal, stored: dict[str, list[Path]], which: int
) -> None:
    lost = stored["office"][which]
    site.set(wal={"slot": "any"})
    position(site, wal, stored["office"][-2], timeline=2)
    good = plain(site, wal, "office", lost)
    lost.unlink()
    found = scrub(site, everything=False).found
    assert [(each.target, each.outcome) for each in found] == [("office", "repaired")]
    assert "no recovery from office alone leads past it" in found[0].told
    assert plain(site, wal, "office", lost) == good
    assert lost.name in repairs(site.catalog(), "erp")[-1].backup_id


def test_wal_that_is_missing_everywhere_else_too_is_not_looked_for(site: Site, stored: dict[str, list[Path]]) -> None:
    for target in BOTH:
        stored[target][2].unlink()
    assert scrub(site, everything=False).found == []


def test_only_what_a_target_once_had_is_missing_there(site: Site, wal: Wal, stored: dict[str, list[Path]]) -> None:
    # Older than its first one: it came later than the other, or its retention deleted it. Newer than its last one: it waits in the spool.
    segments = stored["office"][:-1]
    for path in (segments[0], segments[-2], segments[-1]):
        path.unlink()
    assert scrub(site, everything=False).found == []
    site.set(wal={"slot": "any"})
    position(site, wal, segments[-2])
    raise_bad(scrub(site, everything=False))
    assert [path.exists() for path in segments] == [False, *[True] * (len(segments) - 2), False]


def test_a_target_that_lost_all_its_wal_is_told(site: Site, wal: Wal, stored: dict[str, list[Path]]) -> None:
    site.set(wal={"slot": "any"})
    position(site, wal, stored["office"][-2])
    shutil.rmtree(site.folder / "targets" / "office" / "erp" / "wal")
    result = scrub(site, everything=False)
    assert (
        "held write-ahead log before and holds none now" in result.unread["office"] and "archive" not in result.unread
    )


def test_missing_wal_does_not_come_back_when_a_cleanup_deletes_what_is_before_it_meanwhile(
    site: Site, stored: dict[str, list[Path]]
) -> None:
    settings, said, done = site.settings(), list[str](), list[ScrubResult]()
    stored["office"][2].unlink()
    with FileLocks(settings.lock_dir, "erp").hold("A cleanup"):
        running = threading.Thread(target=lambda: done.append(scrub(site, everything=False, said=said)))
        running.start()
        wait_until(lambda: any("leads past it" in line for line in said), "the scrub to miss the segment")
        for path in stored["office"][:2]:
            path.unlink()
    running.join()
    assert [found.outcome for found in done[0].found] == ["gone"] and not stored["office"][2].exists()


def test_heads_come_and_go_and_are_not_judged(site: Site, wal: Wal) -> None:
    head = store(site, wal, "office", wal.paths[0], size=100_000)
    head.write_bytes(b"half written")
    result = scrub(site)
    assert (result.wal_objects, result.found) == (0, [])


def test_wal_that_a_base_backup_needs_and_a_target_has_lost_comes_back(with_wal: Site) -> None:
    with_wal.document["storage_targets"]["archive"]["wal_bundle_seconds"] = 600
    with_wal.save()
    with Shipping(with_wal.app()) as shipping:
        shipping.once()
    # It does not wait for the turn of a target that gets bundles.
    take_base(with_wal).expect(0)
    _, base = latest(with_wal)
    office = with_wal.folder / "targets" / "office" / "erp" / "wal"
    needed = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size)
    lost = next(office.rglob(f"{needed.name}.zst.enc"))
    lost.unlink()
    result = scrub(with_wal, everything=False)
    raise_bad(result)
    assert [(found.target, found.outcome) for found in result.found] == [("office", "repaired")]
    assert "is worth nothing without it" in result.found[0].told and lost.exists()
    with_wal.verify(backup="latest-base", target="office").expect(0)
    lost.unlink()
    for path in archive(with_wal, "archive").places(lost.parent.parent.name, needed.name):
        (with_wal.folder / "targets" / "archive" / path).unlink()
    with pytest.raises(CopyFailed, match="No other storage target has a good"):
        raise_bad(scrub(with_wal, everything=False))


def test_a_target_that_lost_all_wal_gets_what_its_base_backups_lead_to(with_wal: Site) -> None:
    take_base(with_wal).expect(0)
    _, base = latest(with_wal)
    office = with_wal.folder / "targets" / "office" / "erp" / "wal"
    first = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size).name
    had = {path.name for path in office.rglob("*.zst.enc") if ".partial" not in path.name and path.name >= first}
    shutil.rmtree(office)
    raise_bad(scrub(with_wal, everything=False))
    assert had and {path.name for path in office.rglob("*.zst.enc")} == had


def _delete_base(site: Site, backup_id: str) -> None:
    """What a cleanup leaves of it on one target: nothing, and the catalog knows."""
    site.catalog().record_copy(backup_id, "office", state="deleted", form="zstd+enc")
    shutil.rmtree(site.folder / "targets" / "office" / "erp" / "backups" / backup_id)


def _needed_segment(site: Site) -> tuple[str, Path]:
    """A base's id, and where a segment lies that it needs."""
    take_base(site).expect(0)
    row, base = latest(site)
    needed = Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size)
    office = site.folder / "targets" / "office" / "erp" / "wal"
    return row.backup_id, next(office.rglob(f"{needed.name}.zst.enc"))


class Cleaned(LocalTarget):
    """A target that a cleanup visits when the copies have been read, and before the WAL is."""

    clean: Callable[[], None] = staticmethod(lambda: None)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        if prefix == "erp/wal":
            self.clean()
        return super().list(prefix)


def test_wal_of_a_base_that_a_cleanup_deletes_meanwhile_is_not_missing(with_wal: Site) -> None:
    backup_id, segment = _needed_segment(with_wal)
    # A second base stays, or the target would count as emptied.
    take_base(with_wal, type="full").expect(0)
    office = Cleaned("office", with_wal.folder / "targets" / "office")
    office.clean = lambda: _delete_wal_until(segment) if _deleted_now(with_wal, backup_id) else None
    result = scrub(with_wal, everything=False, places={"office": office})
    assert not segment.exists() and result.found == []


def _delete_wal_until(segment: Path) -> None:
    for path in segment.parent.iterdir():
        if path.name <= segment.name:
            path.unlink()


def _deleted_now(site: Site, backup_id: str) -> bool:
    if not (site.folder / "targets" / "office" / "erp" / "backups" / backup_id).is_dir():
        return False
    _delete_base(site, backup_id)
    return True


@pytest.mark.parametrize("cut_short", [False, True])
def test_missing_wal_does_not_come_back_when_its_base_is_deleted_while_the_repair_waits(
    with_wal: Site, cut_short: bool
) -> None:
    backup_id, segment = _needed_segment(with_wal)
    settings, said, done = with_wal.settings(), list[str](), list[ScrubResult]()
    segment.unlink()
    with FileLocks(settings.lock_dir, "erp").hold("A cleanup"):
        running = threading.Thread(target=lambda: done.append(scrub(with_wal, everything=False, said=said)))
        running.start()
        wait_until(lambda: any("is worth nothing without it" in line for line in said), "the scrub to miss the segment")
        if cut_short:  # killed before the catalog was told
            erp = with_wal.folder / "targets" / "office" / "erp"
            bury(erp, backup_id, with_wal.keyring)
            (erp / "backups" / backup_id / "manifest.json").unlink()
        else:
            _delete_base(with_wal, backup_id)
    running.join()
    assert [(found.target, found.outcome) for found in done[0].found] == [("office", "gone")]
    assert not segment.exists()
