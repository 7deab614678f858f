"""Two folders change places whole, and a crash at any instant leaves what one call finishes or reverts."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import twist_dr.restore.exchange as exchange_module
from twist_dr.errors import CutoverFailed, RestoreInterrupted
from twist_dr.restore.exchange import Identity, check_exchangeable, exchange, identity, settle_exchange
from twist_dr.system.mounts import mounts_within
from twist_dr_tests.helpers import AS_USER, NOBODY, python, said_by_python
from twist_dr_tests.storage.conftest import mounted_tmpfs

#: The kernel refuses it as it refuses RENAME_EXCHANGE on a file system that lacks it.
_UNKNOWN_FLAG = 1 << 30
ALL_RENAMES = 3


class Media:
    """A live folder, a prepared one beside it, and the name for a moment."""

    def __init__(self, base: Path) -> None:
        self.live, self.prepared, self.aside = base / "media", base / ".media.restore", base / ".media.aside"
        self.names = (self.live, self.prepared, self.aside)
        for folder, said in ((self.live, "old"), (self.prepared, "new")):
            folder.mkdir(parents=True)
            (folder / "said").write_text(said)
        self.old, self.new = self._identity(self.live), self._identity(self.prepared)

    @staticmethod
    def _identity(folder: Path) -> Identity:
        found = identity(folder)
        assert found is not None
        return found

    def state(self) -> tuple[str | None, ...]:
        """What the three folders say."""
        return tuple((name / "said").read_text() if name.is_dir() else None for name in self.names)


@pytest.fixture
def media(tmp_path: Path) -> Media:
    return Media(tmp_path)


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that cannot exchange names at once."""
    monkeypatch.setattr(exchange_module, "_RENAME_EXCHANGE", _UNKNOWN_FLAG)


@pytest.fixture(params=["at once", "in turn"])
def any_way(request: pytest.FixtureRequest) -> None:
    if request.param == "in turn":
        request.getfixturevalue("in_turn")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_tmpfs(tmp_path / "disk", "size=1m") as folder:
        yield folder


#: Calls a function of the module, and kills itself before its n-th rename.
_KILLED = (
    "import os, signal, sys\n"
    "from pathlib import Path\n"
    "import twist_dr.restore.exchange as module\n"
    f"module._RENAME_EXCHANGE = {_UNKNOWN_FLAG}\n"
    "rename, left = os.rename, [int(sys.argv[1])]\n"
    "def counted(old, new):\n"
    "    if left[0] == 0:\n"
    "        os.kill(os.getpid(), signal.SIGKILL)\n"
    "    left[0] -= 1\n"
    "    rename(old, new)\n"
    "os.rename = counted\n"
    "live, prepared, aside = map(Path, sys.argv[2:5])\n"
)


def killed_after(renames: int, media: Media, wanted: Identity | None = None) -> None:
    """An exchange or, with ``wanted``, its settling, in a process that dies by kill -9 after so many renames."""
    call = (
        "module.exchange(live, prepared, aside=aside)"
        if wanted is None
        else f"module.settle_exchange(live, prepared, aside, {wanted})"
    )
    with python(_KILLED + call, renames, *media.names) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL), said


def test_the_folders_change_places_and_back(media: Media, any_way: None) -> None:
    exchange(media.live, media.prepared, aside=media.aside)
    assert media.state() == ("new", "old", None)
    assert (identity(media.live), identity(media.prepared), identity(media.aside)) == (media.new, media.old, None)
    exchange(media.live, media.prepared, aside=media.aside)
    assert media.state() == ("old", "new", None)


def test_where_the_file_system_can_nobody_ever_finds_the_live_path_empty(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "rename")
    exchange(media.live, media.prepared, aside=media.aside)
    assert media.state() == ("new", "old", None)


