"""The heartbeat is called, takes no longer than it may, and tells nothing of its secret path."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from twist_dr.watch.alerts.heartbeat import beat
from twist_dr_tests.watch.alerts.mailbox import self_signed, silent_server, webhook


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def test_the_url_is_called_with_get() -> None:
    with webhook() as hook:
        assert beat(SecretStr(hook.http_url + "?a=b"), 5) is None
    (get,) = hook.calls
    assert (get.method, get.path, get.body) == ("GET", "/beat?a=b", b"")


def test_any_success_counts_and_nothing_else() -> None:
    with webhook() as hook:
        for status in (200, 202, 204):
            hook.status = status
            assert beat(hook.http_url, 5) is None
        for status in (302, 304, 400, 404, 500, 503):
            hook.status = status
            assert str(status) in str(beat(hook.http_url, 5))


def test_a_redirect_on_the_same_server_is_followed_and_one_to_elsewhere_is_no_success() -> None:
    with webhook() as good, webhook(302) as hook:
        hook.answer_headers["Location"] = good.http_url
        assert beat(hook.http_url, 5) is None
        hook.answer_headers["Location"] = good.http_url.replace("127.0.0.1", "localhost")
        error = beat(hook.http_url, 5)
        assert "302 Found and leads to another place" in str(error)
        hook.answer_headers["Location"] = "file:///etc/hostname"
        assert beat(hook.http_url, 5) is not None
        hook.answer_headers["Location"] = hook.http_url
        assert beat(hook.http_url, 5) is not None
    assert len(good.calls) == 1


@pytest.mark.parametrize("trickle", [b"", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400])
def test_a_server_that_hangs_or_trickles_costs_no_more_than_the_time_it_was_given(trickle: bytes) -> None:
    with silent_server(trickle) as port:
        began = time.monotonic()
        error = beat(f"http://127.0.0.1:{port}/s3cret", 1)
        assert time.monotonic() - began < 3
    assert error == "the heartbeat's server 127.0.0.1 did not answer within 1 s."


def test_an_answer_without_an_end_is_a_success_at_its_status() -> None:
    with silent_server(b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 1000) as port:
        assert beat(f"http://127.0.0.1:{port}/", 4) is None


def test_a_server_that_hangs_keeps_no_process_from_ending() -> None:
    with silent_server(b"HTTP/1.1 200 OK") as port:
        program = f"from twist_dr.watch.alerts.heartbeat import beat; print(beat('http://127.0.0.1:{port}/x', 0.5))"
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
        assert "did not answer" in done.stdout and time.monotonic() - began < 10


@pytest.mark.promise(6)
def test_no_failure_tells_the_path_or_the_login() -> None:
    with webhook(500) as failing, silent_server(b"s3cret-path robot:hunter2 nonsense\r\n") as nonsense:
        with webhook() as gone:
            pass
        errors = [
            beat(f"http://robot:hunter2@127.0.0.1:{port}/s3cret-path?key=s3cret-path", 3)
            for port in (failing.port, gone.port, nonsense)
        ]
    errors.append(beat("http://robot:hunter2@host name/s3cret-path", 3))
    errors.append(beat("http://robot:hunter2@127.0.0.1:port/s3cret-path", 3))
    errors.append(beat("http://127.0.0.1/s3cret-path\r\nX: y", 3))
    errors.append(beat("https://127.0.0.1:9/s3cret-pöth", 3))
    assert all(errors)
    assert "500" in str(errors[0]) and "Connection refused" in str(errors[1]) and "not HTTP" in str(errors[2])
    for error in errors:
        assert "s3cret" not in str(error) and "hunter2" not in str(error) and "robot" not in str(error)


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "//host/x", "http://[::1/x"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert "alerts.heartbeat.url" in str(beat(url, 3))


def test_an_untrusted_certificate_is_said_as_that(tmp_path: Path) -> None:
    with webhook(tls=self_signed(tmp_path)) as hook:
        error = beat(hook.http_url.replace("http:", "https:"), 5)
    assert "certificate is not trusted (self-signed certificate)" in str(error) and not hook.calls


def test_a_login_in_the_url_is_used() -> None:
    with webhook() as hook:
        assert beat(hook.http_url.replace("//", "//robot:p%40ss@"), 5) is None
    assert hook.calls[0].headers["Authorization"] == "Basic " + base64.b64encode(b"robot:p@ss").decode()


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.delenv("NO_PROXY")
        assert beat("http://beats.example/s3cret", 5) is None
    assert proxy.calls[0].path == "http://beats.example/s3cret"
