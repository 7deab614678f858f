"""A site with made-up backups on real targets, for tests of what is kept and what goes: no server is asked."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from twist_dr.catalog import Catalog, VerificationRow
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Artifact, ArtifactForm, BaseFacts, KeyName, Manifest, PostgresFacts
from twist_dr.repository.repository import Repository
from twist_dr.repository.streams import Form
from twist_dr.retention.cleanup import Retention
from twist_dr.retention.telling import TargetOutcome
from twist_dr.retention.tombstones import Tombstone
from twist_dr.settings import Actor, Application
from twist_dr.settings.building import build_targets
from twist_dr.storage.base import Digest, StorageTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.catalog.examples import manifest as example
from twist_dr_tests.site import Site

NOW = datetime.now(timezone.utc).replace(microsecond=0)
FORM = Form("zstd", True)
WORDS = b"these bytes stand for a dump"
ARTIFACTS = ("database.dump", "media.tar")
IDENTIFIER = "7300000000000000001"


def made_up(keyring: Keyring, days: float, *, form: Form = FORM, **changes: Any) -> Manifest:
    """The manifest of a backup of some days ago; each has an id of its own."""
    started = NOW - timedelta(days=days)
    stored = {form.name: ArtifactForm(name="?", size=len(WORDS), sha256=hashlib.sha256(WORDS).hexdigest())}
    artifacts = [
        Artifact(
            name=name, part="database", size=len(WORDS), sha256=hashlib.sha256(WORDS).hexdigest(),
            stored={known: each.model_copy(update={"name": f"{name}{form.suffix}"}) for known, each in stored.items()},
        )
        for name in ARTIFACTS
    ]  # fmt: skip
    return example(
        **{
            "started_at": started,
            "backup_id": f"{started:%Y%m%dT%H%M%SZ}-{changes.get('kind', 'full')}-{int(days * 10):04x}",
            "artifacts": artifacts,
            "storage_targets": {"office": FORM.name},
            "key": KeyName(id=keyring.primary_id, check_value=keyring.primary.check_value),
            **changes,
        }
    )


def store(repository: Repository, manifest: Manifest, keyring: Keyring, folder: Path, *, sealed: bool = True) -> None:
    """Put a backup on a target, its manifest last unless it is never to be sealed."""
    contents = [(each.name, WORDS) for artifact in manifest.artifacts for each in artifact.stored.values()]
    contents += [("manifest.json", manifest.seal(keyring.primary))] if sealed else []
    for name, content in contents:
        path = folder / f"{manifest.backup_id}-{name}"
        path.touch(0o600)
        path.write_bytes(content)
        digest = Digest(len(content), hashlib.sha256(content).hexdigest())
        repository.target.put(path, repository.key(manifest.backup_id, name), digest)
        path.unlink()


def bury(erp: Path, backup_id: str, keyring: Keyring) -> Path:
    """Write the tombstone of a cleanup of ours that was cut short. ``erp``: the application's folder on a target."""
    path = erp / "tombstones" / f"{backup_id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        Tombstone(backup_id, "ops@host", "older than 7 days", NOW, "run-1").document("erp", keyring.primary)
    )
    return path


