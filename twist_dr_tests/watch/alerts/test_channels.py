"""Messages arrive at real servers; a channel that is down, hangs or is written wrongly harms nobody and tells no secret."""

from __future__ import annotations

import base64
import logging
import os
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from twist_dr.redaction import hiding_url
from twist_dr.system.severity import Severity
from twist_dr.watch.alerts.channels import (
    Channel,
    Delivery,
    Message,
    channel_error,
    channel_errors,
    deliver,
    deliver_all,
)
from twist_dr_tests.watch.alerts.mailbox import RECIPIENT, SENDER, mailbox, self_signed, silent_server, webhook

#: What the sending process may take on top of a channel's time, on a machine that is busy.
START = 8.0


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def message(
    subject: str = "[erp] ERROR: backup failed",
    body: str = "pg_dump ended.\nLook at it.",
    severity: Severity = "error",
    **more: str,
) -> Message:
    return Message(subject, body, severity, more.get("event", "raised"))  # type: ignore[arg-type]


def closed_port() -> int:
    with webhook() as hook:
        return hook.port


def test_a_mail_arrives_as_plain_text_with_its_subject() -> None:
    with mailbox() as box:
        done = deliver(Channel("mail", SecretStr(box.url)), message())
    assert done == Delivery("mail", ok=True, seconds=done.seconds, reached=True)
    (mail,) = box.mails
    assert (mail.sender, mail.recipients) == (SENDER, [RECIPIENT])
    assert mail.subject == "[erp] ERROR: backup failed"
    assert mail.body.strip() == "pg_dump ended.\nLook at it."
    assert mail.message.get_content_type() == "text/plain"


def test_a_webhook_gets_json() -> None:
    with webhook() as hook:
        assert deliver(Channel("chat", hook.url), message(severity="critical")).ok
    (call,) = hook.calls
    assert call.method == "POST" and call.path == "/hook"
    assert call.json["title"] == "[erp] ERROR: backup failed"
    assert call.json["message"] == "pg_dump ended.\nLook at it."
    assert call.json["type"] == "failure"


def test_services_that_colour_by_type_are_told_that_it_is_over() -> None:
    with webhook() as hook:
        deliver(Channel("chat", hook.url), message(event="resolved"))
    assert hook.calls[0].json["type"] == "success"


def test_one_channel_that_is_down_and_one_that_hangs_keep_no_message_from_the_others() -> None:
    with mailbox() as box, webhook() as hook, silent_server() as hanging, silent_server(b"220-wait\r\n") as trickling:
        channels = [
            Channel("down", f"mailto://127.0.0.1:{closed_port()}?from={SENDER}&to={RECIPIENT}"),
            Channel("hangs", f"mailto://127.0.0.1:{hanging}?from={SENDER}&to={RECIPIENT}", timeout_seconds=1.5),
            Channel("trickles", f"mailto://127.0.0.1:{trickling}?from={SENDER}&to={RECIPIENT}", timeout_seconds=1.5),
            Channel("web hangs", f"json://127.0.0.1:{hanging}/token", timeout_seconds=1.5),
            Channel("wrong", "nosuch://token"),
            Channel("mail", box.url),
            Channel("chat", hook.url),
        ]
        began = time.monotonic()
        done = {each.channel: each for each in deliver_all(channels, message())}
        took = time.monotonic() - began
    assert took < 1.5 + START
    assert [name for name in done if done[name].ok] == ["mail", "chat"]
    assert len(box.mails) == len(hook.calls) == 1
    assert "Connection refused" in str(done["down"].error)
    for name in ("hangs", "trickles", "web hangs"):
        assert done[name].error == "127.0.0.1 did not take the message within 1.5 s."
        assert 1.4 < done[name].seconds < 1.5 + START
    assert "nosuch://" in str(done["wrong"].error)
    assert done["mail"].seconds < 1.4, "a channel that hangs makes the others wait"


def test_nothing_is_left_behind_after_a_server_that_hangs() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    with silent_server(b"220-wait\r\n") as trickling:
        deliver(
            Channel("x", f"mailto://127.0.0.1:{trickling}?from={SENDER}&to={RECIPIENT}", timeout_seconds=0.5), message()
        )
        assert children.read_text() == before


