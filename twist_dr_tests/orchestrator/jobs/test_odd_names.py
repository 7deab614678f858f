"""The nastiest names through one whole pass of commands: backup, verification, single tables, a cutover, a new machine, the list."""

from __future__ import annotations

import os
from pathlib import Path

from psycopg import sql

from twist_dr.postgres.cluster import query
from twist_dr_tests.cli.test_recover import Machine
from twist_dr_tests.conftest import make_site
from twist_dr_tests.postgres.test_names import DATABASES, TABLES, make
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.site import Site

FILES = ["new\nline.txt", "-rf", "\x1b[31mred", "a,b;c", "$(id)", "\u202egnp.exe", "%s{}", os.fsdecode(b"\xff\xfe")]


def odd_site(server: PostgresServer, folder: Path) -> Site:
    plain = make_site(server, folder)
    with server.cluster().connect() as connection:
        old = plain.database_url.rpartition("/")[2]
        connection.execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(DATABASES[0]))
        )
    plain.database_url = server.url(DATABASES[0])
    for name in FILES:
        (plain.media / name).mkdir()
        (plain.media / name / name).write_text(repr(name))
    plain.set(verification={"key_tables": ["billing_invoice", 'public."a.b"']})
    return plain


def readable(text: str) -> bool:
    """Whether a terminal shows it all."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_odd_names_go_through_a_whole_pass(newest_server: PostgresServer, tmp_path: Path) -> None:
    site = odd_site(newest_server, tmp_path)
    made = make(newest_server.cluster(DATABASES[0]), TABLES)
    with newest_server.cluster().connect() as connection:
        before = {name for (name,) in query(connection, "SELECT relname FROM pg_class WHERE oid >= 16384")}

    site.backup(reason="\x1b[2J\nnothing").expect(0)
    first = site.latest().backup_id
    site.verify().expect(0)
    assert site.manifest().rows.items() >= made.items()
    for arguments in (["list"], ["show", first]):
        text = site.cli(*arguments).expect(0).text
        assert readable(text) and "\nnothing" not in text

    wanted = 'public."a.b", "with,comma", U&"new\\000Aline"'
    told = site.restore(mode="sandbox", tables=wanted, backup=first, reason="look").expect(0).text
    assert "3 tables with" in told

    (site.media / FILES[0] / FILES[0]).unlink()
    site.query('DROP TABLE "new\nline"')
    site.backup().expect(0)
    text = site.cli("diff", first, "latest", "--files").expect(0).text
    assert (
        readable(text) and 'public.U&"new\\000Aline"' in text and "- attachments/new\\nline.txt/new\\nline.txt" in text
    )

    site.replace(backup=first).expect(0)
    assert (site.media / FILES[0] / FILES[0]).read_text() == repr(FILES[0])
    assert site.query('SELECT count(*) FROM "new\nline"') == [(made["public", "new\nline"],)]  # type: ignore[index]

    (home := tmp_path / "home").mkdir()
    bare = Machine(
        home, {"TWIST_DR_KEYRING": str(site.keyring_path), "TWIST_DR_DATABASE_URL": newest_server.url(DATABASES[2])}
    )
    target = site.folder / "targets" / "office"
    text = (
        bare.recover("--from-target", target, "--backup", first, "--database", "--media-to", home / "media")
        .expect(0)
        .text
    )
    assert readable(text) and '\n"x" %s' not in text
    with newest_server.cluster(DATABASES[2]).connect() as connection:
        (counts,) = connection.execute(
            sql.SQL("SELECT {}").format(
                sql.SQL(", ").join(sql.SQL("(SELECT count(*) FROM {})").format(sql.Identifier(*name)) for name in made)
            )
        )
        assert counts == tuple(made.values())
    assert {path.read_text() for path in (home / "media").rglob("*/*/*") if path.name in FILES} >= set(map(repr, FILES))

    with newest_server.cluster().connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASES[2])))
        after = {name for (name,) in query(connection, "SELECT relname FROM pg_class WHERE oid >= 16384")}
    assert after == before, "nothing went into another database"
