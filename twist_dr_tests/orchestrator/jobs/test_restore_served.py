"""The ERP is served, and a client writes all through: whatever happens, what is served is exactly one of two states, and the test says which."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from twist_dr.postgres.cluster import Cluster
from twist_dr.restore.plan import surroundings
from twist_dr.restore.settle import kept
from twist_dr_tests.conftest import make_site
from twist_dr_tests.erp import fixtures
from twist_dr_tests.helpers import wait_until
from twist_dr_tests.orchestrator.jobs.page import page
from twist_dr_tests.served import (
    Expected,
    History,
    ServedErp,
    ServedState,
    WritingClient,
    newer_code,
    older_code,
    state_of,
    which,
)
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import ROOT, Site, start
from twist_dr_tests.sweep import instants

REPLACE = {
    "mode": "replace", "reason": "test", "confirm": "erp", "pre_restore_backup": False, "allow_unverified": True, "backup": "latest",
}  # fmt: skip


@dataclass
class Stage:
    """A served ERP with a backup, and changes since: ``then`` is the backup's state, ``now`` the one with the changes."""

    site: Site
    erp: ServedErp
    client: WritingClient
    history: History
    then: ServedState
    now: ServedState

    def is_live(self, states: Mapping[str, Expected]) -> str:
        """Which of the states is served, with the client's writes of the last moments."""
        self.client.wait_for(5)
        return which(self.erp.state(), states)

    def after_restore(self, name: str = "restore") -> dict[str, Expected]:
        """What may be served after one attempt to restore: the backup, or what was there; each with what was written since."""
        return {
            "then": self.history.expect(self.then, "start", name, ignoring=["django_migrations"]),
            "now": self.history.expect(self.now, "start", "backup", name, ignoring=["django_migrations"]),
        }


@contextmanager
def staged(site: Site, *, code: Path = fixtures.CODE) -> Iterator[Stage]:
    """Serve, write, back up, change."""
    with ServedErp(site.database_url, site.media, site.folder, code=code) as erp:
        site.set(
            restore={
                "maintenance": {"file": str(erp.flag)},
                "health": {"url": f"{erp.url}/health", "timeout_seconds": 5},
                "grace_seconds": 5,
            },
            django=_django(code),
        )
        with WritingClient(erp.url) as client:
            history = History(client)
            client.wait_for(10)
            with history.during("backup"):
                site.backup().expect(0)
            client.wait_for(10)
            then = erp.state()
            site.query("UPDATE companies_company SET name = name || ' & Sons'")
            (site.media / "later.txt").write_text("later")
            now = erp.state()
            assert then.tables != now.tables and then.media != now.media
            yield Stage(site, erp, client, history, then, now)


def _django(code: Path) -> dict[str, Any]:
    return {
        "manage": [sys.executable, str(code / "manage.py")],
        "folder": str(code),
        "environment": {"ERP_DATABASE_URL": "${SITE_DATABASE_URL}"},
        "database_variable": "ERP_DATABASE_URL",
    }


@pytest.fixture
def stage(site: Site) -> Iterator[Stage]:
    with staged(site) as found:
        yield found


@pytest.mark.promise(3)
def test_restored_under_load_undone_and_undone_again(server: PostgresServer, tmp_path: Path) -> None:
    site = make_site(server, tmp_path)
    with staged(site) as stage:
        with stage.history.during("restore"):
            site.replace(pre_restore_backup=True, backup=site.latest().backup_id).expect(0)
        assert stage.is_live(stage.after_restore()) == "then"
        with stage.history.during("undo"):
            site.undo().expect(0)
        states = {
            "then": stage.history.expect(stage.then, "start", "restore", "undo"),
            "now": stage.history.expect(stage.now, "start", "backup", "undo"),
        }
        assert stage.is_live(states) == "now"
        with stage.history.during("again"):
            site.undo().expect(0)
        states = {
            "then": stage.history.expect(stage.then, "start", "restore", "again"),
            "now": stage.history.expect(stage.now, "start", "backup", "undo", "again"),
        }
        assert stage.is_live(states) == "then"
        locked = [row.seconds_locked_out for row in site.catalog().restores("erp")]
        assert len(locked) == 3 and all(locked)


def test_restored_under_load_from_the_page_and_launched_twice_only_one_goes_on(stage: Stage) -> None:
    site, door = stage.site, stage.site.folder / "door"
    # It waits before it cuts over: so two overlap, however slowly each begins.
    wait = ["sh", "-c", f"until [ -e '{door}' ]; do sleep 0.1; done"]
    site.set(restore={**site.document["restore"], "after_restore_commands": [wait]})
    with page(site) as web, stage.history.during("restore"):
        runs = [web.launch("restore", {"restore": {"config": REPLACE}}) for _ in range(2)]
        wait_until(lambda: any(web.has_ended(run) for run in runs), "one to be refused", 120)
        door.touch()
        ended = {status: (run, labels) for run in runs for status, labels in [web.ended(run)]}
    assert ended.keys() == {"FAILURE", "SUCCESS"}
    assert any("cannot start while A restore" in message for message in web.failures[ended["FAILURE"][0]])
    assert {"impact", "gate", "seconds_locked_out", "replaced"} <= ended["SUCCESS"][1]
    assert stage.is_live(stage.after_restore()) == "then"