def test_a_live_path_that_is_a_link_stays_one_and_the_folder_behind_it_is_exchanged(
    media: Media, tmp_path: Path, any_way: None
) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(media.live)
    assert check_exchangeable(link) is None and identity(link) == media.old
    exchange(link, media.prepared, aside=media.aside)
    assert media.state() == ("new", "old", None) and os.readlink(link) == str(media.live)
    assert settle_exchange(link, media.prepared, media.aside, media.old)
    assert media.state() == ("old", "new", None) and os.readlink(link) == str(media.live)
    _leave_as_after(1, media)
    assert identity(link) is None
    assert settle_exchange(link, media.prepared, media.aside, media.new)
    assert media.state() == ("new", "old", None) and os.readlink(link) == str(media.live)


@pytest.mark.promise(3)
@pytest.mark.parametrize("renames", range(ALL_RENAMES + 1))
@pytest.mark.parametrize("outcome", ["finished", "reverted"])
def test_killed_between_any_two_renames_one_call_finishes_or_reverts_it(
    media: Media, renames: int, outcome: str
) -> None:
    killed_after(renames, media)
    seen = media.state()
    assert seen == [("old", "new", None), (None, "new", "old"), ("new", None, "old"), ("new", "old", None)][renames]
    wanted, then = (media.new, ("new", "old", None)) if outcome == "finished" else (media.old, ("old", "new", None))
    assert settle_exchange(*media.names, wanted) is (seen != then)
    assert media.state() == then
    assert not settle_exchange(*media.names, wanted)
    assert media.state() == then


@pytest.mark.parametrize("renames", range(ALL_RENAMES + 1))
def test_settling_that_is_itself_killed_anywhere_is_settled_by_the_next(tmp_path: Path, renames: int) -> None:
    for more, first, last in itertools.product((1, 2), ("old", "new"), ("old", "new")):
        media = Media(tmp_path / f"{more} {first} {last}")
        wanted = {"old": media.old, "new": media.new}
        _leave_as_after(renames, media)
        killed_after(more, media, wanted[first])
        settle_exchange(*media.names, wanted[last])
        assert media.state() == (last, _other(last), None)


def _other(said: str) -> str:
    return "old" if said == "new" else "new"


def _leave_as_after(renames: int, media: Media) -> None:
    steps = [(media.live, media.aside), (media.prepared, media.live), (media.aside, media.prepared)]
    for old, new in steps[:renames]:
        old.rename(new)


@pytest.mark.parametrize("wanted", ["old", "new"])
def test_an_empty_folder_that_the_application_made_in_the_gap_is_no_obstacle(media: Media, wanted: str) -> None:
    _leave_as_after(1, media)
    media.live.mkdir()
    assert settle_exchange(*media.names, {"old": media.old, "new": media.new}[wanted])
    assert media.state() == (wanted, _other(wanted), None)


@pytest.mark.parametrize("wanted", ["old", "new"])
def test_files_that_the_application_wrote_in_the_gap_are_kept_and_a_person_is_told(media: Media, wanted: str) -> None:
    _leave_as_after(1, media)
    media.live.mkdir()
    (media.live / "said").write_text("an upload")
    with pytest.raises(RestoreInterrupted, match=f"{media.aside}: inode {media.old[1]}.*move the others away"):
        settle_exchange(*media.names, {"old": media.old, "new": media.new}[wanted])
    assert media.state() == ("an upload", "new", "old")


def test_without_the_wanted_folder_nothing_is_touched_and_it_is_said_what_lies_where(media: Media) -> None:
    gone = (media.old[0], 1)
    with pytest.raises(
        RestoreInterrupted, match=rf"belongs at {media.live} \(inode 1\).*{media.live}: inode {media.old[1]}.*nothing"
    ):
        settle_exchange(*media.names, gone)
    assert media.state() == ("old", "new", None)


def test_after_a_restart_the_disk_may_bear_another_number(media: Media) -> None:
    assert settle_exchange(*media.names, (media.new[0] + 1, media.new[1]))
    assert media.state() == ("new", "old", None)


def test_a_rename_that_fails_in_the_middle_is_taken_back(media: Media, disk: Path, in_turn: None) -> None:
    elsewhere = disk / "restored"
    elsewhere.mkdir()
    with pytest.raises(CutoverFailed, match=r"[Cc]ross-device.*both are where they were"):
        exchange(media.live, elsewhere, aside=media.aside)
    assert media.state() == ("old", "new", None) and elsewhere.is_dir()


