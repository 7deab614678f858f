"""What goes wrong at real servers of the kinds that go through rclone: a named error with a remedy, and nothing half-made."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from twist_dr.errors import (
    Cancelled,
    CredentialsRefused,
    KeyClash,
    ObjectExists,
    StorageError,
    TargetFull,
    TargetRefused,
    TargetUnavailable,
)
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.machine import Grant, Machine
from twist_dr.storage.options import providers
from twist_dr.storage.rclone_options import RcloneOptions
from twist_dr.storage.rclone_session import RcloneLimits
from twist_dr_tests.storage.conftest import MakeFile, Place, far_place, webdav_place
from twist_dr_tests.storage.far_places import SERVED, far_options, in_a_folder
from twist_dr_tests.storage.proxy import Fault, proxy_to
from twist_dr_tests.storage.remote_servers import (
    READER,
    SMALL,
    AzureServer,
    FarFolder,
    GcsServer,
    samba_server,
    sshd_server,
)
from twist_dr_tests.storage.servers import WebdavServer, rclone_ftp_server, rclone_program

NOW = timedelta(0)
KEY = "erp/backups/1/database.dump"
Making = Callable[..., StorageTarget]


@pytest.fixture
def at(request: pytest.FixtureRequest) -> Making:
    """``at(kind, **options)``: a target on the server of that kind that tries everything once."""

    def make(kind: str, **options: Any) -> StorageTarget:
        place = far_place(request, kind, **options)
        return Place("rclone", {**place.arguments, "limits": {"low_level_retries": 1, "attempts": 1}}).target()

    return make


def refused(target: StorageTarget, make_file: MakeFile, kind: type[StorageError], *said: str) -> None:
    """Each use of the target is ``kind`` exactly, and says this."""
    source, digest = make_file()
    for use in (target.prepare, lambda: target.put(source, KEY, digest), lambda: list(target.list("")), target.probe):
        with pytest.raises(StorageError) as caught:
            use()
        assert type(caught.value) is kind, str(caught.value)
        assert caught.value.target == target.name and caught.value.remedy
        for words in said:
            assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "error", "said"),
    [
        ("sftp", {"password": "not this one"}, CredentialsRefused, "credentials were refused"),
        ("sftp", {"known_hosts": "/dev/null"}, TargetRefused, "ssh-keyscan"),
        ("sftp", {"known_hosts": "/none"}, TargetRefused, "known_hosts cannot be read"),
        ("sftp", {"path": "/root/x"}, CredentialsRefused, "access was denied"),
        ("sftp", {"port": 1}, TargetUnavailable, "cannot be reached"),
        ("smb", {"password": "not this one"}, CredentialsRefused, "credentials were refused"),
        ("smb", {"share": "none"}, TargetUnavailable, "no such share"),
        ("smb", {"port": 1}, TargetUnavailable, "cannot be reached"),
        ("azure", {"account_key": "bm90IHRoaXMgb25l"}, CredentialsRefused, "credentials were refused"),
        ("azure", {"account_key": "no key"}, CredentialsRefused, "credentials were refused"),
        ("azure", {"account_key": None, "sas_token": "sv=1&sig=abc"}, CredentialsRefused, "credentials were refused"),
        ("azure", {"container": "nowhere"}, TargetUnavailable, "/nowhere/"),
        ("gcs", {"bucket": "nowhere"}, TargetUnavailable, "gs://nowhere/"),
        ("gcs", {"service_account_file": "/none"}, CredentialsRefused, "service_account_file"),
        ("gcs", {"service_account_file": "/etc/hostname"}, CredentialsRefused, "service_account_file"),
    ],
)
def test_what_the_settings_have_wrong_is_named_with_its_remedy(
    at: Making, make_file: MakeFile, kind: str, options: dict[str, Any], error: type[StorageError], said: str
) -> None:
    refused(at(kind, **options), make_file, error, said)


def test_a_server_that_shows_another_host_key_is_not_spoken_to(
    at: Making, sshd: FarFolder, make_file: MakeFile, tmp_path: Path
) -> None:
    other = tmp_path / "known_hosts"
    other.write_text(f"[127.0.0.1]:{sshd.port} {(sshd.key_file.with_suffix('.pub')).read_text()}")
    refused(at("sftp", known_hosts=str(other)), make_file, TargetRefused, "another host key", "find out why")


def test_a_key_is_as_good_as_a_password_and_one_that_the_server_does_not_know_is_refused(
    at: Making, sshd: FarFolder, make_file: MakeFile, tmp_path: Path
) -> None:
    for name, passphrase in (("unknown", ""), ("locked", "open sesame")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", tmp_path / name]
        subprocess.run(command, check=True)
    source, digest = make_file()
    known = at("sftp", password=None, key_file=str(sshd.key_file))
    known.prepare()
    known.put(source, KEY, digest)
    known.check(KEY, digest)
    for name, passphrase, said in (
        ("unknown", None, "credentials were refused"),
        ("locked", None, "key_passphrase"),
        ("locked", "no", "key_passphrase"),
        ("none", None, "key_file"),
    ):
        target = at("sftp", password=None, key_file=str(tmp_path / name), key_passphrase=passphrase)
        refused(target, make_file, CredentialsRefused, said)


@pytest.mark.parametrize(("kind", "options"), [("sftp", {"user": READER}), ("smb", {"share": "readonly"})])
def test_where_one_may_only_read_nothing_is_stored_or_deleted_and_all_is_read(
    at: Making, request: pytest.FixtureRequest, make_file: MakeFile, kind: str, options: dict[str, Any]
) -> None:
    source, digest = make_file()
    usual = far_options(kind, request.getfixturevalue(SERVED[kind]))
    writer, reader = at(kind, path=usual["path"]), at(kind, **{**options, "path": usual["path"]})
    writer.prepare()
    writer.put(source, KEY, digest)
    reader.prepare()
    reader.check(KEY, digest)
    for use in (lambda: reader.put(source, "erp/new", digest), lambda: reader.delete(KEY)):
        with pytest.raises(CredentialsRefused, match="access was denied"):
            use()
    assert [each.key for each in reader.list("")] == [KEY]


@pytest.mark.parametrize("kind", ["sftp", "smb"])
def test_a_disk_that_fills_in_the_middle_is_full_and_takes_what_still_fits(
    at: Making, request: pytest.FixtureRequest, make_file: MakeFile, kind: str
) -> None:
    usual = far_options(kind, request.getfixturevalue(SERVED[kind]))
    small = (
        {"share": "small"} if kind == "smb" else {"path": f"{Path(usual['path']).parent}/small/{os.urandom(4).hex()}"}
    )
    target = at(kind, **small)
    target.prepare()
    space = target.space()
    assert space.total == SMALL
    source, digest = make_file(SMALL + (1 << 20))
    with pytest.raises(TargetFull, match="are needed") as caught:
        target.put(source, KEY, digest)
    assert "add space" in str(caught.value)
    assert (list(target.list("")), target.sweep(NOW), target.space()) == ([], 0, space)
    source, digest = make_file(1 << 20)
    target.put(source, KEY, digest)
    target.check(KEY, digest)
    target.delete(KEY)


@pytest.mark.parametrize(("kind", "server"), [("sftp", sshd_server), ("smb", samba_server)])
def test_a_server_that_dies_in_the_middle_leaves_nothing_and_the_next_attempt_succeeds(
    machine_folder: Path, make_file: MakeFile, kind: str, server: Any
) -> None:
    source, digest = make_file(32 << 20)
    with in_a_folder(server) as first:
        limits = {"low_level_retries": 1, "attempts": 1}
        options = far_options(kind, first)
        target = Place("rclone", {"name": "far", "machine": str(machine_folder), "limits": limits, **options}).target()
        target.prepare()
        told = 0

        def die(count: int) -> None:
            nonlocal told
            told += count
            if told > digest.size // 4:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(first.pid, signal.SIGKILL)

        with pytest.raises(TargetUnavailable, match="run again"):
            target.put(source, KEY, digest, die)
        with server(first.folder.parent, first.port):
            assert list(target.list("")) == []
            assert target.sweep(NOW) == 1
            target.put(source, KEY, digest)
            target.check(KEY, digest)


def test_names_that_differ_in_case_only_are_one_on_a_share_and_the_second_is_refused(
    at: Making, make_file: MakeFile
) -> None:
    target = at("smb")
    target.prepare()
    source, digest = make_file()
    target.put(source, KEY, digest)
    with pytest.raises(KeyClash):
        target.put(source, KEY.upper(), digest)
    assert [each.key for each in target.list("")] == [KEY]


def test_a_service_account_whose_key_was_withdrawn_is_refused_and_nobody_is_asked_to_authorise(
    at: Making, gcs: GcsServer, make_file: MakeFile, tmp_path: Path
) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    withdrawn = gcs.tokens.account_file(tmp_path / "account.json", other)
    refused(at("gcs", service_account_file=str(withdrawn)), make_file, CredentialsRefused, "service_account_file")
    assert gcs.tokens.asked[-1] is False


def test_a_clock_that_is_wrong_is_named_and_not_the_key(
    at: Making, gcs: GcsServer, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs.tokens, "ahead", 7200)
    refused(at("gcs"), make_file, TargetRefused, "clock", "timedatectl")


@pytest.mark.parametrize("kind", ["azure", "gcs"])
def test_who_fails_to_store_an_object_in_a_bucket_does_not_delete_the_same_one_of_another(
    at: Making, request: pytest.FixtureRequest, make_file: MakeFile, kind: str
) -> None:
    prefix = far_options(kind, request.getfixturevalue(SERVED[kind]))["prefix"]
    one, other = at(kind, prefix=prefix), at(kind, prefix=prefix)
    source, digest = make_file(9 << 20)
    with ThreadPoolExecutor(1) as pool:
        storing: list[Future[None]] = []

        def stop(count: int) -> None:
            storing.append(pool.submit(other.put, source, KEY, digest))
            wait(storing, timeout=1)
            raise Cancelled("asked to stop")

        with pytest.raises(Cancelled):
            one.put(source, KEY, digest, stop)
        storing[0].result()
    one.check(KEY, digest)


def test_a_shared_access_signature_of_a_container_suffices_and_one_that_may_only_read_stores_nothing(
    at: Making, azurite: AzureServer, make_file: MakeFile
) -> None:
    source, digest = make_file()
    writer, reader = (
        at("azure", prefix="signed", account_key=None, sas_token=azurite.sas(rights)) for rights in ("racwdl", "rl")
    )
    writer.prepare()
    writer.put(source, KEY, digest)
    reader.check(KEY, digest)
    with pytest.raises(CredentialsRefused):
        reader.put(source, "erp/new", digest)
    with pytest.raises(CredentialsRefused):
        reader.delete(KEY)
    assert [each.key for each in writer.list("")] == [KEY]
    writer.delete(KEY)
    assert writer.stat(KEY) is None


def test_a_webdav_server_whose_quota_is_used_up_is_full(
    webdav_server: WebdavServer, machine_folder: Path, make_file: MakeFile
) -> None:
    source, digest = make_file()
    with proxy_to(webdav_server.url) as proxy:
        place = webdav_place(replace(webdav_server, url=proxy.endpoint), machine_folder)
        target = Place("rclone", {**place.arguments, "limits": {"low_level_retries": 1, "attempts": 1}}).target()
        target.prepare()
        proxy.fault = lambda request: Fault(507, "quota") if request.method == "PUT" else None
        with pytest.raises(TargetFull, match="no space left"):
            target.put(source, KEY, digest)
        assert (list(target.list("")), target.sweep(NOW)) == ([], 0)


@pytest.mark.parametrize(
    ("options", "told", "secret"),
    [
        (
            {
                "type": "b2",
                "bucket": "company-backups",
                "prefix": "erp",
                "key_id": "005abc",
                "application_key": "K005-secret",
            },
            {"type": "b2", "account": "005abc", "key": "K005-secret", "hard_delete": "true"},
            "K005-secret",
        ),
        (
            {"type": "dropbox", "client_id": "app", "client_secret": "app-secret", "path": "Backups/erp"},
            {"type": "dropbox", "batch_mode": "off"},
            "access-secret",
        ),
        (
            {"type": "gcs", "bucket": "company-backups"},
            {
                "type": "google cloud storage",
                "env_auth": "true",
                "bucket_policy_only": "true",
                "no_check_bucket": "true",
            },
            "",
        ),
        (
            {
                "type": "azure",
                "account": "company",
                "container": "backups",
                "tenant_id": "t",
                "client_id": "c",
                "client_secret": "azure-secret",
            },
            {"account": "company", "tenant": "t", "client_id": "c", "client_secret": "azure-secret"},
            "azure-secret",
        ),
    ],
)
def test_what_no_server_is_here_for_reaches_rclone_by_its_socket_alone(
    tmp_path: Path, options: dict[str, Any], told: dict[str, str], secret: str
) -> None:
    machine, now = Machine(tmp_path / "machine"), datetime.now(timezone.utc)
    with machine.grants.held("far") as held:
        hour = now + timedelta(hours=1)
        held.commit(Grant("refresh-secret", now, access_token="access-secret", expires=hour, refreshed=now))
    provider = cast(type[RcloneOptions], providers()[options["type"]])
    target = provider(**options).target("far", machine, RcloneLimits(1, 1))
    known = target.session.calls().call("config/get", name=target.session.fs.partition(":")[0])
    assert {name: known[name] for name in told} == told
    assert secret in str(known) and "refresh-secret" not in str(known)
    shown = Path(f"/proc/{target.session.pid}")
    for public in (
        (shown / "cmdline").read_text(),
        (shown / "environ").read_text(),
        target.location,
        repr(target.options),
    ):
        assert "-secret" not in public
    assert target.session.fs.endswith(
        {"b2": ":company-backups/erp", "dropbox": ":Backups/erp"}.get(options["type"], "")
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"type": "azure", "account": "company", "container": "backups"}, "one of account_key, sas_token"),
        (
            {"type": "azure", "account": "company", "container": "backups", "tenant_id": "t"},
            "tenant_id, client_id and client_secret together",
        ),
        (
            {"type": "azure", "account": "company", "container": "backups", "account_key": "a", "sas_token": "b"},
            "one of account_key, sas_token",
        ),
        ({"type": "smb", "host": "h", "share": "a/b", "user": "u", "password": "p"}, "share"),
        ({"type": "gcs", "bucket": "Not A Bucket"}, "bucket"),
        (
            {"type": "b2", "bucket": "company-backups", "prefix": "../x", "key_id": "1", "application_key": "2"},
            "prefix",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        providers()[options["type"]](**options)


def test_a_share_and_a_bucket_can_be_named_by_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIST_DR_TARGET_PASSWORD", "hidden")
    for url, called in (
        ("smb://ada@files.example.com/backups/erp/new", "smb://ada@files.example.com:445/backups/erp/new"),
        ("smb://ACME;ada@files.example.com:1445/backups", "smb://ada@files.example.com:1445/backups"),
        ("gs://company-backups/erp?service_account_file=/etc/key.json", "gs://company-backups/erp"),
    ):
        provider = next(each for each in providers().values() if each.scheme == url.partition("://")[0])
        options = provider(type=get_args(provider.model_fields["type"].annotation)[0], **provider.of_url(url))
        assert options.called == called
        assert "hidden" not in f"{options!r} {options.called}"


def test_an_ftp_server_is_a_target_by_a_remote_of_ones_own(
    machine_folder: Path, make_file: MakeFile, tmp_path: Path
) -> None:
    served, config = tmp_path / "served", tmp_path / "rclone.conf"
    served.mkdir()
    with rclone_ftp_server(served, "ftp password") as port:

        def named(password: str) -> StorageTarget:
            hidden = subprocess.run([rclone_program(), "obscure", password], capture_output=True, text=True, check=True)
            login = f"host = 127.0.0.1\nport = {port}\nuser = demo\npass = {hidden.stdout}"
            config.write_text(f"[old]\ntype = ftp\n{login}")
            given = {"type": "rclone", "config_file": str(config), "remote": "old:backups"}
            limits = {"low_level_retries": 1, "attempts": 1}
            return Place("rclone", {"name": "ftp", "machine": str(machine_folder), "limits": limits, **given}).target()

        target = named("ftp password")
        target.prepare()
        source, digest = make_file(3 << 20)
        target.put(source, KEY, digest)
        target.check(KEY, digest)
        assert [each.key for each in target.list("")] == [KEY]
        other, other_digest = make_file(b"other")
        with pytest.raises(ObjectExists):
            target.put(other, KEY, other_digest)
        target.delete(KEY)
        assert target.stat(KEY) is None
        refused(named("not this one"), make_file, CredentialsRefused, "credentials were refused")
