"""A dump made through a pipe gets the offsets that pg_dump writes into a file, or is left as it was."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from twist_dr.postgres.cluster import Cluster, Snapshot
from twist_dr.postgres.dump import dump_database, restore_database
from twist_dr.postgres.dump_offsets import fill_in_offsets
from twist_dr.postgres.tools import Tools
from twist_dr.system.processes import run
from twist_dr_tests.servers import PostgresServer

#: Up to here a dump's header is a matter of its format, then comes the time; this is beyond it in every format.
FORMAT, TIME = 11, 51

HEAD_AS_BYTEA = r"'\x000000000001000500000000000000000100060000000000'::bytea"
#: A row of 256 or 65,536 bytes has a length that, behind a block's head, gives five zeros, 1 and 0.
DATABASES = {
    "several tables": f"""
        CREATE TABLE empty_first (id int);
        CREATE TABLE numbers AS SELECT id, repeat('x', id % 300) AS text FROM generate_series(1, 20000) AS id;
        CREATE TABLE empty_between (id int);
        CREATE TABLE heads AS SELECT E'\\x01'::text AS text, {HEAD_AS_BYTEA} AS bytes FROM generate_series(1, 100);
        CREATE TABLE lengths AS SELECT repeat(E'\\x01', size) AS text FROM generate_series(0, 1100) AS size;
        CREATE TABLE length_256 AS SELECT repeat(E'\\x01', 255) AS text;
        CREATE TABLE length_64k AS SELECT repeat(E'\\x01', 65535) AS text;
        CREATE TABLE length_16m AS SELECT repeat(E'\\x01', (1 << 24) - 1) AS text;
        CREATE TABLE "zeros" AS SELECT repeat('\\\\x00', 1000) AS text, decode(repeat('00', 1000), 'hex') AS bytes;
        CREATE TABLE no_columns ();
        INSERT INTO no_columns SELECT FROM generate_series(1, 1000);
        CREATE TABLE parted (id int) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10);
        INSERT INTO parted VALUES (1), (2);
        CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM numbers;
        CREATE SEQUENCE counter START 7;
        CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
        COMMENT ON TABLE numbers IS 'commented';
        CREATE TABLE z_empty_last (id int);
    """,
    "one table": "CREATE TABLE only_one AS SELECT 1 AS id",
    "one empty table": "CREATE TABLE only_one (id int)",
    # A dump is searched in pieces, the first of 4096 bytes: the end of one of these lies across their edge.
    "blocks of a piece": """
        DO $$ BEGIN FOR size IN 4060..4100 LOOP
            EXECUTE format('CREATE TABLE t%s AS SELECT repeat(''x'', %s) AS text', size, size);
        END LOOP; END $$
    """,
    "many tables": """
        DO $$ BEGIN FOR i IN 1..300 LOOP
            EXECUTE format('CREATE TABLE t%s AS SELECT generate_series(1, %s) AS id', i, i % 5);
        END LOOP; END $$
    """,
}


def made(server: PostgresServer, statements: str) -> Cluster:
    cluster = server.create_database("offsets db")
    with cluster.connect() as connection:
        connection.execute(statements)
    return cluster


def piped(cluster: Cluster, tools: Tools, dump: Path) -> Path:
    with Snapshot(cluster) as snapshot, dump.open("wb") as file:
        dump_database(cluster, tools, snapshot.id, snapshot.tables(), file.write)
    return dump


def written(cluster: Cluster, tools: Tools, dump: Path, *options: str) -> Path:
    """The dump that pg_dump writes into a file itself."""
    run(
        [tools.program("pg_dump"), "--format=custom", "--compress=0", *options, f"--file={dump}"],
        environment=cluster.environment(),
    )
    return dump


def rows(cluster: Cluster) -> dict[str, tuple[int, str]]:
    """Number and hash of the rows of each table."""
    with Snapshot(cluster) as snapshot:
        tables = snapshot.tables()
    with cluster.connect() as connection:
        found = {}
        for table in tables:
            query = f'SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM "{table.name}" AS t'
            row = connection.execute(query).fetchone()
            assert row
            found[table.label] = (row[0], row[1])
    return found


@pytest.mark.parametrize("statements", DATABASES.values(), ids=DATABASES.keys())
def test_a_piped_dump_gets_the_offsets_that_pg_dump_writes_into_a_file(
    server: PostgresServer, tmp_path: Path, statements: str
) -> None:
    cluster = made(server, statements)
    dump = piped(cluster, server.tools, tmp_path / "piped.dump")
    expected = written(cluster, server.tools, tmp_path / "written.dump").read_bytes()
    assert dump.read_bytes()[TIME:] != expected[TIME:]
    listing = [server.tools.program("pg_restore"), "--list", dump]
    before = run(listing)

    assert fill_in_offsets(dump, 0)

    filled = dump.read_bytes()
    assert filled[:FORMAT] == expected[:FORMAT]
    assert filled[TIME:] == expected[TIME:]
    assert run(listing) == before
    assert not fill_in_offsets(dump, 0), "filled in already"
    assert dump.read_bytes() == filled


def test_a_dump_with_offsets_filled_in_comes_back_with_all_its_rows(server: PostgresServer, tmp_path: Path) -> None:
    cluster = made(server, DATABASES["several tables"])
    dump = piped(cluster, server.tools, tmp_path / "database.dump")
    assert fill_in_offsets(dump, 0)
    restored = server.create_database("restored db")
    restore_database(server.cluster(), server.tools, "restored db", dump, jobs=4)
    assert rows(restored) == rows(cluster)
    assert rows(restored)["public.lengths"][0] == 1101


def test_a_dump_cut_short_while_being_filled_in_restores_as_well(server: PostgresServer, tmp_path: Path) -> None:
    cluster = made(server, DATABASES["several tables"])
    dump = piped(cluster, server.tools, tmp_path / "database.dump")
    bare = dump.read_bytes()
    assert fill_in_offsets(dump, 0)
    filled = dump.read_bytes()
    flags = [at for at in range(1 << 17) if (bare[at], filled[at]) == (1, 2)]
    assert len(flags) > 5
    flag = flags[len(flags) // 2]
    dump.write_bytes(filled[:flag] + bare[flag:])
    restored = server.create_database("restored db")
    restore_database(server.cluster(), server.tools, "restored db", dump, jobs=4)
    assert rows(restored) == rows(cluster)


def test_a_database_without_tables_has_no_offsets(server: PostgresServer, tmp_path: Path) -> None:
    assert_left_alone(piped(made(server, "SELECT 1"), server.tools, tmp_path / "database.dump"))


def test_a_dump_with_large_objects_is_left_alone(server: PostgresServer, tmp_path: Path) -> None:
    look_like_a_head = r"SELECT lo_from_bytea(0, '\x0000000000010001000000')"
    cluster = made(server, f"CREATE TABLE numbers AS SELECT 1 AS id; {look_like_a_head}")
    dump = piped(cluster, server.tools, tmp_path / "database.dump")
    assert_left_alone(dump)  # even if the manifest said that there are none
    assert_left_alone(piped(made(server, DATABASES["one table"]), server.tools, dump), large_objects=1)


def test_a_compressed_dump_is_left_alone(server: PostgresServer, tmp_path: Path) -> None:
    cluster = made(server, DATABASES["one table"])
    assert_left_alone(written(cluster, server.tools, tmp_path / "database.dump", "--compress=1"))


def test_a_dump_in_another_format_is_left_alone(server: PostgresServer, tmp_path: Path) -> None:
    cluster = made(server, DATABASES["one table"])
    for name in ("plain", "tar"):
        assert_left_alone(written(cluster, server.tools, tmp_path / name, f"--format={name}"))


def blocks(dump: bytes) -> list[int]:
    """Where the last two blocks begin, and the end."""
    heads = [match.start(1) for match in re.finditer(rb"\x00{5}(\x01\x00.{4})", dump, re.DOTALL)]
    return [*heads[-2:], len(dump)]


def with_blocks_swapped(dump: bytes) -> bytes:
    first, second, end = blocks(dump)
    return dump[:first] + dump[second:end] + dump[first:second]


def with_a_block_missing(dump: bytes) -> bytes:
    first, second, end = blocks(dump)
    return dump[:first] + dump[second:end]


def with_a_head_in_the_rows(dump: bytes) -> bytes:
    """What no dump of PostgreSQL has: the head of the second block within the first, where there is text else."""
    _, second, _ = blocks(dump)
    false = bytes(5) + dump[second : second + 6]
    at = dump.index(b"here and there")
    return dump[:at] + false + dump[at + len(false) :]


def with_a_byte(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda dump: dump[:at] + bytes([value]) + dump[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda dump: b"",
    "not a dump": lambda dump: b"SELECT 1;" * 1000,
    "only zeros": lambda dump: bytes(10_000),
    "only the header": lambda dump: dump[:20],
    "cut in the table of contents": lambda dump: dump[:1500],
    "cut after the table of contents": lambda dump: dump[: blocks(dump)[0]],
    "cut in the rows": lambda dump: dump[:-1000],
    "cut by a byte": lambda dump: dump[:-1],
    "longer by a byte": lambda dump: dump + b"\x00",
    "longer by a block": lambda dump: dump + dump[blocks(dump)[1] :],
    "newer version": with_a_byte(6, 17),
    "older version": with_a_byte(6, 13),
    "other major version": with_a_byte(5, 2),
    "other revision": with_a_byte(7, 1),
    "other size of integers": with_a_byte(8, 8),
    "other size of offsets": with_a_byte(9, 4),
    "other format": with_a_byte(10, 5),
    "compressed": with_a_byte(11, 1),
    "blocks in another order": with_blocks_swapped,
    "a block is missing": with_a_block_missing,
    "a head in the rows": with_a_head_in_the_rows,
}


@pytest.fixture(scope="module")
def sound(newest_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A dump with two tables, the first of them large."""
    cluster = made(
        newest_server,
        """CREATE TABLE first AS SELECT 'here and there' AS text FROM generate_series(1, 5000);
           CREATE TABLE second AS SELECT id FROM generate_series(1, 5000) AS id""",
    )
    return piped(cluster, newest_server.tools, tmp_path_factory.mktemp("sound") / "database.dump").read_bytes()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_no_sound_dump_of_a_known_version_is_left_alone(
    sound: bytes, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    dump = tmp_path / "database.dump"
    dump.write_bytes(damage(sound))
    assert_left_alone(dump)


def test_a_dump_cut_anywhere_is_left_alone(sound: bytes, tmp_path: Path) -> None:
    dump = tmp_path / "database.dump"
    for size in [*range(400), *range(400, len(sound), 997)]:
        dump.write_bytes(sound[:size])
        assert not fill_in_offsets(dump, 0)
        assert dump.read_bytes() == sound[:size]


def test_a_dump_that_a_storage_target_holds_a_link_to_is_left_alone(sound: bytes, tmp_path: Path) -> None:
    dump = tmp_path / "database.dump"
    dump.write_bytes(sound)
    stored = tmp_path / "stored.dump"
    stored.hardlink_to(dump)
    assert_left_alone(dump)
    stored.unlink()
    assert fill_in_offsets(dump, 0)


def test_a_dump_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert not fill_in_offsets(tmp_path / "missing.dump", 0)


def assert_left_alone(dump: Path, large_objects: int = 0) -> None:
    copy = shutil.copyfile(dump, dump.with_name("copy"))
    assert not fill_in_offsets(dump, large_objects)
    assert dump.read_bytes() == Path(copy).read_bytes()
