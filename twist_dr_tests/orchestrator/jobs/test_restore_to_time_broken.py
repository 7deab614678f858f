"""What goes wrong in the middle of a recovery leaves the live system as it was, says what it is, and is cleared by the next one."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from twist_dr.postgres.lsn import parse_lsn
from twist_dr.postgres.unprivileged import reachable_base, unprivileged
from twist_dr.restore.to_time import sandbox_base
from twist_dr.wal.names import Segment
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.orchestrator.jobs.test_restore_to_time import Recorded, _record, _recover
from twist_dr_tests.site import Site


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A recorded site, on the newest server."""
    yield from _record(max(TOOLS), tmp_path_factory.mktemp("broken"), rows=30)


def _processes_in(folder: Path) -> list[int]:
    """Processes that work below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _kill_when(site: Site, begun: Callable[[], bool], **config: object) -> None:
    """Launch a recovery, and kill it as soon as it has come so far."""
    process = site.start("restore_to_time", {"restore_to_time": {"config": config}})
    deadline = time.monotonic() + 90
    while not begun():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _scratch(site: Site) -> Path:
    return reachable_base(site.settings().scratch_dir, unprivileged()[0])


def test_a_sandbox_whose_making_was_killed_is_cleared_by_the_next_recovery(recorded: Recorded) -> None:
    site = recorded.site
    base = sandbox_base(site.settings())
    _kill_when(site, lambda: any(base.glob("*/data/pg_wal")), mode="sandbox", reason="killed")
    wait_until(lambda: not _processes_in(base), "the killed recovery's server to end")
    (left,) = base.glob("*")
    assert "no sandboxes" in site.cli("sandboxes").expect(0).text
    outcome = _recover(site, mode="sandbox", reason="again").expect(0)
    assert not left.exists()
    (name,) = [path.name for path in base.glob("*")]
    assert name in outcome.text
    site.cli("sandboxes", "remove", name).expect(0)
    assert not list(base.glob("*"))


def test_a_replacement_that_was_killed_while_it_dumped_leaves_what_is_live_and_the_next_clears_it(
    recorded: Recorded,
) -> None:
    site, before = recorded.site, recorded.site.databases()
    work = site.settings().work_dir
    to = f"xid:{recorded.written[-10].xid}"
    _kill_when(
        site, lambda: any(work.glob("recovered-*/erp/backups/*/*")), to=to, mode="replace", reason="killed", confirm="erp",
        pre_restore_backup=False,
    )  # fmt: skip
    wait_until(lambda: not _processes_in(_scratch(site)), "the killed recovery's server to end")
    assert site.databases() == before
    assert site.query("SELECT max(number) FROM numbered") == [(recorded.written[-1].number,)]
    assert list(work.glob("recovered-*")) and list(_scratch(site).glob("recovery-*"))
    # Anything but a plan clears; a refused one too.
    _recover(site, to="xid:4000000000", mode="sandbox", reason="again").expect(1)
    assert not list(work.glob("recovered-*")) and not list(_scratch(site).glob("recovery-*"))


@pytest.mark.usefixtures("as_commands")
def test_a_sandbox_whose_server_died_is_listed_as_stopped_and_can_be_started_and_removed(recorded: Recorded) -> None:
    site = recorded.site
    # As in a container whose process 1 reaps nothing: what the sandbox leaves behind falls to us, and we leave it dead.
    with _reaper_that_reaps_nothing():
        _recover(site, mode="sandbox", reason="to look").expect(0)
        (folder,) = sandbox_base(site.settings()).glob("*")
        _kill_server(folder)
        assert "stopped" in site.command("sandboxes").expect(0).text
        site.command("sandboxes", "start", folder.name).expect(0)
        assert "runs" in site.command("sandboxes").expect(0).text
        _kill_server(folder)
        site.command("sandboxes", "remove", folder.name).expect(0)
    assert not folder.exists()


@contextmanager
def _reaper_that_reaps_nothing() -> Iterator[None]:
    libc, pr_set_child_subreaper = ctypes.CDLL(None), 36
    assert libc.prctl(pr_set_child_subreaper, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        assert libc.prctl(pr_set_child_subreaper, 0, 0, 0, 0) == 0
        for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if "postgres" in Path(f"/proc/{child}/comm").read_text():
                os.waitpid(int(child), os.WNOHANG)


def _kill_server(sandbox: Path) -> None:
    process = int((sandbox / "data" / "postmaster.pid").read_text().split("\n")[0])
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: not _processes_in(sandbox), "the server to be gone")
    assert Path(f"/proc/{process}").exists()


@contextmanager
def _damaged(site: Site, name: str, *targets: str) -> Iterator[None]:
    """An object of that name has another byte in its middle, on these targets."""
    kept = {}
    for target in targets:
        (path,) = (site.folder / "targets" / target).rglob(f"{name}*")
        kept[path] = data = path.read_bytes()
        damaged = bytearray(data)
        damaged[len(data) // 2] ^= 1
        path.unlink()
        path.write_bytes(damaged)
    try:
        yield
    finally:
        for path, data in kept.items():
            path.unlink()
            path.write_bytes(data)


def _segment_of_newest_base(site: Site) -> str:
    """The segment in which replay of the newest base backup begins."""
    (row, *_) = sorted(
        site.catalog().backups(application="erp", kind="base"), key=lambda row: row.backup_id, reverse=True
    )
    sealed = site.catalog().backup("erp", row.backup_id)
    assert sealed is not None and sealed.manifest.base is not None
    base = sealed.manifest.base
    return Segment.holding(base.timeline, parse_lsn(base.start_lsn), base.wal_segment_size).name


def test_a_segment_that_is_bad_on_one_target_is_passed_over_and_the_log_says_so(recorded: Recorded) -> None:
    site, name = recorded.site, _segment_of_newest_base(recorded.site)
    with _damaged(site, name, "office"):
        _recover(site, mode="sandbox", reason="one is bad").expect(0)
    (row, *_) = site.catalog().restores("erp")
    assert any(line.startswith("office: ") and name in line for line in row.passed_over), row.passed_over
    site.cli("sandboxes", "remove", row.restore_id).expect(0)


@pytest.mark.parametrize("mode", ["sandbox", "replace"])
def test_a_segment_that_is_bad_everywhere_is_named_and_nothing_is_left(recorded: Recorded, mode: str) -> None:
    site, name, before = recorded.site, _segment_of_newest_base(recorded.site), recorded.site.databases()
    with _damaged(site, name, "office", "archive"):
        outcome = _recover(site, mode=mode, reason="both are bad", confirm="erp", pre_restore_backup=False).expect(1)
    assert name in outcome.text
    assert site.databases() == before
    assert not list(sandbox_base(site.settings()).glob("*")) and not list(_scratch(site).glob("recovery-*"))
    assert not list(site.settings().work_dir.glob("recovered-*"))


def test_the_latest_state_is_refused_while_a_target_is_down_until_somebody_names_the_other(recorded: Recorded) -> None:
    site, before = recorded.site, recorded.site.databases()
    office = site.folder / "targets" / "office"
    office.rename(office.with_name("unmounted"))
    try:
        outcome = _recover(site, mode="replace", reason="one is down", confirm="erp", pre_restore_backup=False).expect(
            1
        )
        assert "name in source the one to recover from" in outcome.text
        assert "office could not be listed and may hold more" in outcome.text
        _recover(site, source="archive").expect(0)
    finally:
        office.with_name("unmounted").rename(office)
    assert site.databases() == before


def test_a_base_backup_that_is_bad_on_one_target_is_verified_from_the_next(recorded: Recorded) -> None:
    site = recorded.site
    (row, *_) = sorted(
        site.catalog().backups(application="erp", kind="base"), key=lambda row: row.backup_id, reverse=True
    )
    with _damaged(site, f"{row.backup_id}/base.tar", "office"):
        outcome = site.verify(backup="latest-base").expect(1)
    assert f"{row.backup_id} is verified from archive, but its copy on office is bad" in outcome.text


def test_a_disk_that_fills_up_in_the_middle_is_named_and_nothing_is_left(recorded: Recorded, open_folder: Path) -> None:
    site, disk = recorded.site, open_folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900m,mode=0755", "tmpfs", disk], check=True)
    try:
        site.set(verification={"scratch": str(disk / "scratch")})
        base = _scratch(site)
        config = {"mode": "replace", "reason": "full", "confirm": "erp", "pre_restore_backup": False}
        process = site.start("restore_to_time", {"restore_to_time": {"config": config}})
        wait_until(lambda: any(base.glob("recovery-*/*")) or process.poll() is not None, "the recovery to begin", 60)
        with (disk / "filler").open("wb") as filler:
            for step in (64 << 20, 1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), step)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 1, text[-3000:]
        assert "No space left" in text or "is full" in text or "are free" in text, text[-3000:]
        assert not list(base.glob("recovery-*"))
        assert site.query("SELECT max(number) FROM numbered") == [(recorded.written[-1].number,)]
    finally:
        site.set(verification={})
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_port_in_use_and_a_folder_that_depends_on_where_one_is_are_refused_before_anything_begins(
    recorded: Recorded,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = _recover(recorded.site, mode="sandbox", reason="test", port=port).expect(1)
    assert f"The port {port} on 127.0.0.1 cannot be had" in outcome.text
    outcome = _recover(recorded.site, mode="cluster", reason="test", folder="recovered").expect(1)
    assert "recovered is no whole path" in outcome.text