def test_each_channel_hears_what_it_asked_for() -> None:
    with webhook() as hook:

        def told(message: Message, **request: object) -> bool:
            return bool(deliver_all([Channel("x", hook.url, **request)], message))  # type: ignore[arg-type]

        assert not told(message(severity="info"))
        assert told(message(severity="warning"))
        assert not told(message(severity="error"), at_least="critical")
        assert told(message(severity="critical"), at_least="critical")
        assert told(message(event="resolved"))
        assert not told(message(event="resolved"), resolved=False)
        assert not told(message(event="resolved", severity="info"))
        assert len(hook.calls) == 3
    assert deliver_all([], message()) == []


def test_text_with_angle_brackets_newlines_in_the_subject_and_any_alphabet_arrives_unharmed() -> None:
    nasty = "table <b>orders</b> & “Größe” 日本 \\n {x} :smile: $NAME"
    with mailbox() as box, webhook() as hook:
        sent = message(subject="late\r\nBcc: thief@evil.example\r\n\r\nbody", body=nasty)
        assert all(each.ok for each in deliver_all([Channel("m", box.url), Channel("w", hook.url)], sent))
    (mail,) = box.mails
    assert mail.recipients == [RECIPIENT] and mail.message["Bcc"] is None
    assert mail.subject == "late Bcc: thief@evil.example body"
    assert mail.body.strip() == nasty == hook.calls[0].json["message"]


def test_what_is_too_long_for_a_service_is_cut_not_lost() -> None:
    with webhook() as hook:
        done = deliver(Channel("push", f"ntfy://127.0.0.1:{hook.port}/topic"), message(body="x" * 100_000))
    assert done.ok
    assert len(hook.calls) == 1 and 1000 < len(hook.calls[0].body) < 10_000


def test_several_recipients_get_a_mail_each_and_one_that_is_refused_is_said() -> None:
    with mailbox(refuse={"gone@office.example"}) as box:
        done = deliver(Channel("mail", box.url_to(RECIPIENT, "gone@office.example", "boss@office.example")), message())
    assert sorted(mail.recipients[0] for mail in box.mails) == ["boss@office.example", RECIPIENT]
    assert not done.ok and done.reached and "gone@office.example" in str(done.error)


def test_an_address_that_is_none_is_said_although_the_others_get_their_mail() -> None:
    with mailbox() as box:
        channel = Channel("mail", box.url_to(RECIPIENT, "boss"))
        done = deliver(channel, message())
        assert "boss is no mail address" in str(channel_error(channel))
    assert len(box.mails) == 1
    assert not done.ok and done.reached and "boss is no mail address" in str(done.error)


def test_a_channel_marked_optional_still_fails_aloud() -> None:
    done = deliver(Channel("chat", f"json://127.0.0.1:{closed_port()}/hook?optional=yes"), message())
    assert not done.ok


@pytest.mark.parametrize("status", [301, 401, 404, 500])
def test_a_webhook_that_does_not_accept_it_has_not_got_it(status: int) -> None:
    with webhook() as elsewhere, webhook(status, Location=elsewhere.http_url) as hook:
        done = deliver(Channel("chat", hook.url), message())
    assert not done.ok and not done.reached and str(status) in str(done.error)
    assert not elsewhere.calls, "a redirected message arrives empty"


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
@pytest.mark.promise(6)
def test_a_refused_login_is_told_without_user_and_password() -> None:
    with mailbox(login=("backup-robot", "the real one")) as box:
        assert deliver(Channel("mail", box.url), message()).ok
        box.login = ("backup-robot", "s3cr:t/p@ss word")
        url = box.url
        box.login = ("backup-robot", "changed")
        done = deliver(Channel("mail", url), message())
    assert not done.ok and "authentication" in str(done.error).lower()
    assert_hidden(str(done.error), "backup-robot", "s3cr", "p@ss", "word")


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
def test_a_password_that_mail_servers_cannot_be_told_is_said_without_a_letter_of_it() -> None:
    with mailbox(login=("backup-robot", "wörd")) as box:
        done = deliver(Channel("mail", box.url), message())
    assert not done.ok and "plain letters" in str(done.error)
    assert_hidden(str(done.error), "ö", "xf6")


