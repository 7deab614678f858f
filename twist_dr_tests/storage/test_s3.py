"""What S3 adds to the contract: parts, retries, broken connections, credentials, checksums and locks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from twist_dr.errors import (
    Cancelled,
    CredentialsRefused,
    ObjectCorrupt,
    ObjectExists,
    StorageError,
    TargetFull,
    TargetRefused,
    TargetUnavailable,
)
from twist_dr.storage.s3_target import S3Target
from twist_dr.storage.s3_transfer import part_size_for
from twist_dr_tests.site import ROOT
from twist_dr_tests.storage.conftest import BUCKET, PART, MakeFile, s3_place
from twist_dr_tests.storage.proxy import Fault, Proxy, Request, refuse_wrong_sha256
from twist_dr_tests.storage.servers import S3Server

KEY = "erp/backups/1/database.dump"
NOW = timedelta(0)
Make = Callable[..., S3Target]


def made(server: S3Server, **arguments: object) -> S3Target:
    target = s3_place(server, **arguments).target()
    assert isinstance(target, S3Target)
    return target


@pytest.fixture
def through_proxy(moto: S3Server, moto_proxy: Proxy) -> Make:
    """Makes targets on moto whose requests go through ``moto_proxy``."""
    return lambda **arguments: made(moto, endpoint_url=moto_proxy.endpoint, **arguments)


def once(times: int, fault: Fault, which: Callable[[Request], bool]) -> Callable[[Request], Fault | None]:
    """``fault`` for the first ``times`` requests of those that ``which`` picks."""
    left = [times]

    def choose(request: Request) -> Fault | None:
        if which(request) and left[0] > 0:
            left[0] -= 1
            return fault
        return None

    return choose


def is_put(request: Request) -> bool:
    return request.method == "PUT"


def is_part(request: Request) -> bool:
    return request.is_part


def is_read(request: Request) -> bool:
    return request.method == "GET" and KEY in request.path


def read(target: S3Target) -> bytes:
    with target.open(KEY) as stream:
        return stream.read()


def assert_nothing_left(server: S3Server, target: S3Target) -> None:
    client = server.client()
    assert client.list_objects_v2(Bucket=BUCKET, Prefix=target.prefix)["KeyCount"] == 0
    uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=target.prefix).get("Uploads", [])
    assert uploads == []


# -- parts ------------------------------------------------------------------------------------------------------------


def test_all_parts_but_the_last_are_of_equal_size(through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile) -> None:
    source, digest = make_file(3 * PART + 17)
    through_proxy().put(source, KEY, digest)
    parts = sorted(len(request.body) for request in moto_proxy.requests if request.is_part)
    assert parts == [17, PART, PART, PART]


def test_a_small_object_takes_one_request_to_send(through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile) -> None:
    source, digest = make_file(PART)
    through_proxy().put(source, KEY, digest)
    assert [len(request.body) for request in moto_proxy.seen("PUT", "POST")] == [PART]


def test_an_object_of_any_size_fits_into_ten_thousand_parts() -> None:
    for size in (0, 1, 640_000 << 20, (640_000 << 20) + 1, 5 << 40):
        part = part_size_for(size, 64 << 20)
        assert part >= 64 << 20
        assert -(-size // part) <= 10_000
    assert part_size_for(640_000 << 20, 64 << 20) == 64 << 20


def test_a_part_size_that_s3_does_not_allow_is_a_mistake_in_the_settings(moto: S3Server) -> None:
    with pytest.raises(ValueError, match="part_size_mib"):
        made(moto, part_size_mib=1)


def test_storing_the_same_again_sends_nothing(through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile) -> None:
    source, digest = make_file(PART + 1)
    target = through_proxy()
    target.put(source, KEY, digest)
    sent = len(moto_proxy.seen("PUT", "POST"))
    target.put(source, KEY, digest)
    assert len(moto_proxy.seen("PUT", "POST")) == sent


def test_no_more_memory_is_used_for_a_large_object_than_for_a_small_one(rclone: S3Server, tmp_path: Path) -> None:
    script = """
