"""A scrub finds what went bad on a storage target and repairs it from another; what it cannot do it names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO

import pytest

from twist_dr.backup.from_settings import Copying, chosen_targets, plan_backup, record_sealed
from twist_dr.backup.take import ALL_PARTS, take_full_backup
from twist_dr.catalog import Catalog, CopyRow
from twist_dr.catalog.notes import Scrubbed
from twist_dr.errors import Cancelled, CopyFailed, TargetRefused, TargetUnavailable
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.retention.tombstones import Tombstone
from twist_dr.scrub.found import ScrubOrder, ScrubResult, raise_bad
from twist_dr.scrub.repairer import repairs
from twist_dr.scrub.scrub import Scrub
from twist_dr.settings import Actor
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.local import LocalTarget
from twist_dr.system.lock import FileLocks
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.conftest import make_site
from twist_dr_tests.helpers import no_thread_stays, wait_until
from twist_dr_tests.retention_site import bury
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import ROOT, Site

BOTH = ("office", "archive")
Damage = Callable[[Site], None]


def scrub(
    site: Site,
    *,
    targets: tuple[str, ...] = BOTH,
    backup: str | None = None,
    everything: bool = True,
    places: dict[str, StorageTarget] | None = None,
    said: list[str] | None = None,
    now: datetime | None = None,
    patience: float = 20,
) -> ScrubResult:
    """What the job does, in this process: the job takes a second to start."""
    app = site.app(Actor("tester@host", run_id="run"))
    app.__dict__["targets"] = {**app.targets, **(places or {})}
    app.__dict__["report"] = Report(Lines(warning=(said if said is not None else []).append))
    run = Scrub(app, app.repositories(patience), now=now)
    return run.run(ScrubOrder(targets, backup, everything))


def copies(site: Site) -> dict[str, CopyRow]:
    return {copy.target: copy for copy in site.latest().copies}


def states(site: Site) -> dict[str, str]:
    return {name: copy.state for name, copy in copies(site).items()}


def objects(site: Site, target: str = "office") -> dict[str, bytes]:
    """The latest backup on a target, byte for byte."""
    return {path.name: path.read_bytes() for path in site.stored(target).iterdir()}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def rot(path: Path) -> None:
    """Another byte, as a bad disk gives it: in this file alone, though it may be linked elsewhere."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-7])


def _manifest(site: Site) -> Path:
    return site.stored("office") / "manifest.json"


def _everything_but_one_file(site: Site) -> None:
    for path in site.stored("office").iterdir():
        if not path.name.startswith("media.tar"):
            path.unlink()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "a corrupt byte": (lambda site: rot(site.stored("office", "database.dump")), "other bytes than were recorded"),
    "a truncated artifact": (lambda site: truncate(site.stored("office", "media.tar")), "bytes where"),
    "an artifact that is gone": (lambda site: site.stored("office", "roles.sql").unlink(), "missing"),
    "an empty artifact": (lambda site: os.truncate(site.stored("office", "roles.sql"), 0), "0 bytes where"),
    "a manifest that is gone": (lambda site: _manifest(site).unlink(), "manifest.json: missing"),
    "a manifest with another byte": (lambda site: rot(_manifest(site)), "the manifest"),
    "an empty manifest": (lambda site: os.truncate(_manifest(site), 0), "is not JSON"),
    "nearly all of it": (_everything_but_one_file, "manifest.json: missing"),
}


def back_up(site: Site) -> None:
    """What backup_full does, in this process. Each target gets files of its own: hard links would share the damage."""
    app = site.app()
    targets = chosen_targets(app.settings, "all")
    plan = plan_backup(app, label="manual", reason="", parts=ALL_PARTS, targets=targets)
    manifest = take_full_backup(plan, app.cluster, app.keyring, app.staging, app.report)
    record_sealed(app, manifest, app.actor.run_id)
    copying = Copying(app, manifest)
    places = {name: (repository, targets[name]) for name, repository in app.repositories().items()}
    with app.staging.using(manifest.backup_id) as folder:
        list(copying.side_by_side(folder, places))
    copying.raise_failures()
    for target in BOTH:
        for path in site.stored(target).iterdir():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)