@pytest.mark.promise(6)
@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("json://robot:hunter2@127.0.0.1:{port}/T0KEN-abc/next?+X-Key=header0secret", ["robot", "hunter2", "T0KEN", "header0"]),
        ("form://127.0.0.1:{port}/T0KEN%2Fabc?-api=query0secret", ["T0KEN", "query0secret"]),
        ("mailto://robot:hunter2@127.0.0.1:{port}?from=a@b.example&to=x@y.example", ["robot", "hunter2"]),
        ("gotify://127.0.0.1:{port}/AbCdEf012345678", ["AbCdEf"]),
        ("ntfy://robot:hunter2@127.0.0.1:{port}/secrettopic", ["robot", "hunter2", "secrettopic"]),
        ("matrix://robot:hunter2@127.0.0.1:{port}/#secretroom", ["robot", "hunter2", "secretroom"]),
        ("rocket://robot:hunter2@127.0.0.1:{port}/#secretroom", ["robot", "hunter2", "secretroom"]),
    ],
)  # fmt: skip
def test_no_failure_tells_a_secret_of_the_url(
    url: str, secrets: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    port = closed_port()
    with webhook(500) as hook, silent_server() as hanging:
        channels = [
            Channel("x", url.format(port=port), timeout_seconds=1),
            Channel("y", url.format(port=hook.port), timeout_seconds=1),
            Channel("z", url.format(port=hanging), timeout_seconds=0.5),
        ]
        done = deliver_all(channels, message())
    assert not any(each.ok for each in done)
    said = "\n".join([str(done), str(channels), str(channel_errors(channels)), caplog.text, *capfd.readouterr()])
    assert_hidden(said, *secrets)


@pytest.mark.promise(6)
@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general", ["T1JJ3T3L2", "A1BRTD4JD", "TIiajkdnlazkcOXrIdevi7FQ"]),
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdn", ["T1JJ3T3L2", "A1BRTD4JD", "TIiajkdn"]),
        ("twilio://AC0123:AuthT0ken@+15551234567/+15557654321", ["AC0123", "AuthT0ken", "15557654321"]),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", ["123456789", "abcdefg_hijklmnop", "12315544"]),
        ("workflows://prod-01.westeurope.logic.azure.example:443/643e69/signature", ["prod-01.westeurope.logic.azure.example", "643e69", "signature"]),
        ("mailtos://robot:pa/ss@w:rd@mail.example/to@x.example", ["robot", "pa", "ss", "rd"]),
        ("mailtos://robot@mail.example:p%40ss%20w%C3%B6rd@mail.example?to=a@b.example", ["p@ss", "wörd", "robot"]),
    ],
)  # fmt: skip
def test_what_servers_and_libraries_may_repeat_of_a_url_is_hidden(url: str, secrets: list[str]) -> None:
    repeated = " ; ".join([url, url.partition("://")[2], *secrets, *map(quote, secrets), *map(str.upper, secrets)])
    assert_hidden(hiding_url(url)(repeated), *secrets)


_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="*", exclude_categories=("C", "Z")), min_size=1)


@pytest.mark.promise(6)
@given(user=_WORDS, password=_WORDS, token=_WORDS.filter(lambda token: token.strip("./-_")))
def test_whatever_user_password_and_token_are_they_are_hidden(user: str, password: str, token: str) -> None:
    user, password, token = (unicodedata.normalize("NFC", word) for word in (user, password, token))
    url = f"json://{quote(user, safe='')}:{quote(password, safe='')}@chat.example/{quote(token, safe='')}"
    hide = hiding_url(url)
    for secret in (user, password, token):
        if secret != "chat.example":
            assert secret not in hide(f"~ {secret} ~ {quote(secret, safe='')} ~").replace("~", " ").split()


def test_logins_that_a_server_repeats_encoded_are_hidden_and_its_name_is_not() -> None:
    hide = hiding_url("mailto://robot:hunter2@mail.example:2525?to=x@y.example")
    plain = base64.b64encode(b"\0robot\0hunter2").decode()
    basic = base64.b64encode(b"robot:hunter2").decode()
    assert hide(f"535 mail.example:2525 x@y.example {plain} {basic}") == "535 mail.example:2525 x@y.example *** ***"


def assert_hidden(text: str, *secrets: str) -> None:
    for secret in secrets:
        assert secret.lower() not in text.lower()


def test_an_untrusted_certificate_is_said_as_that(tmp_path: Path) -> None:
    with mailbox(tls=self_signed(tmp_path)) as box:
        done = deliver(Channel("mail", box.url_to(RECIPIENT, schema="mailtos")), message())
        assert not done.ok and "certificate is not trusted" in str(done.error)
        assert deliver(Channel("mail", box.url_to(RECIPIENT, schema="mailtos") + "&verify=no"), message()).ok
    assert len(box.mails) == 1


