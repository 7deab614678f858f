"""The table of kinds, held against what it speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from twist_dr.backup.from_settings import ParentChoice, plan_backup, plan_base_backup, plan_configuration_backup
from twist_dr.repository.artifact_names import is_artifact_name
from twist_dr.repository.kinds import DATA_KINDS, KINDS, KindSpec, bases_of
from twist_dr.repository.manifest import Kind, Part, form_of, new_backup_id
from twist_dr.repository.streams import Form
from twist_dr_tests.apps import application
from twist_dr_tests.catalog.examples import NIGHT
from twist_dr_tests.settings.test_settings import good, parsed

FORM = Form("zstd", encrypted=False)


def test_every_kind_of_the_format_that_is_made_is_in_it() -> None:
    assert set(KINDS) == set(get_args(Kind)) - {"tenant"}
    assert {part for each in KINDS.values() for part in each.parts} == set(get_args(Part))
    assert set(DATA_KINDS) == {"full", "base"}
    ids = [new_backup_id(kind, NIGHT) for kind in KINDS]
    assert [KINDS[kind].physical for kind in KINDS] == [
        each in bases_of([*ids, "20261121", "x-base-y"]) for each in ids
    ]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.kind)
def test_what_is_always_encrypted_is_so_in_every_part(kind: KindSpec) -> None:
    forms = {form_of(FORM, "any", part) for part in kind.parts}
    assert (FORM not in forms) == kind.always_encrypted


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("database.dump", True), ("media.files.jsonl", True), ("dagster.tar", True), ("dagster-3.dump", True), ("16384.tar", True),
        ("catalog.sqlite", True), ("database.tar", False), ("dagster-.dump", False), ("../base.tar", False), ("base.tar.zst", False),
    ],
)  # fmt: skip
def test_files_are_known_for_ours_by_their_names(name: str, known: bool) -> None:
    assert is_artifact_name(name) == known


def test_plans_of_all_kinds_go_by_the_same_settings(tmp_path: Path) -> None:
    document = good(work_dir=str(tmp_path))
    document["database"] |= {"lock_timeout": "7 seconds"}
    app = application(parsed(document | {"backup": {"compression_level": 9}}))
    about = {"label": "manual", "reason": "why", "targets": {"disk": FORM}}
    full = plan_backup(app, parts=KINDS["full"].parts, **about)  # type: ignore[arg-type]
    base = plan_base_backup(app, ParentChoice(None), None, wanted="full", **about)  # type: ignore[arg-type]
    files = plan_configuration_backup(app, [], own_files=[], history_missing=None, contents={}, **about)  # type: ignore[arg-type]
    for plan, kind in ((full, "full"), (base, "base"), (files, "configuration")):
        assert (tuple(plan.parts), plan.lock_timeout, plan.compression_level) == (KINDS[kind].parts, 7.0, 9)  # type: ignore[index]
        assert (plan.reason, plan.who, plan.last_stored_bytes) == ("why", app.actor.name, None)
