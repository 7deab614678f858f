"""A data folder is left on a recovery host with which pg_ctl starts exactly what was planned, and nothing of the old server's."""

from __future__ import annotations

from pathlib import Path

import pytest

from twist_dr.errors import RecoveryFailed
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.recovery.finish import finish_cluster, leave_for_pg_ctl
from twist_dr.recovery.planning import PlannedRecovery
from twist_dr.recovery.untar import Owner
from twist_dr.system.processes import run
from twist_dr.system.progress import Report
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.recovery.world import Base, World, archives_of
from twist_dr_tests.servers import free_port


def test_a_finished_cluster_starts_with_pg_ctl_and_has_the_planned_rows(world: World, open_folder: Path) -> None:
    world.primary.sql("ALTER SYSTEM SET archive_command = 'touch /nowhere/%f'")
    world.primary.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
    world.primary.sql("ALTER SYSTEM SET work_mem = '7MB'")
    base = Base(world.primary, f"settings-{open_folder.name}")
    world.primary.sql("ALTER SYSTEM RESET ALL")
    world.primary.write(10)
    point = world.primary.mark()
    world.primary.write(1)
    world.primary.archived()
    plan = world.plan_from([base], point)
    folder = open_folder / "new home"
    found = finish_cluster(
        PlannedRecovery(plan, archives_of(world.primary), world.tools, KEYRING, Report()),
        [base],
        folder,
        open_folder / "scratch",
    )
    assert any("Archiving is off" in note for note in found.notes)
    assert sorted(path.name for path in folder.iterdir()) == ["data"]
    assert not list(found.data.glob("*.signal"))
    started = started_by_pg_ctl(world, found.data, open_folder)
    user, group = unprivileged()
    try:
        psql = [
            world.tools.program("psql"), "-h", open_folder / "s", "-p", str(started), "-U", "postgres", "-At",
            "-c", "SELECT count(*) FROM log; SHOW archive_mode; SHOW archive_command; SHOW work_mem",
        ]  # fmt: skip
        said = run(psql, environment={"PGPASSWORD": world.primary.password}).decode().split("\n")
        assert said[:4] == [str(point.rows), "off", "(disabled)", "7MB"]
    finally:
        run(
            [world.tools.program("pg_ctl"), "stop", "-D", found.data, "-m", "fast"],
            user=user,
            group=group,
            folder=found.data,
        )


def started_by_pg_ctl(world: World, data: Path, folder: Path) -> int:
    """The port of a server that pg_ctl started."""
    user, group = unprivileged()
    from twist_dr.recovery.untar import Owner

    Owner(user, group).make_folder(folder / "s")
    port = free_port()
    options = f"-p {port} -c listen_addresses= -c unix_socket_directories={folder / 's'}"
    log = folder / "s" / "log"
    run(
        [world.tools.program("pg_ctl"), "start", "-w", "-D", data, "-l", log, "-o", options],
        user=user, group=group, folder=data,
    )  # fmt: skip
    return port


def test_a_folder_that_holds_something_is_left_alone(newest_world: World, open_folder: Path) -> None:
    (open_folder / "used").mkdir()
    (open_folder / "used" / "precious").touch()
    world = newest_world
    with pytest.raises(RecoveryFailed, match="not empty"):
        finish_cluster(PlannedRecovery(world.plan(), archives_of(world.primary), world.tools, KEYRING, Report()), [world.base], open_folder / "used", open_folder / "scratch")  # fmt: skip
    assert (open_folder / "used" / "precious").exists()


@pytest.mark.parametrize("name", ["postgresql.conf", "postgresql.auto.conf.base"])
def test_a_link_that_code_of_the_database_left_gives_its_settings_nothing_of_ours(tmp_path: Path, name: str) -> None:
    secret, data = tmp_path / "shadow", tmp_path / "data"
    secret.write_text("include = 'root:$6$hash'\n")
    data.mkdir()
    (data / name).symlink_to(secret)
    with pytest.raises(RecoveryFailed, match=name):
        leave_for_pg_ctl(data, {}, Owner())
    assert not [path for path in data.iterdir() if not path.is_symlink() and "hash" in path.read_text()]


def test_a_link_put_there_while_settings_are_written_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that code of the database left behind can do so where nothing but its user confines it."""
    data, ours = tmp_path / "data", tmp_path / "ours"
    data.mkdir()
    ours.write_text("ours")
    user, group = unprivileged()
    unlink = Path.unlink

    def exchanged(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        path.symlink_to(ours)

    with monkeypatch.context() as patch, pytest.raises(FileExistsError):
        patch.setattr(Path, "unlink", exchanged)
        leave_for_pg_ctl(data, {}, Owner(user, group))
    assert ours.read_text() == "ours"
    assert ours.stat().st_uid == tmp_path.stat().st_uid