def test_an_interruption_right_after_a_rename_is_taken_back_too(
    media: Media, in_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, interrupted = os.rename, []

    def interrupting(old: Path, new: Path) -> None:
        rename(old, new)
        if new == media.live and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupting)
    with pytest.raises(KeyboardInterrupt):
        exchange(media.live, media.prepared, aside=media.aside)
    assert media.state() == ("old", "new", None)


def test_when_not_even_taking_back_is_possible_the_error_says_what_lies_where(
    media: Media, in_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def with_an_upload_in_the_gap(old: Path, new: Path) -> None:
        rename(old, new)
        if new == media.aside:
            media.live.mkdir()
            (media.live / "said").write_text("an upload")

    monkeypatch.setattr(os, "rename", with_an_upload_in_the_gap)
    with pytest.raises(RestoreInterrupted, match=f"{media.aside}: inode {media.old[1]}"):
        exchange(media.live, media.prepared, aside=media.aside)
    assert media.state() == ("an upload", "new", "old")


def test_a_name_that_is_taken_stops_it_before_it_begins(media: Media, any_way: None) -> None:
    media.aside.mkdir()
    with pytest.raises(CutoverFailed, match=f"{media.aside}.* is taken"):
        exchange(media.live, media.prepared, aside=media.aside)
    assert (identity(media.live), identity(media.prepared)) == (media.old, media.new)


def test_a_mount_point_cannot_be_exchanged_and_is_named_beforehand(
    media: Media, tmp_path: Path, disk: Path, any_way: None
) -> None:
    assert "is a mount point" in (check_exchangeable(disk) or "")
    link = tmp_path / "link"
    link.symlink_to(disk)
    assert f"{link} ({disk}) is a mount point" in (check_exchangeable(link) or "")
    with pytest.raises(CutoverFailed, match="both are where they were"):
        exchange(disk, media.prepared, aside=media.aside)
    assert media.state() == ("old", "new", None) and os.path.ismount(disk)


def test_a_folder_bound_to_another_place_of_the_same_disk_is_a_mount_point_too(media: Media, tmp_path: Path) -> None:
    bound = tmp_path / "bound with\tspace"
    bound.mkdir()
    subprocess.run(["mount", "--bind", media.live, bound], check=True)
    try:
        assert mounts_within(tmp_path) == [bound]
        assert "is a mount point" in (check_exchangeable(bound) or "")
    finally:
        subprocess.run(["umount", "--lazy", bound], check=True)
    assert check_exchangeable(bound) is None


def test_a_file_system_mounted_below_would_go_away_with_the_replaced_folder(media: Media) -> None:
    with mounted_tmpfs(media.live / "large", "size=1m") as folder:
        assert f"mounted in it, at {folder}" in (check_exchangeable(media.live) or "")


def test_what_is_no_folder_is_named(media: Media, tmp_path: Path) -> None:
    assert check_exchangeable(media.live) is None
    assert "is not there" in (check_exchangeable(tmp_path / "missing") or "")
    assert "is not a folder" in (check_exchangeable(media.live / "said") or "")
    assert identity(tmp_path / "missing") is None and identity(media.live / "said" / "below") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_may_not_rename_in_the_folder_above_is_told_so(open_folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom twist_dr.restore.exchange import check_exchangeable\n"
        + AS_USER.format(NOBODY)
        + "print(check_exchangeable(Path(sys.argv[1])))"
    )
    live = open_folder / "media"
    live.mkdir()
    refused = f"(uid {NOBODY}) may not rename folders in {open_folder}"
    open_folder.chmod(0o755)
    assert refused in said_by_python(code, live)
    open_folder.chmod(0o1777)
    assert refused in said_by_python(code, live)
    open_folder.chmod(0o777)
    assert said_by_python(code, live) == "None"
    os.chown(live, NOBODY, NOBODY)
    open_folder.chmod(0o1777)
    assert said_by_python(code, live) == "None"
