"""A scratch server is there for one purpose, for nobody else, and gone with everything afterwards, whatever happens."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from twist_dr.errors import IsolationMissing, ProcessFailed
from twist_dr.postgres import confinement
from twist_dr.postgres.cluster import Cluster, read_system_identifier
from twist_dr.postgres.scratch import ScratchServer, clear_scratch_leftovers
from twist_dr.postgres.server_user import is_server_user
from twist_dr.postgres.unprivileged import door_folder, socket_folder
from twist_dr.system.processes import run
from twist_dr_tests.conftest import TOOLS
from twist_dr_tests.helpers import (
    AS_USER,
    NOBODY,
    killed_at,
    next_line,
    postmaster_of,
    python,
    runs,
    said_by_python,
    wait_until,
)
from twist_dr_tests.servers import PostgresServer

NEWEST = TOOLS[max(TOOLS)]

#: Starts a server, says where it is, and stays.
STAY = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from twist_dr.postgres.scratch import ScratchServer\n"
    "from twist_dr.postgres.tools import choose_tools, find_tools\n"
    "tools = choose_tools(find_tools(), int(sys.argv[2]), server=True)\n"
    "from twist_dr_tests.helpers import postmaster_of\n"
    "with ScratchServer(tools, Path(sys.argv[1])) as server, server.cluster().connect() as connection:\n"
    "    sockets = connection.execute('SHOW unix_socket_directories').fetchone()[0]\n"
    "    print(f'{server.folder}\\t{sockets}\\t{postmaster_of(server.folder / \"data\")}')\n"
    "    if len(sys.argv) > 3: raise SystemExit(0)\n"
    "    time.sleep(100)\n"
)


@pytest.fixture
def base(open_folder: Path) -> Path:
    return open_folder / "scratch"


def setting(server: ScratchServer, name: str) -> str:
    with server.cluster().connect() as connection:
        row = connection.execute(f"SHOW {name}").fetchone()
    assert row is not None
    return str(row[0])


def servers_below(base: Path) -> list[Path]:
    return list(base.glob("server-*"))


def shared_memory(process: int) -> set[Path]:
    """Files of shared memory that a process has open."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {Path(columns[-1]) for line in lines if (columns := line.split())[-1].startswith("/dev/shm/")}


