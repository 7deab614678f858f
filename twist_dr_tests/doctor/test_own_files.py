"""The files of this machine that a storage target reads: what the doctor says of them before a transfer would fail, or somebody else reads along."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from twist_dr.doctor.findings import DoctorFinding
from twist_dr.doctor.targets import check_own_files
from twist_dr.storage.options import TargetOptions, providers


class KeyOptions(TargetOptions):
    type: Literal["key"] = "key"
    key: Path
    known: Path

    @property
    def secret_files(self) -> tuple[Path, ...]:
        return (self.key,)

    @property
    def trusted_files(self) -> tuple[Path, ...]:
        return (self.known,)


def examine(folder: Path) -> tuple[list[DoctorFinding], bool]:
    findings, checking = [], check_own_files("office", KeyOptions(key=folder / "key", known=folder / "known_hosts"))
    while True:
        try:
            findings.append(next(checking))
        except StopIteration as end:
            return findings, end.value


def test_files_that_are_there_and_ours_alone_are_not_spoken_of(tmp_path: Path) -> None:
    for name, mode in (("key", 0o600), ("known_hosts", 0o644)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    assert examine(tmp_path) == ([], True)


def test_a_secret_that_others_may_read_and_a_list_of_hosts_that_they_may_change_are_problems(tmp_path: Path) -> None:
    for name, mode in (("key", 0o640), ("known_hosts", 0o666)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    (key, known), usable = examine(tmp_path)
    assert usable, "it can be tried all the same"
    assert (key.check, key.status, key.remedy) == ("target office", "problem", f"chmod 600 {tmp_path / 'key'}")
    assert "others may read it (mode 0640)" in key.found
    assert (known.status, known.remedy) == ("problem", f"chmod go-w {tmp_path / 'known_hosts'}")


def test_a_file_that_is_not_there_is_told_by_its_path_and_the_target_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x")
    (tmp_path / "key").chmod(0o600)
    (known,), usable = examine(tmp_path)
    assert not usable
    assert known.found == f"there is no file {tmp_path / 'known_hosts'} that this user may read"


def test_every_file_that_a_kind_of_target_reads_is_looked_at() -> None:
    for kind, provider in providers().items():
        # The folders are the target itself.
        files = {
            name: Path(f"/{kind}/{name}")
            for name, field in provider.model_fields.items()
            if "Path" in f"{field.annotation}{field.metadata}" and name not in ("path", "mount_point")
        }
        options = provider.model_construct(type=kind, **files)
        looked_at = {*options.secret_files, *options.trusted_files}
        assert looked_at == set(files.values()), f"{kind} reads {files}"
