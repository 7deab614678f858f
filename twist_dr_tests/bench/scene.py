"""What recoveries are measured on: a server with a database of some size, an installation of ours beside it, and the peers that are here."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from twist_dr.backup.base.take import BasePlan, Parent, take_base_backup
from twist_dr.backup.storing import store_copy
from twist_dr.postgres.tools import Tools
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.recovery.files import sync_folder, unpack_chain
from twist_dr.recovery.untar import Owner
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.repository.staging import StagingArea
from twist_dr.repository.streams import Form
from twist_dr.storage.local import LocalTarget
from twist_dr.system.progress import Lines, Report
from twist_dr_tests.bench.load import DATABASE, SETTINGS, make_database
from twist_dr_tests.bench.measure import BENCH, fresh_folder
from twist_dr_tests.bench.peers import PROCESSES, Barman, PgBackRest, install
from twist_dr_tests.recorded import resident
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

FORM = Form("zstd", True)
TARGET = "office"
SLOT = "bench"


@dataclass
class Scene:
    """``repository``: where :meth:`base` puts our bases; that of ``site`` is another one. ``peaks``: bytes of memory by what used it."""

    server: PostgresServer
    settings: dict[str, str]
    folder: Path
    site: Site
    pgbackrest: PgBackRest | None = None
    barman: Barman | None = None
    peaks: dict[str, int] = field(default_factory=dict)

    @property
    def repository(self) -> Repository:
        return Repository(LocalTarget(TARGET, self.folder / "engine" / TARGET), "erp")

    @property
    def owner(self) -> Owner:
        return Owner(*unprivileged())

    def base(self, parent: Parent | None = None) -> tuple[Manifest, float]:
        """Our base backup, staged and stored on one target; its manifest and the seconds that took. Full ones begin from nothing."""
        work = self.folder / "engine"
        if parent is None:
            fresh_folder(work)
        staging = StagingArea(work / "staging" / "erp")
        plan = BasePlan(
            application="erp", targets={TARGET: FORM}, parts=("cluster",), type="incremental" if parent else "full",
            parent=parent, compression_threads=PROCESSES,
        )  # fmt: skip
        warnings: list[str] = []
        report = Report(Lines(warning=warnings.append))
        begun = time.monotonic()
        manifest = take_base_backup(plan, self.server.cluster(DATABASE), self.site.keyring, staging, report)
        with staging.using(manifest.backup_id) as staged:
            store_copy(manifest, staged, self.repository, FORM, report)
        seconds = time.monotonic() - begun
        if warnings:
            raise RuntimeError(f"the base backup is not what it should be: {warnings}")
        return manifest, seconds

    def unpack(self, chain: Sequence[Manifest], repository: Repository | None = None) -> tuple[Path, float]:
        """Our restore of a chain, authenticated, hashed, verified and durable: the data folder, and the seconds that took."""
        into = self.empty("ours")
        begun = time.monotonic()
        sources = [
            Sources(link.backup_id, [repository or self.repository], self.site.keyring, Report()) for link in chain
        ]
        data = unpack_chain(sources, into, self.server.tools, self.owner, Report())
        sync_folder(into)
        return data, time.monotonic() - begun

    def empty(self, name: str) -> Path:
        """An empty folder of the server's user, beside the server's data."""
        shutil.rmtree(self.server.base / name, ignore_errors=True)
        return self.owner.make_folder(self.server.base / name)

    @contextmanager
    def no_archiver(self) -> Iterator[None]:
        """The server as those have it who receive its WAL: ``archive_mode=off``. It is restarted before and after."""
        self.restart(archive_mode="off")
        try:
            yield
        finally:
            self.restart()

    def restart(self, **settings: str) -> None:
        self.server.stop()
        self.server.start({**self.settings, **settings})

    @contextmanager
    def residents(self) -> Iterator[None]:
        """``twist-dr wal receive`` and ``twist-dr wal ship --follow`` at work."""
        with resident(self.site, "wal", "receive"), resident(self.site, "wal", "ship", "--follow"):
            self.wait_for_receiver()
            yield

    def wait_for_receiver(self) -> None:
        query = f"SELECT 1 FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = '{SLOT}'"
        deadline = time.monotonic() + 30
        while not self.site.query(query):
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody receives; see {self.site.folder}/wal-receive.log")
            time.sleep(0.05)

    def drop_slot(self) -> None:
        """Or the server keeps all WAL from now on."""
        self.site.query(
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        )


@contextmanager
def scene(tools: Tools, megabytes: int, *, peers: bool, **settings: str) -> Iterator[Scene]:
    """A scene with a fresh database of about so many megabytes. A peer that cannot be had is told, and left out."""
    folder = fresh_folder(BENCH / f"recovery{tools.major}")
    with ExitStack() as stack:
        settings = {**SETTINGS, **settings}
        # All of us are on the server's own machine, and pgBackRest reads its files: nobody takes the way over TCP.
        server = stack.enter_context(PostgresServer(tools, folder / "server", settings=settings, over_socket=True))
        make_database(server, megabytes)
        (folder / "site").mkdir()
        site = Site(folder / "site", server.url(DATABASE), folder / "site" / "media")
        site.set(
            media={}, configuration=[], verification={}, wal={"slot": SLOT},
            storage_targets={TARGET: {"type": "local", "path": f"targets/{TARGET}"}},
            database={"url": "${SITE_DATABASE_URL}", "client_tools": [str(tools.folder)]},
        )  # fmt: skip
        made = Scene(server, settings, folder, site)
        if peers:
            made.pgbackrest = PgBackRest(server) if _is_here("pgbackrest") else None
            made.barman = Barman(server) if _is_here("barman") else None
        os.sync()
        yield made


def _is_here(program: str) -> bool:
    if (why := install(program)) is not None:
        print(f"skipped: {why}", file=sys.stderr)
    return why is None
