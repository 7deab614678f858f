"""The restoring role of the README, no superuser: what the plan lets through is restored, also where the database is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from twist_dr.postgres import databases
from twist_dr.postgres.cluster import Cluster
from twist_dr_tests.restore.test_rights_gate import ALLOWED, Shop
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site


@pytest.fixture
def shop_site(newest_server: PostgresServer, tmp_path: Path) -> tuple[Shop, Site]:
    """A site whose database holds everything that such a role may make."""
    shop = Shop.made(newest_server, "ordinary")
    owner = shop.roles["owner"]
    shop.superuser(f"SET ROLE {owner}; {ALLOWED.format(**shop.roles)}", database=shop.name)
    shop.superuser(
        f"ALTER DATABASE {shop.name} SET search_path TO public, tools",
        f"REVOKE CONNECT ON DATABASE {shop.name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {shop.name} TO {shop.roles['grantee']}",
    )
    shop.superuser(
        f"SET ROLE {owner}; CREATE TABLE tariff AS SELECT generate_series(1, 1000) AS id; RESET ROLE; ALTER EXTENSION hstore ADD TABLE tariff",
        database=shop.name,
    )
    (tmp_path / "media").mkdir()
    site = Site(tmp_path, newest_server.url(shop.name), tmp_path / "media")
    site.variables["RESTORER"] = shop.cluster.url
    site.set(restore={"database_url": "${RESTORER}"}, verification={"key_tables": ["invoice"]})
    del site.document["media"]
    site.save()
    site.backup().expect(0)
    return shop, site


def _live(shop: Shop) -> tuple[object, ...]:
    with Cluster(shop.server.url(shop.name)).connect() as connection:
        return tuple(
            connection.execute(
                """SELECT (SELECT count(*) FROM invoice), (SELECT count(*) FROM tariff), pg_get_userbyid(datdba), ARRAY(SELECT unnest(datacl)::text ORDER BY 1),
                          (SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole = 0),
                          (SELECT array_agg(DISTINCT pg_get_userbyid(relowner)) FROM pg_class WHERE relnamespace = 'public'::regnamespace)
                     FROM pg_database d WHERE datname = current_database()"""
            ).fetchall()[0]
        )


def test_what_the_plan_lets_through_is_restored_and_made_anew(shop_site: tuple[Shop, Site]) -> None:
    shop, site = shop_site
    before = _live(shop)
    plan = site.restore(backup="latest", allow_unverified=True).expect(0).text
    assert "nothing was changed" in plan
    shop.superuser("DELETE FROM invoice WHERE id > 3", database=shop.name)
    site.replace().expect(0)
    assert _live(shop) == before
    with shop.server.cluster().connect() as connection:
        databases.drop(connection, shop.name)
    site.replace().expect(0)
    assert _live(shop) == before
    shop.gone()