import hashlib, json, resource, sys
from pathlib import Path
from twist_dr.storage.base import Digest
from twist_dr_tests.storage.conftest import Place
kind, arguments, folder = json.loads(sys.argv[1])
target = Place(kind, arguments).target()
for size in (100 << 10, 200 << 20):
    source, found = Path(folder, str(size)), hashlib.sha256()
    with source.open("wb") as stream:
        for _ in range(0, size, 100 << 10):
            stream.write(b"x" * (100 << 10)), found.update(b"x" * (100 << 10))
    target.put(source, str(size), Digest(size, found.hexdigest()))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""
    place = s3_place(rclone, part_size_mib=64)
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([place.kind, place.arguments, str(tmp_path)])],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    small, large = (int(line) for line in done.stdout.split())
    assert large - small < 30_000, "kilobytes"


# -- bad networks and overloaded stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 503, 522])
def test_an_overloaded_store_is_asked_again_part_by_part(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile, status: int
) -> None:
    source, digest = make_file(2 * PART)
    moto_proxy.fault = once(2, Fault(status), is_part)
    target = through_proxy()
    target.put(source, KEY, digest)
    assert read(target) == source.read_bytes()
    assert len([request for request in moto_proxy.requests if request.is_part]) == 4


def test_a_connection_cut_while_sending_is_made_again(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(2 * PART)
    moto_proxy.fault = once(2, Fault(drop=True), is_part)
    target = through_proxy()
    target.put(source, KEY, digest)
    assert read(target) == source.read_bytes()


def test_a_store_that_stays_overloaded_is_given_up_and_nothing_remains(
    moto: S3Server, through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(2 * PART)
    moto_proxy.fault = lambda request: Fault(503, "SlowDown") if request.is_part else None
    target = through_proxy(max_attempts=2)
    with pytest.raises(TargetUnavailable, match=r"offsite: .*run again later"):
        target.put(source, KEY, digest)
    assert_nothing_left(moto, target)


def test_an_answer_lost_on_the_way_does_not_make_our_own_object_look_foreign(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    for size, which in (
        (10, is_put),
        (2 * PART, lambda request: request.method == "POST" and "uploadId" in request.path),
    ):
        source, digest = make_file(size)
        moto_proxy.fault = once(1, Fault(lose_answer=True), which)
        target = through_proxy()
        target.put(source, KEY, digest)
        assert read(target) == source.read_bytes()


def test_a_download_that_breaks_goes_on_where_it_stopped(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(3 << 20)
    target = through_proxy()
    target.put(source, KEY, digest)
    moto_proxy.requests.clear()
    moto_proxy.fault = once(2, Fault(cut_after=1_200_000), is_read)
    assert read(target) == source.read_bytes()
    assert [request.headers.get("range") for request in moto_proxy.requests] == [
        None,
        "bytes=1200000-",
        "bytes=2400000-",
    ]


def test_a_download_that_never_gets_on_is_an_error_and_never_a_short_object(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(100_000)
    target = through_proxy()
    target.put(source, KEY, digest)
    moto_proxy.fault = lambda request: Fault(cut_after=0 if "range" in request.headers else 1000)
    with pytest.raises(TargetUnavailable, match="reading stopped after 1000 of 100000 bytes"):
        read(target)


def test_an_object_replaced_while_it_is_read_is_not_stitched_together(
    moto: S3Server, through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(100_000)
    target = through_proxy()
    target.put(source, KEY, digest)
    moto_proxy.fault = once(1, Fault(cut_after=1000), is_read)
    with target.open(KEY) as stream:
        moto.client().put_object(Bucket=BUCKET, Key=f"{target.prefix}{KEY}", Body=b"y" * 50_000)
        with pytest.raises(ObjectCorrupt, match="changed"):
            stream.read()


def test_a_server_that_is_down_is_said_to_be_unreachable(moto: S3Server, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = made(moto, endpoint_url="http://127.0.0.1:9", max_attempts=2)
    for use in (target.prepare, lambda: target.stat(KEY), lambda: target.put(source, KEY, digest)):
        with pytest.raises(TargetUnavailable, match=r"offsite: .*endpoint_url"):
            use()


# -- what is stored is what was sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, PART + 1000])
def test_bytes_altered_on_the_way_are_found_and_removed(
    moto: S3Server, through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile, size: int
) -> None:
    source, digest = make_file(size)
    moto_proxy.fault = once(1, Fault(flip=True), is_put)
    target = through_proxy()
    with pytest.raises(ObjectCorrupt):
        target.put(source, KEY, digest)
    assert_nothing_left(moto, target)


def test_bytes_altered_on_the_servers_disk_are_found(
    rclone: S3Server, rclone_folder: Path, make_file: MakeFile
) -> None:
    source, digest = make_file(b"some bytes")
    target = made(rclone)
    target.put(source, KEY, digest)
    (rclone_folder / BUCKET / target.prefix / KEY).write_bytes(b"some bytez")
    with pytest.raises(ObjectCorrupt, match="another target"):
        target.check(KEY, digest)
    with pytest.raises(ObjectExists, match="damaged"):
        target.put(source, KEY, digest)


def test_a_store_that_believes_any_checksum_is_not_believed(
    moto: S3Server, through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(PART + 1)
    target = through_proxy(checksum="server")
    target.put(source, KEY, digest)
    assert len([request for request in moto_proxy.requests if is_read(request)]) == 1, "it was read back"
    found = target.probe()
    assert found.checksum == "read-back"
    assert "read back" in " ".join(found.notes)
    assert [entry.key for entry in target.list("")] == [KEY]


@pytest.mark.parametrize("size", [1000, 2 * PART + 1])
def test_a_store_that_checks_sha256_itself_spares_the_reading_back(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile, size: int
) -> None:
    moto_proxy.fault = refuse_wrong_sha256
    source, digest = make_file(size)
    target = through_proxy(checksum="server")
    target.put(source, KEY, digest)
    target.put(source, KEY, digest)
    assert [request for request in moto_proxy.requests if is_read(request)] == []
    assert target.probe().checksum == "server"
    assert read(target) == source.read_bytes()


def test_where_the_store_keeps_no_checksum_the_object_is_read(
    moto: S3Server, through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    """As for objects that were stored before the store, or its settings, knew SHA-256."""
    moto_proxy.fault = refuse_wrong_sha256
    source, digest = make_file(b"some bytes")
    target = through_proxy(checksum="server")
    moto.client().put_object(Bucket=BUCKET, Key=f"{target.prefix}{KEY}", Body=b"some bytes")
    target.put(source, KEY, digest)
    assert len([request for request in moto_proxy.requests if is_read(request)]) == 1
    moto.client().put_object(Bucket=BUCKET, Key=f"{target.prefix}{KEY}", Body=b"some bytez")
    with pytest.raises(ObjectExists):
        target.put(source, KEY, digest)


# -- write once -------------------------------------------------------------------------------------------------------


def test_two_writers_at_once_cannot_replace_each_others_object(
    moto: S3Server, through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    """The other writer stores his between our look whether there is one and our own sending."""
    for size in (10, PART + 10):
        source, digest = make_file(size)
        target = through_proxy()
        key = f"{target.prefix}{KEY}"

        def fault(request: Request, key: str = key) -> Fault | None:
            if request.method in ("PUT", "POST"):
                moto.client().put_object(Bucket=BUCKET, Key=key, Body=b"the other's")
            return None

        moto_proxy.fault = fault
        with pytest.raises(ObjectExists):
            target.put(source, KEY, digest)
        assert read(target) == b"the other's"
        assert target.sweep(NOW) == 0


def test_a_store_without_conditional_writes_is_still_written_to(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    moto_proxy.fault = lambda request: Fault(501, "NotImplemented") if "if-none-match" in request.headers else None
    target = through_proxy(max_attempts=1)
    for key, size in (("a", 10), ("b", 10), ("c", PART + 1)):
        target.put(*_swap(key, make_file(size)))
    tried = [request for request in moto_proxy.requests if "if-none-match" in request.headers]
    assert len(tried) == 1, "asked once, then known"
    found = target.probe()
    assert not found.write_once
    assert "one process at a time" in " ".join(found.notes)


def _swap(key: str, made: tuple[Path, object]) -> tuple[Path, str, object]:
    return made[0], key, made[1]


# -- credentials, buckets, clocks, quotas -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"secret_access_key": "wrong-secret"}, "secret key"), ({"access_key_id": "wrong-key"}, "access key")],
)
def test_wrong_credentials_are_refused_with_what_to_correct_and_never_shown(
    rclone: S3Server, make_file: MakeFile, wrong: dict[str, str], says: str
) -> None:
    source, digest = make_file()
    target = made(rclone, **wrong)
    for use in (
        target.prepare,
        lambda: target.stat(KEY),
        lambda: target.open(KEY),
        lambda: list(target.list("")),
        lambda: target.put(source, KEY, digest),
        lambda: target.sweep(NOW),
    ):
        with pytest.raises(TargetRefused, match=rf"{says}.*storage_targets\.offsite") as caught:
            use()
        assert rclone.secret_key not in str(caught.value)
        assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize("store", ["moto", "rclone"])
def test_a_bucket_that_does_not_exist_is_not_taken_for_an_empty_one(
    request: pytest.FixtureRequest, make_file: MakeFile, store: str
) -> None:
    source, digest = make_file()
    target = made(request.getfixturevalue(store), bucket="absent-bucket")
    for use in (
        target.prepare,
        lambda: target.stat(KEY),
        lambda: target.open(KEY),
        lambda: list(target.list("")),
        lambda: target.children(""),
        lambda: target.put(source, KEY, digest),
        lambda: target.delete(KEY),
        target.probe,
    ):
        with pytest.raises(
            TargetUnavailable, match=r"'absent-bucket' does not exist.*storage_targets\.offsite\.bucket"
        ):
            use()


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (403, "RequestTimeTooSkewed", TargetRefused, "clock"),
        (403, "AccessDenied", CredentialsRefused, "s3:PutObject"),
        (507, "QuotaExceeded", TargetFull, "quota"),
        (507, "Whatever", TargetFull, "full"),
        (400, "ExpiredToken", CredentialsRefused, "expired"),
    ],
)
def test_what_a_store_refuses_is_said_in_words_and_leaves_nothing(
    moto: S3Server,
    through_proxy: Make,
    moto_proxy: Proxy,
    make_file: MakeFile,
    status: int,
    code: str,
    error: type[StorageError],
    says: str,
) -> None:
    source, digest = make_file(PART + 1)
    moto_proxy.fault = lambda request: Fault(status, code) if is_put(request) else None
    target = through_proxy()
    with pytest.raises(error, match=rf"^offsite: .*{says}") as refused:
        target.put(source, KEY, digest)
    assert refused.type is error and f"({code}, HTTP {status})" in refused.value.what
    assert_nothing_left(moto, target)


def test_a_clock_that_differs_is_noted_before_it_is_refused(through_proxy: Make, moto_proxy: Proxy) -> None:
    moto_proxy.fault = lambda request: Fault(date_shift=600)
    found = through_proxy().probe()
    assert found.clock_skew_seconds == pytest.approx(600, abs=5)
    assert "clock" in " ".join(found.notes)


def test_the_secret_appears_in_no_text_of_the_target(moto: S3Server) -> None:
    target = made(moto)
    # The settings refuse such an address.
    hiding = {"endpoint_url": moto.endpoint.replace("//", "//user:hidden@")}
    target = S3Target("offsite", target._connection.options.model_copy(update=hiding))
    for text in (repr(target), str(target), target.location):
        assert moto.secret_key not in text
        assert "hidden" not in text


def test_importing_the_target_does_not_import_boto3() -> None:
    code = (
        "import sys, twist_dr.settings; print('twist_dr.storage.s3_target' in sys.modules);"
        "import twist_dr.storage.s3_target; print([m for m in ('boto3', 'botocore', 'urllib3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "[]"]


# -- versions and locks -----------------------------------------------------------------------------------------------


@pytest.fixture
def locked_bucket(moto: S3Server) -> Iterator[str]:
    bucket = f"locked-{uuid.uuid4().hex}"
    moto.client().create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    yield bucket


@pytest.mark.parametrize("size", [10, PART + 1])
@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_locked_object_is_not_deleted_and_the_message_says_until_when(
    moto: S3Server, locked_bucket: str, make_file: MakeFile, size: int, mode: str
) -> None:
    source, digest = make_file(size)
    target = made(moto, bucket=locked_bucket, object_lock_days=30, object_lock_mode=mode)
    target.put(source, KEY, digest)
    until = datetime.now(timezone.utc) + timedelta(days=30)
    with pytest.raises(TargetRefused, match=f"locked .* until {until:%Y-%m-%d}"):
        target.delete(KEY)
    target.check(KEY, digest)
    head = moto.client().head_object(Bucket=locked_bucket, Key=f"{target.prefix}{KEY}")
    assert head["ObjectLockMode"] == mode


@pytest.mark.parametrize("store", ["moto", "rclone"])
def test_a_bucket_that_cannot_lock_is_an_error_and_not_a_silent_success(
    request: pytest.FixtureRequest, make_file: MakeFile, store: str
) -> None:
    source, digest = make_file(PART + 1)
    target = made(request.getfixturevalue(store), object_lock_days=30)
    for _ in range(2):
        with pytest.raises(TargetRefused, match=r"does not do Object Lock"):
            target.put(source, KEY, digest)
    assert target.stat(KEY) is None


def test_an_object_under_legal_hold_is_not_deleted(moto: S3Server, locked_bucket: str, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = made(moto, bucket=locked_bucket)
    target.put(source, KEY, digest)
    moto.client().put_object_legal_hold(Bucket=locked_bucket, Key=f"{target.prefix}{KEY}", LegalHold={"Status": "ON"})
    with pytest.raises(TargetRefused, match="legal hold"):
        target.delete(KEY)
    target.check(KEY, digest)


def test_locked_uploads_carry_the_checksum_that_object_lock_demands(
    through_proxy: Make, moto_proxy: Proxy, locked_bucket: str, make_file: MakeFile
) -> None:
    target = through_proxy(bucket=locked_bucket, object_lock_days=1)
    target.put(*_swap("erp/small", make_file(10)))
    target.put(*_swap("erp/large", make_file(PART + 1)))
    uploads = [request for request in moto_proxy.seen("PUT") if "retention" not in request.path]
    assert len(uploads) == 3
    assert all("content-md5" in request.headers for request in uploads)


def test_the_test_of_a_bucket_with_versions_says_so_and_leaves_no_version(moto: S3Server, locked_bucket: str) -> None:
    target = made(moto, bucket=locked_bucket)
    notes = " ".join(target.probe().notes)
    assert "keeps versions" in notes
    assert "Object Lock is on" in notes
    left = moto.client().list_object_versions(Bucket=locked_bucket)
    assert left.get("Versions", []) == []
    assert left.get("DeleteMarkers", []) == []


# -- unfinished uploads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["moto", "rclone"])
def test_a_writer_killed_while_sending_a_single_request_leaves_nothing_to_see(
    request: pytest.FixtureRequest, make_file: MakeFile, store: str
) -> None:
    from twist_dr_tests.storage.test_contract import kill_a_writer_in_the_middle

    place = s3_place(request.getfixturevalue(store), part_size_mib=64)
    source, digest = make_file(16 << 20)
    kill_a_writer_in_the_middle(place, source, digest)
    target = place.target()
    assert target.stat(KEY) is None
    assert list(target.list("")) == []
    target.put(source, KEY, digest)


def test_sweep_leaves_the_uploads_of_others_alone(moto: S3Server) -> None:
    client, target = moto.client(), made(moto)
    foreign = client.create_multipart_upload(Bucket=BUCKET, Key="elsewhere/object")["UploadId"]
    client.create_multipart_upload(Bucket=BUCKET, Key=f"{target.prefix}erp/object")
    assert target.sweep(NOW) == 1
    left = client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [upload["UploadId"] for upload in left] == [foreign]
    client.abort_multipart_upload(Bucket=BUCKET, Key="elsewhere/object", UploadId=foreign)


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_cancelled_upload_stops_at_once_and_is_not_tried_again(
    through_proxy: Make, moto_proxy: Proxy, make_file: MakeFile, attempts: int
) -> None:
    source, digest = make_file(4 * PART)

    def cancel(count: int) -> None:
        raise Cancelled("asked to stop")

    start = time.monotonic()
    with pytest.raises(Cancelled):
        through_proxy(connections=2, max_attempts=attempts).put(source, KEY, digest, cancel)
    assert time.monotonic() - start < 3
    assert [request for request in moto_proxy.requests if request.is_part] == []


def test_folders_made_by_a_web_console_are_not_listed_as_objects(moto: S3Server, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = made(moto)
    target.put(source, KEY, digest)
    moto.client().put_object(Bucket=BUCKET, Key=f"{target.prefix}erp/", Body=b"")
    assert [entry.key for entry in target.list("")] == [KEY]
    assert target.children("erp") == ["backups"]
