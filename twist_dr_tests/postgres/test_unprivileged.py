"""Root's scratch folders lie where every user may write, and yet nobody but root decides where they lead."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from twist_dr.errors import DatabaseError
from twist_dr.postgres import unprivileged
from twist_dr.postgres.unprivileged import door_folder, may_enter, open_door, reachable_base, socket_folder

POSTGRES = pwd.getpwnam("postgres").pw_uid
NOBODY = pwd.getpwnam("nobody").pw_uid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")


@pytest.fixture
def shared(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder below a world-writable one that is made when the server's user cannot enter the one wanted."""
    open_folder.chmod(0o1777)
    folder = open_folder / "twist-dr-scratch"
    monkeypatch.setattr(unprivileged, "OPEN_TO_ALL", folder)
    return folder


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A scratch folder that the server's user cannot enter."""
    tmp_path.chmod(0o700)
    return tmp_path / "scratch"


def test_the_server_gets_a_folder_that_it_may_enter_whatever_the_umask(shared: Path, closed: Path) -> None:
    before = os.umask(0o077)
    try:
        base = reachable_base(closed, POSTGRES)
    finally:
        os.umask(before)
    assert base.parent == shared and may_enter(base, POSTGRES)
    assert (shared.stat().st_mode & 0o777, base.stat().st_mode & 0o777) == (0o711, 0o711)
    assert reachable_base(closed, POSTGRES) == base


def test_a_shared_folder_that_another_user_made_first_is_refused(shared: Path, closed: Path) -> None:
    shared.mkdir()
    os.chown(shared, NOBODY, -1)
    with pytest.raises(DatabaseError, match=f"{shared} belongs to another user"):
        reachable_base(closed, POSTGRES)
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("level", ["shared", "base"])
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_a_link_in_the_way_is_refused_and_where_it_leads_stays_as_it_was(
    shared: Path, closed: Path, tmp_path: Path, level: str, owner: int
) -> None:
    base = reachable_base(closed, POSTGRES)
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    base.rmdir()
    place = base
    if level == "shared":
        shared.rmdir()
        place = shared
    place.symlink_to(victim)
    os.chown(place, owner, -1, follow_symlinks=False)
    with pytest.raises(DatabaseError, match="is a link"):
        reachable_base(closed, POSTGRES)
    assert victim.stat().st_mode & 0o777 == 0o700 and list(victim.iterdir()) == []


def test_a_scratch_folder_of_the_settings_may_be_a_link_of_ours_but_of_nobody_else(open_folder: Path) -> None:
    disk, wanted = open_folder / "disk", open_folder / "scratch"
    disk.mkdir(mode=0o711)
    wanted.symlink_to(disk)
    assert reachable_base(wanted, POSTGRES) == wanted
    os.chown(wanted, NOBODY, -1, follow_symlinks=False)
    with pytest.raises(DatabaseError, match="belongs to another user"):
        reachable_base(wanted, POSTGRES)


def test_a_server_that_ends_while_its_door_is_made_leaves_none(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that asks for larger settings at its start: the next one gets its door."""
    folder = open_folder / "recovery"
    socket = socket_folder(folder) / ".s.PGSQL.5432"
    socket.parent.mkdir(parents=True)
    socket.touch()
    link = os.link

    def ended_before(source: Path, name: Path, **how: bool) -> None:
        source.unlink()
        link(source, name, **how)

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", ended_before)
        assert not open_door(folder, 5432)
    assert not door_folder(folder).exists() and not open_door(folder, 5432)
    socket.touch()
    assert open_door(folder, 5432) and (door_folder(folder) / socket.name).exists()
