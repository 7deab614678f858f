"""A complete installation in a folder, run as its user would run it: real commands, real server, real targets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import dagster as dg
import yaml

from twist_dr.catalog import Catalog, SealedBackup
from twist_dr.postgres.cluster import Cluster
from twist_dr.repository.keys import Keyring, load_keyring, new_key, save_keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.settings import Actor, Application, Settings, load_settings
from twist_dr_tests import in_process
from twist_dr_tests.apps import application
from twist_dr_tests.preloaded import Command, Preloaded

#: Where commands of Dagster come from, unless each is to start as a shell starts it.
preloaded: Preloaded | None = None
#: Whether what is run to its end is a command, and a process of its own.
as_commands = False

#: The command, as its script starts it.
TWIST_DR = [sys.executable, "-m", "twist_dr"]
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    """How a command ended. ``text`` is all that it wrote."""

    status: int
    text: str

    def expect(self, status: int) -> Outcome:
        """Itself, when it ended so."""
        assert self.status == status, f"exit status {self.status}, not {status}:\n{self.text[-6000:]}"
        return self


@dataclass
class Site:
    """An application called ``erp`` with its settings, keys, targets and Dagster instance below ``folder``."""

    folder: Path
    database_url: str
    media: Path
    document: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """More of the environment that the settings speak of."""
    resources: dict[str, Any] = field(default_factory=dict)
    """What a launch tries to make of the resources."""

    def __post_init__(self) -> None:
        (self.folder / "dagster").mkdir()
        (self.folder / "targets").mkdir()
        shutil.copyfile(ROOT / "dagster.yaml", self.folder / "dagster" / "dagster.yaml")
        (self.folder / "site.conf").write_text("SECRET_KEY=configured\n")
        key = new_key("k1")
        save_keyring(Keyring("k1", {"k1": key}, "new"), self.keyring_path)
        self.document = {
            "application": "erp",
            "app_version": "1.4.1",
            "database": {"url": "${SITE_DATABASE_URL}"},
            "media": {"attachments": str(self.media)},
            "configuration": [str(self.folder / "site.conf")],
            "storage_targets": {
                "office": {"type": "local", "path": "targets/office"},
                "archive": {"type": "local", "path": "targets/archive"},
            },
            "encryption": {"keyring": "keyring.yaml"},
            "verification": {"key_tables": ["billing_invoice"]},
            "work_dir": "work",
        }
        self.save()

    # -- settings and what they lead to ---------------------------------------------------------------------------

    def save(self) -> None:
        """Write ``document`` to twist-dr.yaml."""
        (self.folder / "twist-dr.yaml").write_text(yaml.safe_dump(self.document, sort_keys=False))

    def set(self, **sections: Any) -> None:
        """Replace whole sections of the settings."""
        self.document.update(sections)
        self.save()

    @property
    def keyring_path(self) -> Path:
        return self.folder / "keyring.yaml"

    @property
    def keyring(self) -> Keyring:
        return load_keyring(str(self.keyring_path))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SITE_DATABASE_URL": self.database_url,
            "TWIST_DR_CONFIG": str(self.folder / "twist-dr.yaml"),
            "DAGSTER_HOME": str(self.folder / "dagster"),
            **self.variables,
        }

    def settings(self) -> Settings:
        return load_settings(self.folder / "twist-dr.yaml", {**os.environ, **self.environment})

    def app(self, actor: Actor | None = None, **made: Any) -> Application:
        """As :func:`application`, of the settings as they are now."""
        return application(self.settings(), actor, **made)

    @cached_property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's, in memory, for jobs in this process. A command's is in files."""
        return dg.DagsterInstance.ephemeral(str(self.folder / "dagster"))

    def catalog(self) -> Catalog:
        return Catalog(self.settings().catalog_url)

    def latest(self) -> SealedBackup:
        row = self.catalog().latest(application="erp")
        assert row is not None
        return row

    def repository(self, target: str) -> Repository:
        return Repository(self.settings().storage_targets[target].build(target, self.settings().machine), "erp")

    def manifest(self, target: str = "office") -> Manifest:
        """The latest manifest on a target, authenticated."""
        repository = self.repository(target)
        backup_id = repository.latest("full")
        assert backup_id is not None, f"{target} holds no backup"
        return repository.manifest(backup_id, self.keyring)

    def held(self, target: str) -> list[str]:
        """Ids of the backups that a local target lists."""
        repository = self.repository(target)
        repository.target.prepare()
        return [backup_id for backup_id in repository.backup_ids() if repository.has_manifest(backup_id)]

    def stored(self, target: str, name: str = "") -> Path:
        """The folder of the latest backup on a local target, or the file of an artifact there."""
        folder = max((self.folder / "targets" / target / "erp" / "backups").iterdir())
        return next(folder.glob(f"{name}*")) if name else folder

    def staged(self) -> list[str]:
        """What lies in staging."""
        staging = self.folder / "work" / "staging" / "erp"
        return sorted(entry.name for entry in staging.iterdir()) if staging.exists() else []

    # -- commands --------------------------------------------------------------------------------------------------

    def dagster(self, *arguments: str, **environment: str) -> subprocess.Popen[str] | Command:
        """Start a command of ``dagster`` and do not wait."""
        return start([beside("dagster"), *arguments], {**self.environment, **environment}, self.folder)

    def start(
        self, job: str, config: Mapping[str, Any] | None = None, **environment: str
    ) -> subprocess.Popen[str] | Command:
        """Start ``dagster job execute`` and do not wait."""
        arguments = ["job", "execute", "-m", "twist_dr.definitions", "-j", job]
        if config:
            path = self.folder / "run.yaml"
            path.write_text(yaml.safe_dump(self._run_config(config)))
            arguments += ["-c", str(path)]
        return self.dagster(*arguments, **environment)

    def _run_config(self, config: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"ops": config, "resources": self.resources} if config else {}

    def job(self, job: str, config: Mapping[str, Any] | None = None, **environment: str) -> Outcome:
        """Run a job to its end, as a script would."""
        if as_commands:
            return _ended(self.start(job, config, **environment))
        environment = {**self.environment, **environment}
        return Outcome(*in_process.run_job(job, self._run_config(config), self.instance, environment, self.folder))

    def backup(self, **config: str) -> Outcome:
        return self.job("backup_full", {"full_backup": {"config": config}} if config else None)

    def verify(self, **config: str) -> Outcome:
        return self.job("verify_backup", {"verification": {"config": config}} if config else None)

    def restore(self, **config: Any) -> Outcome:
        return self.job("restore", {"restore": {"config": config}} if config else None)

    def replace(self, **config: Any) -> Outcome:
        """A restore that cuts over, with all that it insists on, and without the backup before it."""
        return self.restore(
            **{"mode": "replace", "reason": "test", "confirm": "erp", "pre_restore_backup": False, "allow_unverified": True,
               "backup": "latest", **config}
        )  # fmt: skip

    def undo(self, **config: Any) -> Outcome:
        return self.job("undo_restore", {"undo_restore": {"config": {"reason": "test", "confirm": "erp", **config}}})

    def query(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Rows from the application's database, or from another one of its server."""
        with Cluster(self.database_url).connect(database) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def databases(self) -> list[str]:
        """The databases on the server that belong to this application, by what their names add."""
        name = str(Cluster(self.database_url).parameters["dbname"])
        rows = self.query("SELECT datname FROM pg_database")
        return sorted(found.removeprefix(name) for (found,) in rows if found.startswith(name))

    def materialize(self, *key: str) -> Outcome:
        """Materialize one asset by itself, as the page's button does."""
        if as_commands:
            selected = f"key:{'/'.join(key)}"
            return _ended(self.dagster("asset", "materialize", "-m", "twist_dr.definitions", "--select", selected))
        return Outcome(*in_process.materialize(dg.AssetKey(key), self.instance, self.environment, self.folder))

    def cli(self, *arguments: str, **environment: str) -> Outcome:
        """Run ``twist-dr``."""
        if as_commands and preloaded is None:
            return self.command(*arguments, **environment)
        return Outcome(*in_process.run_command(arguments, {**self.environment, **environment}, self.folder))

    def command(self, *arguments: str, **environment: str) -> Outcome:
        """Run ``twist-dr`` as a shell does."""
        done = subprocess.run(
            [*TWIST_DR, *arguments], env={**os.environ, **self.environment, **environment}, cwd=self.folder,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout)


def _ended(process: subprocess.Popen[str] | Command) -> Outcome:
    text, _ = process.communicate(timeout=240)
    assert process.returncode is not None
    return Outcome(process.returncode, text)


def start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: IO[bytes] | None = None
) -> subprocess.Popen[str] | Command:
    """Start a program of Python in this environment beside our own; it writes to ``log``, if that is given."""
    whole = {**os.environ, **environment}
    if preloaded is not None:
        return preloaded.start(command, whole, folder, log)
    output = subprocess.PIPE if log is None else log
    return subprocess.Popen(
        command, env=whole, cwd=folder, text=True, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )


def beside(program: str) -> str:
    """A program of the environment that the tests run in."""
    return str(Path(sys.executable).with_name(program))
