"""When what a target keeps moves to another one: what goes together is read, what would lose or open something is refused by its path."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import yaml

from twist_dr_tests.settings.test_settings import good, mistakes, parsed

OLD = {"after": "1 year", "to": "cold"}


def document(office: dict[str, Any], cold: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    targets = {
        "office": {"type": "local", "path": "/srv/office", **office},
        "cold": {"type": "local", "path": "/srv/cold", **(cold or {})},
    }
    return good(storage_targets=targets, **sections)


def test_an_archive_gets_what_is_old_and_nothing_else() -> None:
    settings = parsed(yaml.safe_dump(document({"archive": OLD, "retention": {"max_age": "3 years"}}), sort_keys=False))
    policy = settings.storage_targets["office"].archive
    assert policy is not None and (policy.after, policy.to) == (timedelta(days=365), "cold")
    assert list(settings.enabled_targets) == ["office", "cold"]
    assert list(settings.backup_targets) == list(settings.forms) == list(settings.wal_targets) == ["office"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (document({"archive": {**OLD, "to": "nowhere"}}), "storage_targets.office.archive.to, and nowhere is none"),
        (document({"archive": {**OLD, "to": "office"}}), "storage_targets.office.archive.to, and office is none"),
        (document({"archive": OLD}, {"enabled": False}), "storage_targets.office.archive.to, and cold is none"),
        (document({"archive": OLD, "encrypt": False}), "encrypt: true for storage_targets.office"),
        (document({"archive": OLD, "retention": {"max_age": "365 days"}}), "storage_targets.office.archive.after"),
        (document({"archive": OLD}, {"archive": {**OLD, "to": "office"}}), "archive.to that does not lead back to"),
        (document({"archive": {**OLD, "storage_class": "GLACIER"}}), "either to or storage_class in storage_targets.office.archive"),
        (document({"archive": {"after": "1 year"}}), "either to or storage_class in storage_targets.office.archive"),
        (document({"archive": {"after": "1 year", "storage_class": "GLACIER"}}), "a target of type local has no storage classes"),
        (document({"archive": {"after": "1 year", "storage_class": "cold!"}}), "storage_targets.office.archive.storage_class: expected"),
        (document({"archive": {"after": "soon", "to": "cold"}}), "storage_targets.office.archive.after: expected a time"),
        (document({"archive": {"to": "cold"}}), "storage_targets.office.archive.after: expected a value"),
        (document({"archive": OLD}, schedules={"full": [{"cron": "0 2 * * *", "targets": ["cold"]}]}), "schedules.full[0].targets, and cold is an archive"),
        (document({"archive": OLD}, wal={"required_targets": ["cold"]}), "wal.required_targets, and cold is none"),
    ],
    ids=["unknown", "itself", "disabled", "opened", "too late", "circle", "both", "neither", "no classes", "no class", "no time", "no age", "scheduled", "required"],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(given: dict[str, Any], told: str) -> None:
    assert told in "\n".join(mistakes(given))
