"""No secret leaves us, in any form; no name is hidden, whatever else it is."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from twist_dr.errors import DatabaseRefused, SettingsError, TwistDRError
from twist_dr.postgres.cluster import Cluster
from twist_dr.redaction import forget, hiding_url, keep_environment, keep_names, keep_secret, keep_url, leaving, quoting
from twist_dr.settings import Settings, parse_settings
from twist_dr.system.progress import Lines, Report

PASSWORD = "Tr0ub4dor & 3+/x?"


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    forget()
    yield
    forget()


def read(folder: Path, environment: dict[str, str] | None = None, **sections: object) -> Settings:
    document = {
        "application": "erp",
        "database": {"url": f"postgresql://keeper:{quote(PASSWORD, safe='')}@db.example:5433/shop"},
        "storage_targets": {
            "cloud": {
                "type": "s3",
                "bucket": "vault",
                "region": "eu-central-1",
                "access_key_id": "AKIAEXAMPLE",
                "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
                "session_token": "FwoGZXIvYXdzEBYaD=",
            }
        },
        "encryption": {"keyring": "keyring.yaml"},
        **sections,
    }
    return parse_settings(yaml.safe_dump(document), folder / "twist-dr.yaml", environment or {})


def forms(secret: str) -> list[str]:
    """A secret as people, programs and protocols write it."""
    raw = secret.encode()
    return [
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote(secret, safe="").lower(),
        quote_plus(secret),
        json.dumps(secret),
        repr(secret),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        raw.hex(),
    ]


@pytest.mark.promise(6)
def test_every_kind_of_secret_of_the_settings_is_hidden_in_every_form(tmp_path: Path) -> None:
    read(
        tmp_path,
        {"BACKUP_API_TOKEN": "env-t0ken-9", "DATABASE_URL": "postgres://a:fr0m-env@b/c", "HOME": "/home/keeper"},
        wal={"replication_url": "postgresql://copier:c0py%2Fit@db.example/shop"},
        catalog={"url": "postgresql://index:cat%40log1@db.example/index"},
        verification={"server": "postgresql://tester:pr0ve-it@proof.example/postgres"},
        restore={
            "database_url": "postgresql://maker:m4ke-it@db.example/shop",
            "health": {"url": "https://shop.example/health?token=he4lth-t0ken&full=yes"},
            "maintenance": {"command_on": ["curl", "https://h.example/on?key=0n-key-77"], "command_off": ["sh", "-c", "PASSWORD=0ff-pass off"]},
            "after_restore_sql": ["ALTER ROLE web PASSWORD 'sql-pa55'"],
        },
        django={
            "manage": ["python", "manage.py"],
            "folder": ".",
            "environment": {
                "SECRET_KEY": "dj4ngo-key(=x",
                "CACHE_URL": "redis://:c4che-it@cache.example/0",
                "SENTRY": "a81f5c0be7dd4d72b1b2",
                "DJANGO_SETTINGS_MODULE": "shop.settings",
            },
        },
        alerts={
            "channels": {"mail": {"url": "mailtos://robot:m4il-it!@mail.example?to=ops@example.com"}, "chat": {"url": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOX"}},
            "heartbeat": {"url": "https://hc.example/4d3c9f12-0000-4a7a"},
        },
    )  # fmt: skip
    secrets = [
        PASSWORD, "wJalrXUtnFEMI/K7MDENG+bPxRfiCY", "FwoGZXIvYXdzEBYaD=", "env-t0ken-9", "fr0m-env", "c0py/it", "cat@log1", "pr0ve-it",
        "m4ke-it", "he4lth-t0ken", "0n-key-77", "0ff-pass", "sql-pa55", "dj4ngo-key(=x", "c4che-it", "a81f5c0be7dd4d72b1b2",
        "m4il-it!", "TIiajkdnlazkcOX", "T1JJ3T3L2", "4d3c9f12-0000-4a7a",
    ]  # fmt: skip
    for secret in secrets:
        for form in forms(secret):
            assert form.strip("'\"") not in leaving(f"it said {form}; look again"), secret
    names = (
        "keeper shop db.example:5433 5433 vault eu-central-1 AKIAEXAMPLE erp cloud copier index tester proof.example maker /home/keeper "
        "https://shop.example/health full=yes cache.example shop.settings SECRET_KEY mail.example ops@example.com"
    )
    assert leaving(names) == names


def test_a_database_named_under_django_environment_is_told(tmp_path: Path) -> None:
    read(
        tmp_path,
        django={"manage": ["x"], "folder": ".", "environment": {"PRETIX_DATABASE_NAME": "pretix", "PRETIX_CELERY": "worker"}},
    )  # fmt: skip
    sentence = "Cannot connect to pretix at 127.0.0.1:5432: no answer from worker"
    assert leaving(sentence) == quoting(sentence) == sentence


def test_a_password_that_is_a_name_is_hidden_where_a_password_stands_and_nowhere_else(tmp_path: Path) -> None:
    read(tmp_path, database={"url": "postgresql://erp_user:erp_user@db.example/erp_user"})
    names = "role erp_user may not connect to erp_user at db.example"
    assert leaving(names) == quoting(names) == names
    assert (
        leaving("postgresql://erp_user:erp_user@db.example/erp_user") == "postgresql://erp_user:***@db.example/erp_user"
    )
    for said in (
        "host=db.example password=erp_user dbname=erp_user",
        "PGPASSWORD=erp_user pg_dump",
        '{"password": "erp_user", "user": "erp_user"}',
        "{'PASSWORD': 'erp_user'}",
        "ALTER ROLE erp_user PASSWORD 'erp_user'",
    ):
        assert leaving(said).count("erp_user") == said.count("erp_user") - 1, said


def test_ordinary_words_are_hidden_only_where_others_speak_or_a_password_stands() -> None:
    keep_secret("backup", "5432", "ab")
    sentence = "The newest backup of tab 5432 is abandoned"
    assert leaving(sentence) == sentence
    assert quoting("refused: backup") == "refused: ***"
    assert leaving("password=backup") == "password=***"


def test_a_name_that_begins_with_a_secret_stays_whole() -> None:
    keep_secret("pretix-20")
    keep_names("pretix-2026")
    assert leaving("pretix-2026 and pretix-20") == "pretix-2026 and ***"


def test_what_programs_are_made_of_is_left_as_it_is() -> None:
    for sentence in (
        "sorted(rows, key=name)",
        "models.AutoField(primary_key=True)",
        "Key (id)=(5) is not there",
        "key_id=k20261121",
    ):
        assert leaving(sentence) == sentence
    for secret in (
        "STRIPE_KEY=x1",
        "secret_access_key='x1'",
        '"api_key": "x1"',
        "http://h.example/?key=x1",
        "Authorization: Bearer x1.y2.z3",
    ):
        assert "x1" not in leaving(secret), secret


def test_our_own_example_of_a_url_is_left_as_it_is() -> None:
    for sentence in (
        "write postgresql://user:password@host:5432/database",
        "postgresql://USER:PASSWORD@HOST:5432/NEW_DATABASE",
        "or create it: CREATE ROLE name LOGIN PASSWORD '...'",
    ):
        assert leaving(sentence) == quoting(sentence) == sentence


def test_variables_that_only_speak_of_secrets_are_none() -> None:
    keep_environment(
        {"PASSWORD_FILE": "files/pw.txt-1", "AWS_ACCESS_KEY_ID": "AKIA-12345", "KEYCLOAK_HOST": "sso-1.example"}
    )
    sentence = "files/pw.txt-1 AKIA-12345 sso-1.example"
    assert leaving(sentence) == sentence


def test_errors_and_log_lines_are_told_without_secrets() -> None:
    keep_secret("hunter2!")
    error = TwistDRError("it quotes hunter2!")
    assert str(error) == "it quotes ***" and "hunter2!" not in repr(error)
    lines: list[str] = []
    Report(Lines(lines.append, lines.append)).info("tried hunter2!")
    Report(Lines(lines.append, lines.append)).warning("tried hunter2!")
    assert lines == ["tried ***"] * 2


#: Passwords as people choose them, with all that a URL takes for something else.
_SPOILT = st.text(st.sampled_from("abcXYZ0189/@:#?%&=+,;[]()!$ '\"\\"), min_size=1, max_size=14).filter(
    lambda word: any(each in word for each in "/@:#?%")
)


@pytest.mark.promise(6)
@settings(max_examples=400, deadline=None, derandomize=True)
@given(password=_SPOILT, user=st.sampled_from(["keeper", "k"]), rest=st.sampled_from(["db.example:5432/shop", "db.example/shop", "/shop", "[::1]:5432/shop?sslmode=disable"]))  # fmt: skip
def test_of_a_password_that_nobody_encoded_no_piece_becomes_a_name(password: str, user: str, rest: str) -> None:
    forget()
    cluster = Cluster(f"postgresql://{user}:{password}@{rest}")
    try:
        known = cluster.parameters
    except DatabaseRefused as refused:
        assert str(refused) == str(DatabaseRefused(str(refused)))
        assert "write postgresql://user:password@host:5432/database" in str(refused)
        return
    # libpq understood it as it was meant: nothing moved.
    assert known.get("user") == user and known.get("dbname") == "shop"
    assert known.get("host") in ("db.example", "::1", None)


@pytest.mark.parametrize(
    "password", ["12/3", "/x", "1,2/34", "p@s/w", "p@s?password=x", "12?port=7&dbname=y", "a%zz", "pa#ss/1"]
)
def test_a_malformed_url_is_refused_without_a_piece_of_it(password: str, tmp_path: Path) -> None:
    url = f"postgresql://keeper:{password}@db.example/shop"
    if password == "12?port=7&dbname=y":  # libpq looks for the @ past the question mark
        assert Cluster(url).parameters["password"] == password
        return
    with pytest.raises(DatabaseRefused) as refused:
        _ = Cluster(url).place
    with pytest.raises(SettingsError) as mistaken:
        read(
            tmp_path,
            database={"url": url},
            wal={"replication_url": url},
            verification={"server": url},
            restore={"database_url": url},
        )
    told = str(mistaken.value)
    for place in ("database.url", "wal.replication_url", "verification.server", "restore.database_url"):
        assert f"{place}: expected postgresql://user:password@host:5432/database" in told
    for piece in ("db.example", "keeper", password):
        assert piece not in told and piece not in str(refused.value)


def test_pieces_of_a_malformed_url_are_hidden_in_what_others_say_of_it() -> None:
    keep_url("postgresql://keeper:s0me/p1ece@db.example/shop")
    assert leaving('could not translate host name "keeper", port "s0me", database "p1ece@db.example"') == (
        'could not translate host name "keeper", port "***", database "***@db.example"'
    )


@pytest.mark.parametrize("word", ["a", "a.", "://a", "a://", "x='"])
def test_a_word_of_a_megabyte_is_read_in_a_moment(word: str) -> None:
    """Whoever owns the database can have an error say anything: a search that takes the square of its length would not end today."""
    long = word * (1_000_000 // len(word))
    told = leaving(f"{long} password=hidden-0 postgresql://keeper:hidden-1@db/shop")
    assert "hidden-" not in told and told.startswith(long[:1000])
    assert "hidden-" not in hiding_url("https://hooks.example/hidden-2")(f"{long} https://hooks.example/hidden-2")


@pytest.mark.parametrize(
    "text",
    [
        "--password=hidden",
        "1=password=hidden",
        "\u00e9password=hidden",
        "x.y-token='hidden'",
        f"{'a' * 500}_token=hidden",
    ],
)
def test_a_name_is_known_for_one_of_a_secret_whatever_it_begins_with(text: str) -> None:
    assert leaving(text) == text.replace("hidden", "***")