@pytest.fixture
def site(newest_server: PostgresServer, tmp_path: Path) -> Site:
    """A complete installation with one backup."""
    template = newest_server.base / "scrub-template"
    if not template.exists():
        template.mkdir()
        back_up(make_site(newest_server, template))
    made = make_site(newest_server, tmp_path)
    for name in ("targets", "work"):
        shutil.copytree(template / name, tmp_path / name, symlinks=True, dirs_exist_ok=True)
    shutil.copyfile(template / "keyring.yaml", made.keyring_path)
    return made


@pytest.mark.promise(2, 4)
@pytest.mark.parametrize("name", DAMAGES)
def test_what_went_bad_is_repaired_from_the_other_target_and_told(site: Site, name: str) -> None:
    damage, words = DAMAGES[name]
    good, said = objects(site), list[str]()
    damage(site)
    assert objects(site) != good
    result = scrub(site, said=said)
    raise_bad(result)
    assert objects(site) == good
    assert states(site) == {"office": "checked", "archive": "checked"}
    assert [(found.target, found.outcome) for found in result.found] == [("office", "repaired")]
    assert words in result.found[0].told
    trace = repairs(site.catalog(), "erp")
    assert [(each.backup_id, each.target) for each in trace] == [(site.latest().backup_id, "office")]
    assert words in trace[0].what and any("is repaired" in line for line in said)
    audited = [line for line in site.catalog().audit("erp") if line.action == "repair"]
    assert audited and audited[-1].subject == f"{site.latest().backup_id} on office"
    assert scrub(site).found == []


def test_a_store_without_faults_is_read_whole_and_nothing_is_told(site: Site) -> None:
    before, said = copies(site)["office"].checked_at, list[str]()
    result = scrub(site, said=said)
    assert (result.copies, result.found, result.unread, said) == (2, [], {}, [])
    assert result.bytes >= 2 * sum(len(data) for name, data in objects(site).items() if name != "manifest.json")
    after = copies(site)["office"].checked_at
    assert before is not None and after is not None and after > before
    assert repairs(site.catalog(), "erp") == ()
    assert result.oldest is not None and result.oldest < timedelta(minutes=5)


def test_when_all_copies_are_bad_nothing_is_touched_and_each_is_named(site: Site) -> None:
    for target in BOTH:
        rot(site.stored(target, "database.dump"))
    before = {target: objects(site, target) for target in BOTH}
    result = scrub(site)
    with pytest.raises(CopyFailed, match=r"is bad and was not repaired.*No other storage target can give"):
        raise_bad(result)
    assert states(site) == {"office": "corrupt", "archive": "corrupt"}
    assert "other bytes than were recorded" in (copies(site)["office"].error or "")
    assert {target: objects(site, target) for target in BOTH} == before
    assert repairs(site.catalog(), "erp") == ()


def test_two_copies_that_are_bad_in_different_places_repair_each_other(site: Site) -> None:
    good = objects(site)
    rot(site.stored("office", "database.dump"))
    rot(site.stored("archive", "media.tar"))
    raise_bad(scrub(site))
    assert objects(site, "office") == objects(site, "archive") == good
    assert len(repairs(site.catalog(), "erp")) == 2


# -- targets -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise(7)
def test_a_target_that_is_away_is_named_and_its_copies_keep_their_state(site: Site) -> None:
    rot(site.stored("archive", "database.dump"))
    office = site.folder / "targets" / "office"
    office.rename(office.with_name("away"))
    result = scrub(site)
    assert result.copies == 1 and "does not exist" in result.unread["office"]
    with pytest.raises(CopyFailed, match="office could not be read"):
        raise_bad(result)
    assert states(site) == {"office": "checked", "archive": "corrupt"}
    assert not office.exists(), "no new, empty target was made"
    office.with_name("away").rename(office)
    raise_bad(scrub(site, everything=False))
    assert states(site) == {"office": "checked", "archive": "checked"}


def test_only_a_target_that_is_away_fails_the_run_too(site: Site) -> None:
    office = site.folder / "targets" / "office"
    office.rename(office.with_name("away"))
    with pytest.raises(TargetUnavailable, match="office could not be read"):
        raise_bad(scrub(site))
    assert states(site) == {"office": "checked", "archive": "checked"}


def test_an_emptied_target_is_not_filled_for_its_disk_may_not_be_mounted(site: Site) -> None:
    office = site.folder / "targets" / "office"
    office.rename(office.with_name("away"))
    office.mkdir()
    result = scrub(site)
    assert "it held backups before and holds none now" in result.unread["office"]
    assert list(office.iterdir()) == [] and states(site)["office"] == "checked"


