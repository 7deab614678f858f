"""Names and versions of extensions are data too: restored as they are, told on one line, and never part of an order that a person pastes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from twist_dr.backup.diff import compare, render
from twist_dr.cli.recover.database import recover_database
from twist_dr.cli.recover.server import look
from twist_dr.postgres.cluster import Cluster, read_extensions
from twist_dr.postgres.comparison import compare_database
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import Extension, KeyName, PostgresFacts, open_manifest
from twist_dr.repository.sources import OneCopy
from twist_dr.system.progress import Report
from twist_dr_tests.catalog.examples import manifest
from twist_dr_tests.helpers import KEY, KEYRING
from twist_dr_tests.postgres.test_names_sweep import PIECES
from twist_dr_tests.repository.test_manifest import document
from twist_dr_tests.servers import PostgresServer
from twist_dr_tests.verify.test_verification import taken

NAME, VERSION = "odd $(id) %s {major} \"q\" 'q'\n\x1b[31m", '1.0\'; "x" %s {} $(id)\n\x1b[31m;é'
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=10).map("".join)


@contextmanager
def installable(server: PostgresServer, folder: Path) -> Iterator[None]:
    """An extension of that name and version can be made on the server."""
    extensions = folder / "extension"
    extensions.mkdir(mode=0o755)
    version = VERSION.replace("'", "''").replace("\n", "\\n")
    (extensions / f"{NAME}.control").write_text(f"default_version = '{version}'\n")
    (extensions / f"{NAME}--{VERSION}.sql").write_text("CREATE FUNCTION odd() RETURNS int LANGUAGE sql AS 'SELECT 1';")

    # Of the role, since that counts from the next session on; a server takes a moment to read its files again.
    set_path = sql.SQL("ALTER ROLE CURRENT_USER SET extension_control_path = {}").format(f"$system:{folder}")
    with server.cluster().connect() as connection:
        connection.execute(set_path)
    try:
        yield
    finally:
        with server.cluster().connect() as connection:
            connection.execute("ALTER ROLE CURRENT_USER RESET extension_control_path")


def test_an_extension_of_any_name_and_version_is_backed_up_and_restored(
    newest_server: PostgresServer, open_folder: Path, tmp_path: Path
) -> None:
    cluster = newest_server.create_database("odd_extension")
    with installable(newest_server, open_folder):
        with cluster.connect() as connection:
            connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(NAME)))
            connection.execute("CREATE TABLE t AS SELECT odd() AS id")
        made, repository = taken(cluster, tmp_path)
        assert made.postgres is not None and Extension(name=NAME, version=VERSION) in made.postgres.extensions
        new = newest_server.url("odd_extension_again")
        recover_database(look(new, made.postgres), OneCopy(made, repository, KEYRING), jobs=1, report=Report())
        with Cluster(new).connect() as connection:
            assert Extension(name=NAME, version=VERSION) in read_extensions(connection)
            assert compare_database(connection, made, Report()).differences == []
            facts = made.postgres.model_copy(update={"extensions": [Extension(name=NAME, version=f"2{VERSION}")]})
            (note,) = compare_database(connection, made.model_copy(update={"postgres": facts}), Report()).notes
            assert note == one_line(f"extension {NAME}: {VERSION} here, 2{VERSION} where it was backed up")
            connection.execute(sql.SQL("DROP EXTENSION {}").format(sql.Identifier(NAME)))
            (difference,) = compare_database(connection, made, Report()).differences
            assert difference == f"extension {one_line(NAME)} is missing after the restore"
    with newest_server.cluster().connect() as connection:
        connection.execute("DROP DATABASE odd_extension_again WITH (FORCE)")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.dictionaries(TEXTS, st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_whatever_extensions_are_called_the_manifest_keeps_it_and_a_difference_is_a_line(
    versions: dict[str, tuple[str, str]],
) -> None:
    old, new = (
        manifest(
            number,
            key=KeyName(id=KEY.id, check_value=KEY.check_value),
            postgres=PostgresFacts.model_validate(
                {
                    **document()["postgres"],
                    "extensions": [Extension(name=name, version=both[number]) for name, both in versions.items()],
                }
            ),
        )
        for number in (0, 1)
    )
    for made in (old, new):
        read = open_manifest(made.seal(KEY), KEYRING, application="erp", backup_id=made.backup_id, what="here")
        assert read.postgres == made.postgres
    changed = {name: both for name, both in versions.items() if both[0] != both[1]}
    found = compare(old, new)
    assert {each.name: (each.before, each.after) for each in found.extensions} == changed
    lines = render(found).split("\n")
    assert sum(line.startswith("  extension ") for line in lines) == len(changed)
    assert all(one_line(line) == line for line in lines)
