"""What the application says of itself goes into the manifest, and nothing that it does keeps a backup from being made."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import django
import pytest

import twist_dr.django_app.asking as asking_module
from twist_dr.backup.take import BackupPlan, take_full_backup
from twist_dr.django_app.asking import Asking, VersionCommand
from twist_dr.django_app.manage import DjangoApplication
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.manifest import MANIFEST_NAME, Manifest, open_manifest
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.settings.asking import app_version
from twist_dr.system.progress import Report
from twist_dr_tests.erp import fixtures
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.settings.test_settings import good, mistakes, parsed

NOWHERE = "postgresql://nobody:w0rd-of-nobody@127.0.0.1:1/none"
PYTHON = sys.executable


def application(manage: list[str] | None = None) -> DjangoApplication:
    return DjangoApplication(
        manage or [PYTHON, "manage.py"], fixtures.MANAGE.parent, {"ERP_DATABASE_URL": NOWHERE}, "ERP_DATABASE_URL"
    )


def taken(folder: Path, version: str | VersionCommand | None, django: DjangoApplication | None) -> Manifest:
    (folder / "media").mkdir()
    (folder / "media" / "logo.png").write_bytes(b"logo")
    plan = BackupPlan(
        "erp",
        {"office": Form("zstd", True)},
        version,
        parts=("media",),
        media={"uploads": folder / "media"},
        django=django,
    )
    staging = StagingArea(folder / "staging")
    made = take_full_backup(plan, Cluster(NOWHERE), KEYRING, staging, Report())
    sealed = (staging.root / made.backup_id / MANIFEST_NAME).read_bytes()
    return open_manifest(sealed, KEYRING, application="erp", backup_id=made.backup_id, what="staging")


def test_the_manifest_says_version_django_python_apps_and_databases(tmp_path: Path) -> None:
    command = VersionCommand([PYTHON, "-c", "print(); print(' 2.7.1 '); print('more')"], tmp_path)
    manifest = taken(tmp_path, command, application())
    assert (manifest.app_version, manifest.warnings) == ("2.7.1", [])
    facts = manifest.django
    assert facts is not None
    assert (facts.version, facts.python) == (django.get_version(), platform.python_version())
    assert "billing" in facts.installed_apps and facts.databases["default"].name == "none"
    assert "w0rd-of-nobody" not in manifest.model_dump_json()


def test_what_does_not_answer_is_a_warning_and_no_failure(tmp_path: Path) -> None:
    manifest = taken(tmp_path, VersionCommand(["false"]), application(["false"]))
    assert (manifest.app_version, manifest.django) == (None, None)
    assert [sentence.partition(":")[0] for sentence in manifest.warnings] == [
        "the application's version is unknown",
        "which Django, Python and databases the application has is not in this backup",
    ]


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "was not done after 0.3 s and was ended"),
        ("print()", "printed nothing; have it print the version"),
        ("import os; print(os.environ['A_SECRET_OF_OURS'])", "A_SECRET_OF_OURS"),
    ],
    ids=["hangs", "silent", "our environment is not its"],
)
def test_a_command_that_is_no_good_leaves_the_version_unknown(
    program: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_module, "_VERSION_SECONDS", 0.3 if "sleep" in program else 20)
    monkeypatch.setenv("A_SECRET_OF_OURS", "hidden")
    asking = Asking(VersionCommand([PYTHON, "-c", program]), None)
    (told,) = asking.answered()
    assert asking.version is None and says in told


def test_the_settings_take_a_text_or_a_command() -> None:
    assert app_version(parsed(good(app_version="1.4"))) == "1.4"
    django_settings = {"manage": ["./manage.py"], "folder": "/srv/erp", "environment": {"STAGE": "live"}}
    found = app_version(parsed(good(app_version={"command": ["cat", "VERSION"]}, django=django_settings)))
    assert isinstance(found, VersionCommand)
    assert (found.arguments, found.folder, found.environment["STAGE"]) == (["cat", "VERSION"], Path("/srv/erp"), "live")
    assert mistakes(good(app_version={"command": []})) and mistakes(good(app_version={"run": ["true"]}))