class Faulty(LocalTarget):
    """A folder whose disk or store does as it is told."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(name, site.folder / "targets" / name)
        self.during: Callable[[str], None] = lambda key: None
        self.locked = False

    def _open(self, key: str):  # type: ignore[no-untyped-def]
        self.during(key)
        return super()._open(key)

    def open(self, key: str) -> BinaryIO:
        return super().open(key)

    def delete(self, key: str) -> None:
        if self.locked:
            raise TargetRefused(
                f"{self.name}: {key} is locked (Object Lock) until 2027-01-01 00:00 UTC; delete it then."
            )
        super().delete(key)


def test_a_target_that_hangs_is_given_up_and_stops_no_other(site: Site) -> None:
    office = Faulty(site, "office")
    hangs = threading.Event()
    office.during = lambda key: hangs.wait(10) and None if "media.tar" in key else None
    result = scrub(site, places={"office": office}, patience=0.5)
    hangs.set()
    assert "nothing came" in result.unread["office"] and result.copies == 1
    assert states(site) == {"office": "checked", "archive": "checked"}


def test_where_the_bad_object_may_not_be_deleted_that_is_said(site: Site) -> None:
    office = Faulty(site, "office")
    office.locked = True
    rot(site.stored("office", "database.dump"))
    with pytest.raises(CopyFailed, match=r"may not be deleted, so no good one can take its place: .*Object Lock"):
        raise_bad(scrub(site, places={"office": office}))
    assert states(site)["office"] == "corrupt"


def test_a_place_that_the_disk_cannot_read_any_more_is_damage_and_no_absence(site: Site) -> None:
    office = Faulty(site, "office")

    def bad_sector(key: str) -> None:
        if "media.tar" in key:
            error = OSError(5, "Input/output error")
            raise TargetUnavailable("Input/output error", target="office") from error

    office.during = bad_sector
    result = scrub(site, places={"office": office})
    assert "the disk cannot read it any more" in result.found[0].told and result.unread == {}


# -- deletions beside it -----------------------------------------------------------------------------------------------


@pytest.mark.promise(5)
def test_a_copy_that_is_deleted_while_it_is_read_is_no_damage_and_does_not_come_back(site: Site) -> None:
    office, backup_id = Faulty(site, "office"), site.latest().backup_id
    folder = site.stored("office")

    def cleanup(key: str) -> None:
        if "media.tar" in key and folder.exists():
            for path in folder.iterdir():
                path.unlink()
            site.catalog().record_copy(backup_id, "office", state="deleted", form="zstd+enc")

    office.during = cleanup
    # Or the target would count as emptied.
    (folder.parent / "20200101T000000Z-full-0000").mkdir()
    (folder.parent / "20200101T000000Z-full-0000" / "manifest.json").write_text("{}")
    result = scrub(site, places={"office": office})
    raise_bad(result)
    assert states(site)["office"] == "deleted"
    assert list(folder.iterdir()) == []
    assert repairs(site.catalog(), "erp") == ()


@pytest.mark.promise(5)
def test_a_deletion_that_was_cut_short_is_left_to_the_next_cleanup(site: Site) -> None:
    backup_id = site.latest().backup_id
    bury(site.folder / "targets" / "office" / "erp", backup_id, site.keyring)
    _manifest(site).unlink()
    result = scrub(site)
    raise_bad(result)
    assert [found.outcome for found in result.found] == ["gone"]
    assert not _manifest(site).exists()


@pytest.mark.parametrize("written", ["{}", "another backup's", "another application's", "altered", "a link"])
def test_a_tombstone_that_others_wrote_hides_no_loss(site: Site, written: str) -> None:
    backup_id, erp = site.latest().backup_id, site.folder / "targets" / "office" / "erp"
    path = bury(erp, backup_id, site.keyring)
    sealed = path.read_text()
    if written == "{}":
        path.write_text("{}")
    elif written == "altered":
        path.write_text(sealed.replace("ops@host", "eve@host"))
    elif written == "a link":
        path.unlink()
        (site.folder / "genuine.json").write_text(sealed)
        path.symlink_to(site.folder / "genuine.json")
    else:
        document = Tombstone(backup_id, "ops@host", "old", datetime.now(timezone.utc))
        if written == "another backup's":
            document = replace(document, backup_id="20200101T000000Z-full-0000")
        path.write_bytes(document.document("erp" if "backup" in written else "shop", site.keyring.primary))
    _manifest(site).unlink()
    result = scrub(site)
    assert [found.outcome for found in result.found] == ["repaired"]
    assert _manifest(site).exists()


def test_what_others_put_among_the_copies_is_told_left_alone_and_keeps_no_copy_from_being_read(site: Site) -> None:
    victim, folder = site.folder / "victim", site.stored("office")
    victim.mkdir()
    (victim / "media.tar").write_text("somebody else's")
    (folder.parent / "20200101T000000Z-full-0000").symlink_to(victim)
    dump = next(folder.glob("database.dump*"))
    dump.unlink()
    os.mkfifo(dump)
    result = scrub(site)
    with pytest.raises(
        CopyFailed, match=r"20200101T000000Z-full-0000' is a symbolic link, .* is a named pipe; nothing there is read"
    ):
        raise_bad(result)
    assert result.copies == 2, "those of both targets"
    (found,) = result.found
    assert found.outcome == "not repaired" and "named pipe" in found.result
    assert dump.is_fifo() and (victim / "media.tar").read_text() == "somebody else's"


def test_a_copy_that_never_got_there_is_filled_in_and_one_that_nobody_has_is_only_told(site: Site) -> None:
    good, backup_id = objects(site), site.latest().backup_id
    for path in site.stored("office").iterdir():
        path.unlink()
    site.catalog().record_copy(backup_id, "office", state="failed", form="zstd+enc", error="it was down")
    result = scrub(site, targets=("office",))
    raise_bad(result)
    assert objects(site) == good and states(site)["office"] == "checked"
    for path in [*site.stored("office").iterdir(), *site.stored("archive").iterdir()]:
        path.unlink()
    site.catalog().record_copy(backup_id, "archive", state="deleted", form="zstd+enc")
    site.catalog().record_copy(backup_id, "office", state="failed", form="zstd+enc", error="it was down")
    result = scrub(site, targets=("office",))
    raise_bad(result)
    assert [found.outcome for found in result.found] == ["never stored"]
    assert states(site)["office"] == "failed"


# -- forms -------------------------------------------------------------------------------------------------------------


def test_a_target_of_another_form_can_not_help_and_that_is_said(site: Site) -> None:
    site.document["storage_targets"]["archive"] |= {"compression": "gzip"}
    site.save()
    back_up(site)
    rot(site.stored("office", "database.dump"))
    with pytest.raises(CopyFailed, match=r"archive: it holds database\.dump in another form"):
        raise_bad(scrub(site))


def test_bytes_that_are_stored_plain_can_be_had_from_any_form(site: Site) -> None:
    site.document["storage_targets"]["office"] |= {"compression": "none", "encrypt": False}
    site.save()
    back_up(site)
    good = objects(site)
    rot(site.stored("office", "database.dump"))
    raise_bad(scrub(site))
    assert objects(site) == good


# -- keys and the catalog ----------------------------------------------------------------------------------------------


def test_a_missing_key_is_named_and_no_copy_is_called_corrupt(site: Site) -> None:
    site.keyring_path.unlink()
    save_keyring(Keyring("other", {"other": new_key("other")}, "new"), site.keyring_path)
    with pytest.raises(CopyFailed, match="lacks"):
        raise_bad(scrub(site))
    assert states(site) == {"office": "checked", "archive": "checked"}


# -- killed, and beside other operations -------------------------------------------------------------------------------

KILLED = (
    "import os, signal, sys\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "from twist_dr.storage.local import LocalTarget\n"
    "from twist_dr_tests.orchestrator.jobs.test_scrub import *\n"
    "from twist_dr.settings import load_settings\n"
    "step, put, delete = sys.argv[2], LocalTarget.put, LocalTarget.delete\n"
    "def die(*a):\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
    "def deleting(self, key):\n"
    "    delete(self, key)\n"
    "    if step == 'deleted' and 'database' in key: die()\n"
    "def putting(self, source, key, digest, progress=print):\n"
    "    if step == 'put' and 'database' in key: progress = die\n"
    "    put(self, source, key, digest, progress)\n"
    "    if step == 'stored' and 'database' in key: die()\n"
    "LocalTarget.delete, LocalTarget.put = deleting, putting\n"
    "from twist_dr.settings import open_application\n"
    "app = open_application()\n"
    "Scrub(app, app.repositories(20)).run(ScrubOrder(BOTH, None, True))\n"
)


@pytest.mark.promise(8)
@pytest.mark.parametrize("step", ["deleted", "stored"])
def test_a_repair_that_is_killed_is_gone_on_with_by_the_next_scrub(site: Site, step: str) -> None:
    good = objects(site)
    rot(site.stored("office", "database.dump"))
    site.stored("office", "media.tar").unlink()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(ROOT), step],
        env={**os.environ, **site.environment},
        cwd=site.folder,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    assert states(site)["office"] == "corrupt", "nobody takes it for good meanwhile"
    raise_bad(scrub(site, everything=False))
    assert objects(site) == good and states(site)["office"] == "checked"
    assert [path.name for path in (site.folder / "work").glob("repair-*")] == []


def test_reading_needs_no_lock_and_a_repair_waits_for_the_other_operation(site: Site) -> None:
    site.set(schedules={"patience": "20 seconds"})
    good, settings = objects(site), site.settings()
    rot(site.stored("office", "database.dump"))
    result: list[ScrubResult] = []
    with FileLocks(settings.lock_dir, "erp").hold("A backup"):
        scrubbing = threading.Thread(target=lambda: result.append(scrub(site)))
        scrubbing.start()
        wait_until(lambda: states(site)["office"] == "corrupt", "the damage to be found")
        assert objects(site) != good
    scrubbing.join(30)
    raise_bad(result[0])
    assert objects(site) == good


def test_a_repair_that_waited_in_vain_says_what_was_in_the_way(site: Site) -> None:
    site.set(schedules={"patience": "1 second"})
    rot(site.stored("office", "database.dump"))
    with (
        FileLocks(site.settings().lock_dir, "erp").hold("A backup"),
        pytest.raises(CopyFailed, match="while A backup"),
    ):
        raise_bad(scrub(site))
    assert states(site)["office"] == "corrupt"


# -- the rotation, and the job -----------------------------------------------------------------------------------------


def test_the_rotation_begins_with_what_was_unread_longest_and_knows_where_it_was(site: Site) -> None:
    catalog: Catalog = site.catalog()
    now = datetime.now(timezone.utc)
    assert scrub(site, everything=False, targets=("office",)).copies == 1, "one at least"
    mark = catalog.note("erp", Scrubbed)
    assert mark is not None and set(mark.targets) == {"office"} and mark.targets["office"] >= now


def test_one_backup_by_its_id_and_one_target_by_name(site: Site) -> None:
    backup_id = site.latest().backup_id
    result = scrub(site, targets=("archive",), backup=backup_id)
    assert result.copies == 1 and site.catalog().note("erp", Scrubbed) is None


def test_the_job_repairs_and_shows_what_it_found_and_fails_when_it_cannot(site: Site) -> None:
    good = objects(site)
    rot(site.stored("office", "database.dump"))
    text = site.job("scrub", {"scrub": {"config": {"all": True}}}).expect(0).text
    assert "is repaired from archive" in text and "1 bad, 1 of them repaired" in text
    assert objects(site) == good
    site.verify(target="office").expect(0)
    for target in BOTH:
        site.stored(target, "media.tar").unlink()
    assert "was not repaired" in site.job("scrub", {"scrub": {"config": {"all": True}}}).expect(1).text
    assert (
        "no enabled storage target" in site.job("scrub", {"scrub": {"config": {"targets": "nowhere"}}}).expect(1).text
    )


def test_the_bound_of_the_settings_holds_and_an_interrupt_ends_the_wait(site: Site) -> None:
    site.set(scrub={"max_mib_per_second": 0.001})
    app = site.app()
    run = Scrub(app, app.repositories(5))
    ended: list[BaseException] = []

    def work() -> None:
        try:
            run.run(ScrubOrder(BOTH, everything=True))
        except Cancelled as error:
            ended.append(error)

    with no_thread_stays():
        scrubbing = threading.Thread(target=work)
        scrubbing.start()
        scrubbing.join(1.5)
        assert scrubbing.is_alive(), "a megabyte takes minutes, and waiting is no silence of the target"
        app.report.stop.set()
        scrubbing.join(10)
    assert len(ended) == 1 and site.catalog().note("erp", Scrubbed) is None
    assert set(states(site).values()) == {"checked"}