class RetentionSite:
    """A site whose targets have retention policies, and backups of the days that a test names."""

    def __init__(self, folder: Path, policies: dict[str, Any], **sections: Any) -> None:
        (folder / "media").mkdir(parents=True)
        self.site = Site(folder, "postgresql://nobody:secret@127.0.0.1:1/erp", folder / "media")
        for name, retention in policies.items():
            self.site.document["storage_targets"][name]["retention"] = retention
        self.site.document["storage_targets"] = {name: self.site.document["storage_targets"][name] for name in policies}
        self.site.set(**sections)
        self.folder = folder
        self.keyring = self.site.keyring
        self.catalog = self.site.catalog()
        self.said: list[str] = []
        self.targets = build_targets(self.site.settings())
        for target in self.targets.values():
            target.prepare()

    def repository(self, name: str = "office") -> Repository:
        return Repository(self.targets[name], "erp")

    def backup(self, days: float, *, verified: bool | None = None, recorded: bool = True, **changes: Any) -> str:
        """A backup of so many days ago on every target that backups are copied to, checked; returns its id."""
        manifest = made_up(self.keyring, days, **changes)
        for name in self.site.settings().backup_targets:
            store(self.repository(name), manifest, self.keyring, self.folder)
        if recorded:
            self.record(manifest, verified=verified)
        return manifest.backup_id

    def base(self, days: float, *before: str, segment: int = 3) -> str:
        """A base backup of PostgreSQL 18 that builds upon others and begins in a segment."""
        taken = NOW - timedelta(days=days)
        own = f"{taken:%Y%m%dT%H%M%SZ}-base-{int(days * 10):04x}"
        facts = BaseFacts(
            parent=before[-1] if before else None, chain=[*before, own], timeline=1, start_lsn=f"0/{segment:X}000000",
            stop_lsn=f"0/{segment:X}000100", started_at=taken, stopped_at=taken, wal_segment_size=16 << 20, data_checksums=True,
            from_standby=False, tablespaces=[], restore_point=None, restore_point_lsn=None, cluster_settings={},
        )  # fmt: skip
        postgres = PostgresFacts(
            version="18.0", version_number=180000, system_identifier=IDENTIFIER, lsn=facts.stop_lsn, timeline=1, in_recovery=False, database="erp",
            database_size=1, encoding="UTF8", collate="C", ctype="C", locale_provider="c", locale=None, extensions=[], bootstrap_role="postgres",
            dumped_as="postgres", client_version="18.0",
        )  # fmt: skip
        return self.backup(days, verified=True, kind="base", backup_id=own, base=facts, postgres=postgres)

    def record(self, manifest: Manifest, *, verified: bool | None = None) -> None:
        self.catalog.record_backup(manifest, manifest.seal(self.keyring.primary), run_id=None)
        for name in self.site.settings().backup_targets:
            self.catalog.record_copy(
                manifest.backup_id, name, state="checked", form=FORM.name, stored_bytes=2 * len(WORDS)
            )
        if verified is not None:
            state = "verified" if verified else "unverified"
            started = manifest.started_at + timedelta(hours=1)
            self.catalog.record_verification(
                VerificationRow(
                    manifest.backup_id, next(iter(self.targets)), state=state, started_at=started, seconds=1
                )
            )

    def retention(self, targets: dict[str, StorageTarget] | None = None, **options: Any) -> Retention:
        app = self.app(
            targets=targets or self.targets,
            catalog=Catalog(self.site.settings().catalog_url),
            report=Report(Lines(self.said.append, self.said.append)),
        )
        return Retention(app, **options)

    def app(self, **made: Any) -> Application:
        return self.site.app(
            Actor("tester@host"), **{"keyring": self.keyring, "catalog": self.catalog, "targets": self.targets, **made}
        )

    def clean(
        self, name: str = "office", targets: dict[str, StorageTarget] | None = None, **options: Any
    ) -> TargetOutcome:
        """Plan and carry out, for one target."""
        retention = self.retention(targets, **options)
        return retention.carry_out(retention.plan(name, NOW))

    def listed(self, name: str = "office") -> list[str]:
        """Ids of the backups that a target lists, as everybody who reads does."""
        repository = self.repository(name)
        return [each for each in repository.backup_ids() if repository.has_manifest(each)]

    def objects(self, name: str = "office") -> list[str]:
        return [each.key for each in self.targets[name].list("erp")]

    def state(self, backup_id: str, name: str = "office") -> str:
        return next(copy.state for copy in self.catalog.copies(backup_id) if copy.target == name)

    def require_whole(self, backup_id: str, name: str = "office") -> None:
        """A backup that is listed can be read, every byte of it."""
        repository = self.repository(name)
        manifest = repository.manifest(backup_id, self.keyring)
        for _, stored in repository.held(manifest).values():
            repository.target.check(repository.key(backup_id, stored.name), stored.digest)


class Killer:
    """Kills its process at the n-th step; counts them when that is 0."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, *names: str) -> None:
        """The moments before and after calls of an object are steps."""
        for name in names:
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = call(*arguments, **options)
            self.step()
            return result

        return counted


def child(work: Callable[[], None]) -> int:
    """Do some work in a child process; returns the signal that ended it, 0 for none."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(process, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0
    return os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0
