"""An upload in parts that was cut short goes on with the parts that the store has: counted where they arrive."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from twist_dr.errors import Cancelled, TargetUnavailable
from twist_dr.storage.base import Digest, StorageTarget
from twist_dr.storage.s3_target import S3Target
from twist_dr_tests.storage.conftest import BUCKET, PART, MakeFile, Place, s3_place
from twist_dr_tests.storage.proxy import Fault, Proxy, Request, proxy_to, refuse_wrong_sha256
from twist_dr_tests.storage.servers import S3Server
from twist_dr_tests.storage.test_contract import KEY, kill_a_writer_in_the_middle, read

NOW = timedelta(0)


@pytest.fixture
def place(moto: S3Server, moto_proxy: Proxy, tmp_path: Path) -> Place:
    """On moto through the proxy, over one connection, so that parts come in their order; what is under way is noted."""
    return noted(s3_place(moto, endpoint_url=moto_proxy.endpoint, connections=1, max_attempts=1), tmp_path)


def noted(place: Place, tmp_path: Path) -> Place:
    place.arguments["notes"] = str(tmp_path / "uploads")
    return place


def number(part: Request) -> int:
    return int(parse_qs(urlsplit(part.path).query)["partNumber"][0])


def parts(proxy: Proxy) -> list[int]:
    """The numbers of the parts that came since this was asked last."""
    found = [number(each) for each in proxy.requests if each.is_part]
    proxy.requests.clear()
    return found


def cut_off(place: Place, proxy: Proxy, source: Path, digest: Digest, after: int) -> None:
    """Send so many parts; then the network goes away for good."""

    def fault(request: Request) -> Fault | None:
        away = request.is_part and number(request) > after
        if away:
            proxy.fault = lambda each: Fault(drop=True)
        return Fault(drop=True) if away else None

    proxy.fault = fault
    with pytest.raises(TargetUnavailable):
        place.target().put(source, KEY, digest)
    proxy.fault = lambda each: None
    proxy.requests.clear()


def uploads(server: S3Server, target: StorageTarget) -> list[dict[str, Any]]:
    assert isinstance(target, S3Target)
    found = server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=target.prefix)
    return list(found.get("Uploads", []))


@pytest.mark.promise(8)
@pytest.mark.parametrize("store", ["moto", "rclone"])
def test_what_a_killed_writer_had_sent_is_not_sent_again(
    request: pytest.FixtureRequest, make_file: MakeFile, tmp_path: Path, store: str
) -> None:
    server = request.getfixturevalue(store)
    source, digest = make_file(10 * PART)
    with proxy_to(server.endpoint) as proxy:
        place = noted(s3_place(server, endpoint_url=proxy.endpoint, connections=1), tmp_path)
        kill_a_writer_in_the_middle(place, source, digest)
        proxy.requests.clear()
        target = place.target()
        assert target.stat(KEY) is None
        assert target.sweep(timedelta(hours=1)) == 0, "what may be gone on with must stay"
        target.put(source, KEY, digest)
        assert sum(len(each.body) for each in proxy.requests if each.is_part) == 6 * PART
        assert parts(proxy) == [5, 6, 7, 8, 9, 10]
    target.check(KEY, digest)
    assert uploads(server, target) == [] and list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize("checksum", ["read-back", "server"])
def test_an_upload_that_lost_its_network_goes_on_when_it_is_back(
    place: Place, moto_proxy: Proxy, make_file: MakeFile, checksum: str
) -> None:
    place.arguments["checksum"] = checksum
    source, digest = make_file(5 * PART + 1)
    cut_off(place, moto_proxy, source, digest, after=3)
    moto_proxy.fault = refuse_wrong_sha256
    place.target().put(source, KEY, digest)
    assert parts(moto_proxy) == [4, 5, 6]
    assert read(place.target(), KEY) == source.read_bytes()


def test_other_bytes_under_the_key_are_sent_whole_and_the_old_upload_is_taken_back(
    place: Place, moto: S3Server, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(4 * PART)
    cut_off(place, moto_proxy, source, digest, after=3)
    other = source.read_bytes()[: 3 * PART] + b"x" * PART
    source.write_bytes(other)
    target = place.target()
    target.put(source, KEY, Digest(len(other), hashlib.sha256(other).hexdigest()))
    assert parts(moto_proxy) == [1, 2, 3, 4]
    assert read(target, KEY) == other
    assert uploads(moto, target) == []


def test_a_part_that_is_not_as_it_was_sent_is_sent_again(
    place: Place, moto: S3Server, moto_proxy: Proxy, make_file: MakeFile
) -> None:
    source, digest = make_file(4 * PART)
    cut_off(place, moto_proxy, source, digest, after=3)
    target = place.target()
    (upload,) = uploads(moto, target)
    where = {"Bucket": BUCKET, "Key": upload["Key"], "UploadId": upload["UploadId"]}
    moto.client().upload_part(**where, PartNumber=2, Body=b"y" * PART)
    target.put(source, KEY, digest)
    assert parts(moto_proxy) == [2, 4]
    target.check(KEY, digest)


@pytest.mark.parametrize("lost", ["upload", "note", "garbage", "torn", "other settings"])
def test_what_cannot_be_gone_on_with_begins_anew(
    place: Place, moto: S3Server, moto_proxy: Proxy, make_file: MakeFile, tmp_path: Path, lost: str
) -> None:
    source, digest = make_file(4 * PART)
    cut_off(place, moto_proxy, source, digest, after=3)
    (note,) = (tmp_path / "uploads").iterdir()
    sent = [1, 2, 3, 4]
    if lost == "upload":
        assert place.target().sweep(NOW) == 1
    elif lost == "note":
        note.unlink()
    elif lost == "garbage":
        note.write_bytes(b'[\xff]\n{"number": 1}\n')
    elif lost == "torn":
        note.write_bytes(note.read_bytes()[:-30])
        sent = [3, 4]
    else:
        place.arguments["storage_class"] = "STANDARD_IA"
    target = place.target()
    target.put(source, KEY, digest)
    assert parts(moto_proxy) == sent
    target.check(KEY, digest)


def test_two_writers_of_one_object_send_it_once(place: Place, moto_proxy: Proxy, make_file: MakeFile) -> None:
    source, digest = make_file(4 * PART)
    start = threading.Barrier(3)

    def store() -> None:
        start.wait()
        place.target().put(source, KEY, digest)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(store) for _ in range(3)]:
            future.result()
    assert parts(moto_proxy) == [1, 2, 3, 4]
    place.target().check(KEY, digest)


def test_a_writer_that_waits_for_another_can_be_stopped(place: Place, make_file: MakeFile, tmp_path: Path) -> None:
    source, digest = make_file(2 * PART)
    sending, ended = threading.Event(), threading.Event()

    def hold(count: int) -> None:
        sending.set()
        ended.wait()

    def stop(count: int) -> None:
        raise Cancelled("asked to stop")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(place.target().put, source, KEY, digest, hold)
        assert sending.wait(30)
        with pytest.raises(Cancelled):
            place.target().put(source, KEY, digest, stop)
        ended.set()
        first.result()


def test_a_cancelled_upload_is_taken_back_with_what_earlier_ones_had_sent(
    place: Place, moto: S3Server, moto_proxy: Proxy, make_file: MakeFile, tmp_path: Path
) -> None:
    source, digest = make_file(4 * PART)
    cut_off(place, moto_proxy, source, digest, after=2)

    def stop(count: int) -> None:
        raise Cancelled("asked to stop")

    with pytest.raises(Cancelled):
        place.target().put(source, KEY, digest, stop)
    assert uploads(moto, place.target()) == [] and list((tmp_path / "uploads").iterdir()) == []


def test_sweep_leaves_an_upload_that_got_a_part_lately_however_long_ago_it_began(
    place: Place, moto: S3Server, moto_proxy: Proxy, make_file: MakeFile, tmp_path: Path
) -> None:
    """moto says of each upload that it began in 2010."""
    source, digest = make_file(3 * PART)
    cut_off(place, moto_proxy, source, digest, after=1)
    target = place.target()
    assert target.sweep(timedelta(days=2)) == 0 and len(uploads(moto, target)) == 1
    assert target.sweep(NOW) == 1
    assert uploads(moto, target) == [] and list((tmp_path / "uploads").iterdir()) == []
