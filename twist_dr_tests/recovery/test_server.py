"""The recovering server under conditions that a primary brings along: its settings, promotions, tablespaces made in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.errors import RecoveryFailed
from twist_dr.postgres.unprivileged import unprivileged
from twist_dr.recovery import fetcher
from twist_dr.recovery.planning import PlannedRecovery
from twist_dr.recovery.recover import recover
from twist_dr.recovery.untar import Owner
from twist_dr.system.progress import Report
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import KEYRING
from twist_dr_tests.primaries import Primary
from twist_dr_tests.recovery.world import Base, archives_of, plan_of, rows


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "PAUSES", (0.05,))


@pytest.fixture(params=sorted(TOOLS, reverse=True), ids=lambda major: f"pg{major}")
def primary(request: pytest.FixtureRequest, open_folder: Path) -> Iterator[Primary]:
    primary = Primary(TOOLS[request.param], open_folder / "primary")
    primary.write(20)
    yield primary
    primary.close()


def test_settings_of_the_base_do_not_count(primary: Primary, open_folder: Path) -> None:
    trace = primary.base / "trace"
    for name, value in {
        "archive_command": f"touch {trace}",
        "restore_command": f"touch {trace}; false",
        "recovery_target_time": "2020-01-01 00:00:00+00",
        "listen_addresses": "0.0.0.0",
        "synchronous_standby_names": "gone",
        "shared_preload_libraries": "no_such_library",
        "primary_conninfo": "host=127.0.0.1 port=1",
    }.items():
        primary.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    base = Base(primary, "settings")
    primary.sql("ALTER SYSTEM RESET ALL")
    primary.write(10)
    point = primary.mark()
    primary.write(1)
    primary.archived()
    with recover(
        PlannedRecovery(plan_of(primary, [base], point), archives_of(primary), primary.tools, KEYRING, Report()),
        [base],
        open_folder / "r",
    ) as found:
        assert rows(found.cluster()) == point.rows
        with found.cluster().connect() as connection:
            connection.execute("INSERT INTO log (filling) VALUES ('no standby is waited for')")
            connection.execute("SELECT pg_switch_wal()")
    assert not trace.exists()


def test_settings_that_the_primary_raised_after_the_base_are_raised_here_too(open_folder: Path) -> None:
    """PostgreSQL would wait for ever, before its target, for somebody to raise them."""
    tools = TOOLS[max(TOOLS)]
    primary = Primary(tools, open_folder / "primary", max_connections="30")
    try:
        primary.write(10)
        base = Base(primary, "small")
        assert base.manifest.base is not None
        base.manifest = base.manifest.model_copy(
            update={"base": base.manifest.base.model_copy(update={"cluster_settings": {"max_connections": 30}})}
        )
        primary.restart(max_connections="70", max_prepared_transactions="9")
        primary.write(10)
        point = primary.mark()
        primary.write(1)
        primary.archived()
        with recover(
            PlannedRecovery(plan_of(primary, [base], point), archives_of(primary), tools, KEYRING, Report()),
            [base],
            open_folder / "r",
        ) as found:
            assert rows(found.cluster()) == point.rows
    finally:
        primary.close()


def test_a_tablespace_made_after_the_base_is_refused_and_its_folder_is_not_written_to(
    primary: Primary, open_folder: Path
) -> None:
    base = Base(primary, "before")
    live = Owner(*unprivileged()).make_folder(primary.base / "space")
    primary.sql(f"CREATE TABLESPACE space LOCATION '{live}'")
    primary.write(1)
    early = primary.mark()
    primary.sql("CREATE TABLE elsewhere TABLESPACE space AS SELECT generate_series(1, 1000)")
    primary.sql("CHECKPOINT")
    primary.archived()
    before = {path: path.stat().st_mtime_ns for path in live.rglob("*")}
    attempt = recover(
        PlannedRecovery(plan_of(primary, [base], early), archives_of(primary), primary.tools, KEYRING, Report()),
        [base],
        open_folder / "r",
    )
    with pytest.raises(RecoveryFailed, match=f"creates a tablespace at {live}"), attempt:
        pass
    assert {path: path.stat().st_mtime_ns for path in live.rglob("*")} == before


def test_a_promotion_is_followed_and_a_missing_history_is_an_error(primary: Primary, open_folder: Path) -> None:
    base = Base(primary, "first")
    primary.write(30)
    old = primary.mark()
    primary.promote_itself()
    primary.write(40)
    point = primary.mark()
    primary.write(1)
    primary.archived()
    assert primary.one("SELECT timeline_id FROM pg_control_checkpoint()") == "2"
    plan = plan_of(primary, [base], point, timeline=2)
    folder = open_folder / "r"
    with recover(
        PlannedRecovery(plan, archives_of(primary), primary.tools, KEYRING, Report()), [base], folder
    ) as found:
        assert rows(found.cluster()) == point.rows
        assert found.timeline == 3
    # A point before the switch, on the old timeline: the new one gets a number that nobody has.
    with recover(
        PlannedRecovery(plan_of(primary, [base], old), archives_of(primary), primary.tools, KEYRING, Report()),
        [base],
        folder,
    ) as found:
        assert rows(found.cluster()) == old.rows
        assert found.timeline == 3
    (primary.archive / "00000002.history").rename(primary.archive / "moved")
    attempt = recover(PlannedRecovery(plan, archives_of(primary), primary.tools, KEYRING, Report()), [base], folder)
    with pytest.raises(RecoveryFailed, match=r"00000002\.history"), attempt:
        pass


def test_a_server_that_stands_still_is_given_up(
    primary: Primary, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twist_dr.recovery import server

    monkeypatch.setattr(server, "STANDSTILL_SECONDS", 1.0)
    base = Base(primary, "first")
    primary.write(30)
    point = primary.mark()
    primary.archived()
    archives = archives_of(primary)
    archives.delay = 20.0
    begun = time.monotonic()
    attempt = recover(
        PlannedRecovery(plan_of(primary, [base], point), archives, primary.tools, KEYRING, Report()),
        [base],
        open_folder / "r",
    )
    with pytest.raises(RecoveryFailed, match="stood still"), attempt:
        pass
    assert time.monotonic() - begun < 18
