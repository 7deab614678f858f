"""Answers that no server should give, and moments in which none comes: an error of ours or a cautious reading, never a traceback or a thing left behind."""

from __future__ import annotations

import http.server
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from twist_dr.errors import ObjectCorrupt
from twist_dr.storage.rclone_calls import RcloneCalls, RcloneFailed, RcloneGone
from twist_dr.storage.rclone_log import RcloneLog
from twist_dr.storage.rclone_target import RcloneTarget
from twist_dr_tests.storage.conftest import MakeFile, far_place, own_remote_place, rclone_place
from twist_dr_tests.storage.test_contract import KEY

NAME = f"{1:010d}-{'0' * 32}"


class OddWebdav(http.server.ThreadingHTTPServer):
    """In each folder of it lies one object, with the properties that ``told`` says."""

    told = "<D:getcontentlength>5</D:getcontentlength>"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.deleted: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_PROPFIND(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = cast(OddWebdav, self.server).told
        folder = "" if self.path.endswith(NAME) else self.path.rstrip("/") + "/"
        shown = [(folder, "<D:resourcetype><D:collection/></D:resourcetype>")] if folder else []
        shown += [((folder or self.path.removesuffix(NAME)) + NAME, f"<D:resourcetype/>{told}")]
        every = "".join(
            f"<D:response><D:href>{path}</D:href><D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
            for path, properties in shown
        )
        self._answer(207, f'<D:multistatus xmlns:D="DAV:">{every}</D:multistatus>'.encode())

    def do_GET(self) -> None:
        self._answer(200, b"bytes")

    def do_DELETE(self) -> None:
        cast(OddWebdav, self.server).deleted.append(self.path)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[OddWebdav]:
    with OddWebdav() as server:
        yield server
        server.shutdown()


@pytest.fixture
def odd(server: OddWebdav, machine_folder: Path) -> RcloneTarget:
    login = {"url": f"http://127.0.0.1:{server.server_port}", "user": "u", "password": "p", "path": "x"}
    return cast(RcloneTarget, rclone_place(machine_folder, "odd", type="webdav", **login).target())


def test_an_object_whose_time_is_not_told_counts_as_new_so_that_no_retention_takes_it(
    server: OddWebdav, odd: RcloneTarget
) -> None:
    size = OddWebdav.told
    before = datetime.now(timezone.utc)
    for told in (
        None,
        "",
        "yesterday",
        "Mon, 01 Jan 0001 00:00:00 GMT",
    ):
        server.told = size if told is None else f"{size}<D:getlastmodified>{told}</D:getlastmodified>"
        (listed,) = odd.list("erp")
        found = odd.stat(listed.key)
        assert found is not None and found.size == listed.size == 5
        assert before <= listed.modified <= found.modified <= datetime.now(timezone.utc), told


def test_what_was_begun_long_ago_is_swept_although_its_time_is_not_told(server: OddWebdav, odd: RcloneTarget) -> None:
    assert odd.sweep(timedelta(days=1)) == 1
    assert server.deleted == [f"/x/.incoming/{NAME}"]


def test_an_object_whose_size_is_not_told_cannot_be_read(server: OddWebdav, odd: RcloneTarget) -> None:
    server.told = "<D:getcontentlength>-1</D:getcontentlength>"
    with pytest.raises(ObjectCorrupt, match=r"odd: erp/\S+: the WebDAV server does not tell how many bytes it has"):
        odd.open(f"erp/{NAME}")


@pytest.mark.promise(2)
def test_bytes_that_the_target_altered_are_found_by_reading_them_back_and_nothing_remains(
    tmp_path: Path, machine_folder: Path, make_file: MakeFile
) -> None:
    target, (source, digest) = own_remote_place(machine_folder, tmp_path).target(), make_file(b"some bytes")
    target.prepare()

    def alter(count: int) -> None:
        for path in (tmp_path / "remote").rglob(".incoming/*"):
            path.write_bytes(b"same-bytes")

    with pytest.raises(ObjectCorrupt):
        target.put(source, KEY, digest, alter)
    assert [path for path in (tmp_path / "remote").rglob("*") if path.is_file()] == []
    target.put(source, KEY, digest)


def test_an_answer_that_is_cut_short_is_none() -> None:
    def answer() -> None:
        with listener.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"item": nu')

    # A short path, as the kernel wants it (unix(7), sun_path).
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "s"
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=answer, daemon=True).start()
        calls = RcloneCalls(path, RcloneLog(), 10.0)
        with pytest.raises(RcloneGone):
            calls.stat("target:", KEY)
        assert calls.gone


def test_an_interrupt_just_when_a_transfer_begins_stops_it(
    request: pytest.FixtureRequest, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, (source, digest) = cast(RcloneTarget, far_place(request, "gcs").target()), make_file(60 << 20)
    begin_copy, begun = RcloneCalls.begin_copy, list[int]()

    def begin(calls: RcloneCalls, *arguments: Any) -> int:
        begun.append(begin_copy(calls, *arguments))
        signal.raise_signal(signal.SIGINT)
        return begun[0]

    monkeypatch.setattr(RcloneCalls, "begin_copy", begin)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            target.put(source, KEY, digest)
    finally:
        signal.signal(signal.SIGINT, before)
    with suppress(RcloneFailed):
        while not target.session.calls().ended(begun[0]):
            time.sleep(0.01)
    assert target.stat(KEY) is None
