"""A provider of storage targets owns itself: its module in the package is all that there is of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from twist_dr.storage.options import providers

_TOY = """
from pathlib import Path
from typing import ClassVar, Literal

from twist_dr.storage.local import LocalTarget
from twist_dr.storage.options import SettingsPath, TargetOptions


class ToyOptions(TargetOptions):
    scheme: ClassVar[str | None] = "toy"
    url_form: ClassVar[str] = "toy://SHELF"
    credentials_remedy: ClassVar[str] = "give the toy back"
    consumer: ClassVar[bool] = True
    type: Literal["toy"]
    shelf: SettingsPath

    @property
    def place(self):
        return self.shelf

    @property
    def called(self):
        return f"toy://{self.shelf}"

    @classmethod
    def of_url(cls, url):
        return {"shelf": url.partition("://")[2]}

    def build(self, name, machine):
        return LocalTarget(name, self.shelf)
"""

_USE = """
import sys
from pathlib import Path

import twist_dr.storage

module, shelf = map(Path, sys.argv[1:])
twist_dr.storage.__path__.append(str(module))

from twist_dr.storage.trial import run_target_test
from twist_dr.errors import SettingsError
from twist_dr.cli.recover.place import open_target, target_settings
from twist_dr.settings.building import build_targets
from twist_dr.storage.machine import Machine
from twist_dr_tests.settings.test_settings import good, parsed

targets = {"box": {"type": "toy", "shelf": str(shelf), "encrypt": False, "accept_unencrypted": True}}
settings = parsed(good(storage_targets=targets))
assert settings.forms["box"].name == "zstd"
assert run_target_test(build_targets(settings)["box"]).ok
assert open_target(target_settings(f"toy://{shelf}"), Machine(shelf / "machine")).name == f"toy://{shelf}"
for wrong, said in (
    ({"again": {**targets["box"]}}, "storage_targets.again and storage_targets.box are one"),
    ({"box": {"type": "toy"}}, "storage_targets.box.shelf: expected"),
    ({"box": {"type": "tape", "shelf": "x"}}, "'toy'"),
    ({"box": {**targets["box"], "accept_unencrypted": False}}, "storage_targets.box: expected encrypt: true"),
    ({"box": {"shelf": "x"}}, "or toy"),
):
    try:
        parsed(good(storage_targets={**targets, **wrong}))
    except SettingsError as error:
        assert said in str(error), error
    else:
        raise AssertionError(said)
try:
    target_settings("ftp://nowhere")
except SettingsError as error:
    assert "s3://BUCKET/PREFIX, toy://SHELF, or a YAML file" in str(error), error
from twist_dr.cli.recover.commands import remedy_of_this_day
from twist_dr.errors import CredentialsRefused
toy = target_settings(f"toy://{shelf}")
assert remedy_of_this_day(CredentialsRefused("x"), toy) == "give the toy back, or correct --from-target"
"""


def test_one_more_provider_is_one_more_module_and_touches_no_other_file(tmp_path: Path) -> None:
    module, shelf = tmp_path / "module", tmp_path / "shelf"
    module.mkdir()
    (module / "toy.py").write_text(_TOY)
    done = subprocess.run([sys.executable, "-c", _USE, module, shelf], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "toy" not in providers() and {"local", "nas", "s3", "sftp"} <= set(providers())