@pytest.mark.parametrize("major", sorted(TOOLS))
def test_a_scratch_server_is_empty_private_and_leaves_nothing(base: Path, major: int) -> None:
    with ScratchServer(TOOLS[major], base, "the boss") as server:
        sockets = Path(setting(server, "unix_socket_directories"))
        with server.cluster().connect() as connection:
            assert connection.info.user == "the boss"
            assert connection.info.server_version // 10000 == major
        process = postmaster_of(server.folder / "data")
        assert runs(process)
        shared = shared_memory(process)
        inodes = {os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()}
        listening = [
            line.split()
            for table in ("tcp", "tcp6", "udp", "udp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        ]
        assert not any(f"socket:[{columns[9]}]" in inodes for columns in listening)
        # Not even loopback is up: nothing of the network is in its namespace.
        assert Path(f"/proc/{process}/net/route").read_text().splitlines()[1:] == []
        assert sockets.stat().st_mode & 0o077 == 0
        assert (server.folder / "data").stat().st_mode & 0o077 == 0
    assert not runs(process)
    assert servers_below(base) == []
    assert not sockets.exists()
    assert not any(path.exists() for path in shared)


@pytest.mark.parametrize("long", [False, True])
def test_a_link_in_the_place_of_its_socket_leads_us_to_no_other_server(
    base: Path, newest_server: PostgresServer, long: bool
) -> None:
    """Code of the database can write to the socket's folder, and we may be somebody whom another server lets in."""
    with ScratchServer(NEWEST, base / ("b" * 60) if long else base) as server:
        known = system_identifier(server.cluster())
        socket = Path(setting(server, "unix_socket_directories")) / ".s.PGSQL.5432"
        assert (socket.parent.parent == server.folder) is not long
        socket.unlink()
        socket.symlink_to(socket_folder(newest_server.base) / f".s.PGSQL.{newest_server.port}")
        elsewhere = f"postgresql://postgres:{newest_server.url().partition('postgres:')[2].partition('@')[0]}@/postgres?host={socket.parent}&port=5432"
        assert system_identifier(Cluster(elsewhere)) == system_identifier(newest_server.cluster()) != known
        assert system_identifier(server.cluster()) == known
        door = door_folder(server.folder)
    assert not door.exists()


def system_identifier(cluster: Cluster) -> str | None:
    with cluster.connect() as connection:
        return read_system_identifier(connection)


@pytest.mark.parametrize("way", ["bubblewrap", "bubblewrap as root", "unshare"])
def test_its_superuser_gets_at_nothing_that_is_not_its_own(
    base: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch, way: confinement.Way
) -> None:
    monkeypatch.setattr(confinement, "way", lambda: way)
    monkeypatch.setenv("S3_SECRET", "canary")
    open_folder.chmod(0o1777)
    ours, of_postgres = open_folder / "keyring.yaml", open_folder / "pg_hba.conf"
    for path, owner in ((ours, 0), (of_postgres, pwd.getpwnam("postgres").pw_uid)):
        path.write_text("canary")
        path.chmod(0o600)
        os.chown(path, owner, -1)
    with ScratchServer(NEWEST, base) as server:
        data, process = server.folder / "data", postmaster_of(server.folder / "data")
        assert is_server_user(data.stat().st_uid) and os.stat(f"/proc/{process}").st_uid == data.stat().st_uid
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        assert {line.partition(b"=")[0].decode() for line in environment} <= {"", "PATH", "LC_ALL", "TZ", "PWD"}
        assert "NoNewPrivs:\t1" in Path(f"/proc/{process}/status").read_text()
        assert os.readlink(f"/proc/{process}/ns/net") != os.readlink("/proc/self/ns/net")
        assert Path(f"/proc/{process}/net/route").read_text().splitlines()[1:] == []
        with server.cluster().connect() as connection:
            for path in (ours, of_postgres, Path("/etc/shadow"), server.folder / ".lock"):
                with pytest.raises(psycopg.Error):
                    connection.execute("SELECT pg_read_file(%s)", [str(path)])
            # With a shell (unshare) it runs, and has nothing to tell; without one it does not run.
            with suppress(psycopg.Error):
                connection.execute(f"COPY (SELECT 1) TO PROGRAM 'env > {data}/seen; env > {open_folder}/seen'")
        told = "".join(path.read_text() for path in (data / "seen", open_folder / "seen") if path.exists())
        assert (way == "unshare") == bool(told)
        assert "canary" not in told and "HOME" not in told
    assert servers_below(base) == []
    assert not runs(process)


def test_each_server_has_a_user_of_its_own(base: Path) -> None:
    with ScratchServer(NEWEST, base) as one, ScratchServer(NEWEST, base) as other:
        users = {(server.folder / "data").stat().st_uid for server in (one, other)}
        assert len(users) == 2 and 0 not in users
        for user in users:
            with pytest.raises(KeyError):
                pwd.getpwuid(user)


@pytest.mark.parametrize("way", ["bubblewrap as root", "unshare", "user"])
def test_it_ends_with_its_maker_however_it_was_started(base: Path, way: str) -> None:
    begin = f"from twist_dr.postgres import confinement\nconfinement.way = lambda: {way!r}\n"
    stay = begin + STAY.replace("sys.argv[1])", "sys.argv[1]), isolation='where-possible'")
    with python(stay, base, max(TOOLS)) as maker:
        *_, process = next_line(maker).split("\t")
        assert runs(int(process))
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
        wait_until(lambda: not runs(int(process)), "the server to end with its maker")
    assert clear_scratch_leftovers(base) == 1


@pytest.mark.parametrize("way", ["user", "nothing"])
def test_where_it_cannot_be_kept_away_it_is_refused_until_the_settings_accept_that(
    base: Path, monkeypatch: pytest.MonkeyPatch, way: confinement.Way
) -> None:
    monkeypatch.setattr(confinement, "way", lambda: way)
    with pytest.raises(IsolationMissing, match="isolation: where-possible"):
        ScratchServer(NEWEST, base)
    if way == "user":
        with ScratchServer(NEWEST, base, isolation="where-possible") as server:
            assert is_server_user((server.folder / "data").stat().st_uid)
    assert servers_below(base) == []


def test_a_view_over_thousands_of_partitions_finds_enough_locks(base: Path) -> None:
    with ScratchServer(NEWEST, base) as server:
        assert int(setting(server, "max_locks_per_transaction")) >= 1024


def test_a_scratch_server_goes_with_an_exception(base: Path) -> None:
    with pytest.raises(ZeroDivisionError), ScratchServer(NEWEST, base) as server:
        process = postmaster_of(server.folder / "data")
        with server.cluster().connect() as connection:
            connection.execute("CREATE TABLE busy AS SELECT generate_series(1, 1000)")
            raise ZeroDivisionError
    assert not runs(process)
    assert servers_below(base) == []
    server.close()


def test_a_server_whose_folder_is_too_deep_for_a_socket_works_and_leaves_nothing(base: Path) -> None:
    deep = base / ("d" * 60) / ("e" * 60)
    with ScratchServer(NEWEST, deep) as server:
        sockets = Path(setting(server, "unix_socket_directories"))
        assert sockets.exists()
    assert not sockets.exists()
    assert servers_below(deep) == []


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(base: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"initdb .*pg_"):
        ScratchServer(NEWEST, base, "pg_forbidden_name")
    assert servers_below(base) == []


def test_what_kill_9_left_is_cleared_by_the_next_and_a_server_at_work_is_left_alone(base: Path) -> None:
    with ScratchServer(NEWEST, base) as other, python(STAY, base, max(TOOLS)) as maker:
        folder, sockets, process = next_line(maker).split("\t")
        assert clear_scratch_leftovers(base) == 0
        assert runs(int(process))
        shared = shared_memory(int(process))
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
        wait_until(lambda: not runs(int(process)), "the server to end with its maker")
        assert clear_scratch_leftovers(base) == 1
        assert not Path(folder).exists()
        assert not Path(sockets).exists()
        assert servers_below(base) == [other.folder]
        assert setting(other, "port")
    assert clear_scratch_leftovers(base) == 0
    assert not any(path.exists() for path in shared)


def test_a_clearing_of_a_server_that_was_killed_halfway_is_finished_by_the_next(base: Path) -> None:
    for step in (1, 2, 400, 10_000):
        with python(STAY, base, max(TOOLS)) as maker:
            folder, sockets, process = next_line(maker).split("\t")
            os.kill(maker.pid, signal.SIGKILL)
            maker.wait()
        killed = killed_at(step, lambda: clear_scratch_leftovers(base))
        assert killed == (step < 10_000)
        if step == 1:  # as earlier versions left it, with all its 40 MB
            (Path(folder) / ".lock").unlink()
        assert clear_scratch_leftovers(base) == int(killed)
        assert servers_below(base) == [] and not Path(sockets).exists() and not runs(int(process))


def test_the_shared_memory_of_a_server_in_a_namespace_is_its_own(base: Path) -> None:
    with ScratchServer(NEWEST, base) as server:
        owner = str((server.folder / "data").stat().st_uid)
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        assert owner not in {line.split()[7] for line in lines}


def test_the_shared_memory_of_a_killed_server_is_released_and_only_that(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no namespaces."""
    monkeypatch.setattr(confinement, "way", lambda: "user")
    stay = "from twist_dr.postgres import confinement\nconfinement.way = lambda: 'user'\n" + STAY.replace(
        "sys.argv[1])", "sys.argv[1]), isolation='where-possible'"
    )
    with (
        ScratchServer(NEWEST, base, isolation="where-possible") as other,
        python(stay, base, max(TOOLS)) as maker,
    ):
        folder, _, process = next_line(maker).split("\t")
        # The last line of interest of postmaster.pid: key and id of the segment.
        segment = (Path(folder) / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
        others = (other.folder / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
        os.kill(int(process), signal.SIGKILL)
        maker.kill()
        maker.wait()
        wait_until(lambda: not runs(int(process)), "the server to end")
        assert {segment, others} <= segments()
        assert clear_scratch_leftovers(base) == 1
        assert segment not in segments()
        assert others in segments()
    assert others not in segments()


def segments() -> set[str]:
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


#: What another user could not load from root's folders any more.
WARM = (
    "from twist_dr.postgres.cluster import Cluster\n"
    "import encodings.idna\n"
    "try: Cluster('postgresql://a@/a?host=/nowhere').connect()\n"
    "except Exception: pass\n"
)


def test_files_of_an_ordinary_user_are_out_of_reach_for_its_server_too_or_it_is_refused(base: Path) -> None:
    base.mkdir()
    os.chown(base, NOBODY, NOBODY)
    begin, _ = STAY.split("with ScratchServer", 1)
    code = (
        f"{begin}{WARM}{AS_USER.format(NOBODY)}"
        "keyring = Path(sys.argv[1]) / 'keyring.yaml'\n"
        "keyring.write_text('canary')\n"
        "keyring.chmod(0o600)\n"
        "with ScratchServer(tools, Path(sys.argv[1])) as server, server.cluster().connect() as connection:\n"
        "    for statement in (f\"SELECT pg_read_file('{keyring}')\", f\"COPY (SELECT 1) TO PROGRAM 'cp {keyring} {server.folder}/data/seen'\"):\n"
        "        try: print('did', connection.execute(statement).statusmessage)\n"
        "        except Exception as error: print(type(error).__name__)\n"
        "    print(os.readlink(f'/proc/{postmaster_of(server.folder / \"data\")}/ns/net') == os.readlink('/proc/self/ns/net'))\n"
        "from twist_dr.postgres import confinement\n"
        "from twist_dr.errors import IsolationMissing\n"
        "os.environ['PATH'] = '/nowhere'\n"
        "confinement.way.cache_clear()\n"
        "try: ScratchServer(tools, Path(sys.argv[1]))\n"
        "except IsolationMissing as error: print(error)\n"
    )
    *tries, shares_network, refusal = said_by_python(code, base, max(TOOLS)).splitlines()
    assert len(tries) == 2 and not any(word.startswith("did") for word in tries)
    assert shares_network == "False"
    assert "can read all that we can, keys and settings too" in refusal and "apt install bubblewrap" in refusal


@pytest.mark.parametrize("user", ["postgres", "nobody"])
def test_an_ordinary_user_can_run_one_too(base: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    base.mkdir()
    os.chown(base, entry.pw_uid, entry.pw_gid)
    code = STAY.replace("with ScratchServer", WARM + AS_USER.format(entry.pw_uid) + "with ScratchServer", 1)
    said = said_by_python(code, base, max(TOOLS), "leave")
    folder, sockets, process = said.split("\t")
    assert servers_below(base) == []
    assert not Path(folder).exists() and not Path(sockets).exists() and not runs(int(process))


@pytest.mark.parametrize("way", ["variables", "service file"])
def test_an_environment_that_names_another_server_leads_nobody_there(
    base: Path, newest_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    live = newest_server.cluster()
    leading = {name: value for name, value in live.environment().items() if value is not None}
    if way == "variables":
        for name, value in {**leading, "PGHOSTADDR": "127.0.0.1", "PGREQUIREAUTH": "scram-sha-256"}.items():
            monkeypatch.setenv(name, value)
    else:
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        lines = [f"{name}={leading[variable]}" for name, variable in names.items()]
        (tmp_path / "services.conf").write_text("\n".join(["[prod]", *lines]) + "\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services.conf"))
        monkeypatch.setenv("PGSERVICE", "prod")
    with ScratchServer(NEWEST, base) as server:
        assert setting(server, "data_directory") == str(server.folder / "data")
        name = "made_in_scratch_" + secrets.token_hex(4)
        psql = [server.tools.program("psql"), "-X", "-c", f"CREATE ROLE {name}"]
        run(psql, environment=server.cluster().environment())
        with server.cluster().connect() as connection:
            assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    monkeypatch.undo()
    with live.connect() as connection:
        assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None
