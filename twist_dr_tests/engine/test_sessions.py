"""Sessions are ours: what a database's owner has set and made in it changes nothing of what we do there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from twist_dr.engine.postgres.sessions import COMMANDS
from twist_dr_tests.conftest import make_site
from twist_dr_tests.hostile import HostileDatabase
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site


@pytest.fixture
def hostile_site(server: PostgresServer, tmp_path: Path) -> Iterator[tuple[Site, HostileDatabase]]:
    """A site whose database's owner is hostile, and is connected to as a superuser."""
    site = make_site(server, tmp_path)
    name = site.database_url.rpartition("/")[2]
    hostile = HostileDatabase(server, name)
    site.database_url = hostile.url
    yield site, hostile
    hostile.close()


def test_the_look_alikes_of_a_hostile_database_are_called_by_who_believes_it(
    hostile_site: tuple[Site, HostileDatabase],
) -> None:
    """What the next test finds uncalled is no dud."""
    _, hostile = hostile_site
    with hostile.cluster.connect(settings=COMMANDS) as connection:
        connection.execute("SELECT current_database(), 1 = 1, count(*), 'x'::text FROM pg_class GROUP BY 1")
    called = hostile.called()
    assert {"current_database", "pg_class", "type_text"} <= set(called)
    assert any(name.startswith("operator_") for name in called)


def test_nothing_of_a_hostile_database_is_called_by_backup_verification_restore_and_doctor(
    hostile_site: tuple[Site, HostileDatabase],
) -> None:
    site, hostile = hostile_site
    for step in (
        lambda: site.cli("doctor"),
        lambda: site.backup().expect(0),
        lambda: site.verify().expect(0),
        lambda: site.restore(mode="plan", backup="latest").expect(0),
        lambda: site.replace().expect(0),
        lambda: site.undo().expect(0),
    ):
        outcome = step()
        assert hostile.called() == [], outcome.text
