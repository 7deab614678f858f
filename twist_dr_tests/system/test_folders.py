"""Removing what a restore made or kept: all of it, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from twist_dr.errors import RestoreError
from twist_dr.system.folders import remove_tree
from twist_dr_tests.helpers import AS_USER, NOBODY, said_by_python
from twist_dr_tests.repository.test_unpack import only_root
from twist_dr_tests.storage.conftest import mounted_tmpfs


def test_removing_follows_no_link_and_takes_what_is_gone_for_done(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "link").symlink_to(precious)
    (folder / "link").symlink_to(precious / "file")
    (tmp_path / "top link").symlink_to(precious)
    for name in ("folder", "folder", "never there", "top link"):
        remove_tree(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"] and (precious / "file").read_text() == "x"


def test_a_file_system_mounted_in_the_folder_is_not_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("x")
    with mounted_tmpfs(folder / "disk", "size=1m") as disk:
        (disk / "precious").write_text("x")
        with pytest.raises(RestoreError, match=f"mounted there \\({disk}\\)"):
            remove_tree(folder)
        assert (disk / "precious").exists() and (folder / "file").exists()


@only_root
def test_an_ordinary_user_removes_folders_of_every_mode(open_folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom twist_dr.system.folders import remove_tree\n"
        + AS_USER.format(NOBODY)
        + "top = Path(sys.argv[1]) / 'top'\ntop.mkdir()\n"
        "for mode in (0o000, 0o100, 0o300, 0o400, 0o500):\n"
        "    folder = top / oct(mode)\n    folder.mkdir()\n    (folder / 'file').touch()\n    folder.chmod(mode)\n"
        "top.chmod(0o500)\nremove_tree(top)\nprint(top.exists())"
    )
    open_folder.chmod(0o777)
    assert said_by_python(code, open_folder) == "False"