def test_a_url_that_cannot_work_is_said_before_anything_is_sent() -> None:
    urls = {
        "unknown": "nosuch://token",
        "no url": "hunter2",
        "empty": "",
        "https": "https://chat.example/hook/s3cret",
        "screen": "gnome://",
        "from": "mailto://mail.example?to=x@y.example&from=nobody",
        "good mail": "mailtos://user:hunter2@mail.example?to=x@y.example",
        "good slack": "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
    }
    errors = channel_errors([Channel(name, url) for name, url in urls.items()])
    assert set(errors) == set(urls) - {"good mail", "good slack"}
    assert "nosuch:// is no service" in errors["unknown"]
    assert "must begin with" in errors["no url"] and "hunter2" not in errors["no url"]
    assert "json" in errors["https"] and "s3cret" not in errors["https"]
    assert "nobody looks" in errors["screen"]
    assert channel_error(Channel("x", urls["good mail"])) is None


def test_a_channel_does_not_show_its_url() -> None:
    assert "hunter2" not in repr(Channel("x", "mailto://u:hunter2@mail.example"))


@pytest.mark.promise(6)
def test_no_secret_is_among_the_arguments_or_variables_of_a_process_while_it_is_sent() -> None:
    with silent_server() as hanging, ThreadPoolExecutor(1) as pool:
        channel = Channel("chat", f"json://robot:hunter2@127.0.0.1:{hanging}/T0KEN", timeout_seconds=2)
        sending = pool.submit(deliver, channel, message())
        seen = []
        while not sending.done():
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    arguments = (process / "cmdline").read_bytes()
                    if b"twist_dr.watch.alerts.sender" in arguments:
                        seen.append(arguments + (process / "environ").read_bytes())
            time.sleep(0.05)
    assert len(seen) > 5
    assert not any(b"hunter2" in each or b"T0KEN" in each for each in seen)


def test_web_channels_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert deliver(Channel("chat", "json://chat.example/hook"), message()).ok
    assert proxy.calls[0].path == "http://chat.example/hook"


def test_file_names_that_are_no_text_cost_no_message() -> None:
    with mailbox() as box, webhook() as hook:
        sent = message(subject="a \udcff b", body="media/\udcff.jpg\0 is unreadable")
        assert all(each.ok for each in deliver_all([Channel("m", box.url), Channel("w", hook.url)], sent))
    assert box.mails and hook.calls[0].json["message"].startswith("media/\\xff.jpg\\x00 is")


def test_urls_as_the_readme_writes_them_are_taken() -> None:
    urls = [
        "mailtos://backup%40example.com:PASSWORD@smtp.example.com:587?from=backup@example.com&to=ops@example.com,boss@example.com",
        "mailtos://USER:PASSWORD@smtp.example.com:465?mode=ssl&from=backup@example.com&to=ops@example.com",
        "mailto://mail.internal:25?from=backup@example.com&to=ops@example.com",
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#ops",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "workflows://prod-01.westeurope.logic.azure.com:443/643e69f61c8e4a1e8d0c8b0c9d3f2a11/SIGNATURE",
        "twilio://AC0123456789abcdef0123456789abcdef:TOKEN@+15551234567/+15557654321",
        "jsons://alerts.example.com/hook/TOKEN",
        "jsons://alerts.example.com/hook?+Authorization=Bearer%20TOKEN",
    ]
    assert channel_errors([Channel(str(number), url) for number, url in enumerate(urls)]) == {}


def test_a_sender_that_does_not_come_up_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twist_dr.watch.alerts.channels._START_SECONDS", -0.95)
    with webhook() as hook:
        began = time.monotonic()
        done = deliver(Channel("chat", hook.url, timeout_seconds=1), message())
    assert time.monotonic() - began < 5
    assert not done.ok and "was not done after 0.05 s" in str(done.error)


def test_who_got_it_before_the_server_fell_silent_is_counted_as_reached() -> None:
    with mailbox(hang_after=1) as box:
        done = deliver(Channel("mail", box.url_to(RECIPIENT, "boss@office.example"), timeout_seconds=2), message())
    assert len(box.mails) == 1 and not done.ok and done.reached


def test_apprise_is_not_imported_by_those_who_only_send() -> None:
    import subprocess
    import sys

    program = "import sys, twist_dr.watch.alerts.channels, twist_dr.watch.alerts.words; print('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"


def test_a_machine_that_cannot_start_the_sender_fails_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    done = deliver(Channel("chat", "json://robot:hunter2@127.0.0.1/x"), message())
    assert not done.ok and "could not be started" in str(done.error)
