"""Storage targets that compress at levels of their own: those that agree share the bytes, none changes another's, each copy is read back."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from twist_dr.backup.storing import bring_back, store_copy
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.artifact_names import is_stored_name
from twist_dr.repository.manifest import Artifact, ArtifactForm, Manifest
from twist_dr.repository.repository import Repository, form_named
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form, recorded
from twist_dr.settings.targets import AnyTarget, TargetSettings
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Report
from twist_dr.wal.objects import WalArchive
from twist_dr.wal.packing import file_chunks, pack
from twist_dr_tests.helpers import KEY, KEYRING

#: As the settings have them, by target.
WANTED = {"office": "zstd:1", "cold": "zstd:19", "colder": "zstd:19", "old": "gzip:6"}
#: The forms that 0.1.0 knows.
OF_010 = {"zstd", "gzip", "none", "zstd+enc", "gzip+enc", "none+enc"}


def target_of(compression: object, *, encrypt: bool = True) -> TargetSettings:
    value = {"type": "local", "path": "/backups", "compression": compression, "encrypt": encrypt}
    adapter: TypeAdapter[TargetSettings] = TypeAdapter(AnyTarget)
    return adapter.validate_python(value, context={"folder": "/"})


def taken(folder: Path, targets: dict[str, Form]) -> tuple[Manifest, StagingArea]:
    """A full backup of media alone that compress well, and the better the harder it is tried."""
    media = folder / "media"
    media.mkdir()
    words = [f"{number:x}" for number in random.Random(1).sample(range(10**6), 3000)]
    (media / "words").write_text(" ".join(random.Random(2).choices(words, k=60_000)))
    staging = StagingArea(folder / "staging" / "erp")
    plan = BackupPlan(application="erp", targets=targets, parts=("media",), media={"uploads": media})
    return take_full_backup(
        plan, Cluster("postgresql://nobody@127.0.0.1:1/nothing"), KEYRING, staging, Report()
    ), staging


def test_targets_of_one_level_share_the_bytes_and_no_level_changes_another_targets(tmp_path: Path) -> None:
    forms = {name: target_of(compression).form_beside(3) for name, compression in WANTED.items()}
    manifest, staging = taken(tmp_path, forms)
    folder = staging.folder(manifest.backup_id)
    tar = manifest.artifact("media.tar")
    assert tar is not None
    stored = {name: tar.in_form(form) for name, form in forms.items()}
    assert stored["cold"] == stored["colder"] != stored["office"]
    assert len({each.name for each in stored.values() if each}) == 3, "two forms lie in one file"
    assert len(list(folder.glob("media.tar*"))) == 3
    sizes = {name: each.size for name, each in stored.items() if each}
    assert sizes["cold"] < sizes["office"]
    for name, form in forms.items():
        repository = Repository(LocalTarget(name, tmp_path / name), "erp")
        copy = store_copy(manifest, folder, repository, form, Report())
        assert (copy.form.name, manifest.storage_targets[name]) == (f"{WANTED[name]}+enc",) * 2
        here = repository.manifest(manifest.backup_id, KEYRING)
        assert {each.size for _, each in repository.held(here).values()} >= {sizes[name]}
        for artifact in here.artifacts:
            assert sum(map(len, repository.read(here, artifact.name, KEYRING))) == artifact.size
        assert all(is_stored_name(path.name) for path in (tmp_path / name).rglob("*") if path.is_file())
        # From each it can be copied on to another one.
        again = StagingArea(tmp_path / f"again-{name}" / "erp")
        bring_back(here, repository, again, KEYRING, Report())
        store_copy(
            here,
            again.folder(here.backup_id),
            Repository(LocalTarget("x", tmp_path / f"x-{name}"), "erp"),
            form,
            Report(),
        )


@pytest.mark.parametrize("level", ["zstd:9", "gzip:6"])
def test_a_backup_of_one_level_is_one_that_version_010_reads(tmp_path: Path, level: str) -> None:
    forms = {"office": target_of(level).form_beside(3), "bare": target_of(level, encrypt=False).form_beside(3)}
    manifest, staging = taken(tmp_path, forms)
    document = json.loads(staging.sealed_bytes(manifest.backup_id))
    assert document["format_version"].startswith("1.")
    for artifact in document["artifacts"]:
        assert artifact["stored"].keys() <= OF_010
        assert all(each["name"] in (f"{artifact['name']}{end}" for end in (".zst", ".zst.enc", ".gz", ".gz.enc"))
                   for each in artifact["stored"].values())  # fmt: skip


def test_of_levels_side_by_side_the_lowest_has_the_name_that_it_would_have_alone() -> None:
    bare, one, hard = Form("zstd", True), Form("zstd", True, 1), Form("zstd", True, 19)
    assert recorded([hard, one, Form("gzip", True, 9)]) == {
        one: bare, hard: hard, Form("gzip", True, 9): Form("gzip", True),
    }  # fmt: skip
    # What names no level keeps its own bytes, whatever others name.
    assert recorded([one, bare]) == {bare: bare, one: one}
    assert (hard.name, hard.suffix) == ("zstd:19+enc", ".19.zst.enc")
    assert form_named("zstd:19+enc") == hard
    assert form_named("zstd:20+enc") is None and form_named("none:1") is None


def test_an_artifact_of_a_bare_level_is_not_taken_for_that_of_another() -> None:
    form = lambda name, size: ArtifactForm(name=name, size=size, sha256="0" * 64)  # noqa: E731
    stored = {"zstd+enc": form("a.zst.enc", 3), "zstd:1+enc": form("a.1.zst.enc", 1)}
    artifact = Artifact(name="a", part="media", size=9, sha256="0" * 64, stored=stored)
    assert [artifact.in_form(Form("zstd", True, level)) for level in (0, 1)] == list(stored.values())
    assert artifact.in_form(Form("gzip", True)) is None


def test_a_level_that_is_the_usual_one_shares_the_bytes_of_targets_that_name_none() -> None:
    assert target_of("zstd:3").form_beside(3) == target_of("zstd").form_beside(3) == Form("zstd", True)
    assert target_of("gzip:9").form_beside(12) == target_of("gzip").form_beside(12)
    assert target_of("zstd:3").form_beside(5) == Form("zstd", True, 3)
    assert target_of("none").form_beside(3) == Form("none", True)
    assert target_of("zstd:09").compression == "zstd:9"


@pytest.mark.parametrize(
    "wrong",
    [
        "zstd:0",
        "zstd:20",
        "gzip:10",
        "none:1",
        "zstd:",
        "zstd:x",
        "zstd:-1",
        "bzip2",
        9,
        None,
        "zstd:٣",
        "zstd:" + "9" * 5000,
    ],
)
def test_a_level_that_there_is_not_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError, match=r"zstd:1 to zstd:19, gzip:1 to gzip:9"):
        target_of(wrong)


def test_write_ahead_log_is_packed_at_the_targets_level_under_the_name_it_always_had(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text(" ".join(f"{number:x}" for number in random.Random(3).choices(range(500), k=100_000)))
    fast, hard = (
        pack(file_chunks(source), tmp_path / f"{level}", Form("zstd", True, level), KEY, b"place") for level in (1, 19)
    )
    assert hard.size < fast.size
    archive = WalArchive(LocalTarget("office", tmp_path), "erp")
    keys = {archive.key("1", 1, "0" * 24, Form("zstd", True, level)) for level in (0, 1, 19)}
    assert keys == {f"erp/wal/1/00000001/{'0' * 24}.zst.enc"}