@pytest.mark.promise(4)
def test_with_the_first_target_corrupt_the_second_serves(stage: Stage) -> None:
    path = stage.site.stored("office", "media.tar")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with stage.history.during("restore"):
        text = stage.site.replace().expect(0).text
    assert "passed over office" in text
    assert stage.is_live(stage.after_restore()) == "then"
    assert stage.site.catalog().restores("erp")[0].sources[-1] == "archive"


def test_a_backup_of_older_code_is_migrated_and_then_served_by_the_newer_code(site: Site) -> None:
    newer = newer_code(site.folder / "newer")
    with staged(site) as stage:
        with stage.history.during("upgrade"):
            _migrate(site, newer)
            stage.erp.restart(newer)
        site.set(django=_django(newer))
        assert stage.erp.health()[0] == 200
        with stage.history.during("restore"):
            assert "billing.0005_credit_limit" in site.replace().expect(0).text
        assert stage.erp.health()[0] == 200
        stage.client.wait_for(5)
        served = stage.erp.state()
        assert "billing.0005_credit_limit" in served.migrations
        ignored = ["django_migrations", "billing_customer"]
        states = {
            "then": stage.history.expect(stage.then, "start", "restore", ignoring=ignored),
            "now": stage.history.expect(stage.now, "start", "backup", "upgrade", "restore", ignoring=ignored),
        }
        assert which(served, states) == "then"


def test_a_backup_of_newer_code_is_refused_while_the_older_code_serves_on(site: Site) -> None:
    newer = newer_code(site.folder / "newer")
    _migrate(site, newer)
    site.set(app_version="1.5.0")
    with staged(site, code=newer) as stage:
        # The code goes back to what it was, and so does the schema of the live database.
        with stage.history.during("downgrade"):
            fixtures_manage(site, newer, "migrate", "billing", "0004_currency")
            stage.erp.restart()
        site.set(django=_django(fixtures.CODE))
        with stage.history.during("restore"):
            text = site.replace().expect(1).text
        assert "Upgrade the application to 1.5.0 or later, then restore" in text
        ignored = ["django_migrations", "billing_customer"]
        states = {
            "then": stage.history.expect(stage.then, "start", "restore", ignoring=ignored),
            "now": stage.history.expect(stage.now, "start", "backup", "downgrade", "restore", ignoring=ignored),
        }
        assert stage.is_live(states) == "now"


def test_code_that_cannot_serve_the_restored_state_gets_the_old_one_back(stage: Stage) -> None:
    """What serves is older than what the settings call the code: only the health check can see it."""
    older = older_code(stage.site.folder / "older")
    health = {"url": f"{stage.erp.url}/health", "timeout_seconds": 2}
    stage.site.set(restore={"maintenance": {"file": str(stage.erp.flag)}, "health": health})
    with stage.history.during("restore"):
        stage.erp.restart(older)
        text = stage.site.replace().expect(1).text
        stage.erp.restart()
    assert "what was live before is live again" in text
    served = stage.erp.state()
    assert served.tables == stage.now.tables and served.media == stage.now.media
    # What was written until the health check had failed is in the database that is kept: nothing acknowledged is nowhere.
    (kept_now,) = kept(surroundings(stage.site.settings()))
    stage.site.query(f'ALTER DATABASE "{kept_now.database}" ALLOW_CONNECTIONS true')
    live = Cluster(stage.site.database_url).parameters["dbname"]
    url = stage.site.database_url.removesuffix(live) + str(kept_now.database)
    assert stage.history.lost(served, state_of(None, url, kept_now.folders[0])) == []


@pytest.mark.promise(3)
@pytest.mark.promise(8)
@pytest.mark.sweep
@pytest.mark.parametrize("part", instants([0.6, 0.75], every=[step / 36 for step in range(1, 37)]))
def test_killed_at_a_step_under_load_and_settled_what_is_served_is_one_of_the_two(stage: Stage, part: float) -> None:
    site = stage.site
    at = max(1, round(_STEPS * part))
    with stage.history.during("restore"):
        assert _run_killed(site, at) == -signal.SIGKILL
        settled = site.cli("settle").expect(0).text
    live = stage.is_live(stage.after_restore())
    assert ("is finished now" in settled) == (live == "then"), settled
    assert not stage.erp.flag.exists()


#: Of a restore with maintenance, database and one media folder; the test of the killed restore without load counts them.
_STEPS = 36


def _run_killed(site: Site, at: int) -> int:
    path = site.folder / "killed.yaml"
    path.write_text(yaml.safe_dump({"ops": {"restore": {"config": REPLACE}}}))
    command = [sys.executable, "-m", "twist_dr_tests.killed", str(at), "dagster", "job", "execute", "-m", "twist_dr.definitions", "-j", "restore", "-c", str(path)]  # fmt: skip
    process = start(command, {**site.environment, "PYTHONPATH": str(ROOT)}, site.folder)
    process.communicate(timeout=120)
    return process.returncode


def _migrate(site: Site, code: Path) -> None:
    fixtures_manage(site, code, "migrate", "--no-input")


def fixtures_manage(site: Site, code: Path, *arguments: str) -> None:
    """manage.py of some release, as the superuser."""
    subprocess.run(
        [sys.executable, str(code / "manage.py"), *arguments],
        env=fixtures.environment(site.database_url, site.media), check=True, capture_output=True,
    )  # fmt: skip
