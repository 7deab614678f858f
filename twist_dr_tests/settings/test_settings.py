"""twist-dr.yaml: every mistake at once, by its path, in words, and never a secret."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from twist_dr.errors import SettingsError
from twist_dr.redaction import leaving
from twist_dr.repository.keys import Keyring, new_key, save_keyring
from twist_dr.settings import Settings, load_settings, parse_settings
from twist_dr_tests.helpers import AS_USER, NOBODY, said_by_python

FILE = Path("/etc/erp/twist-dr.yaml")
SECRET = "hunter2-and-more"

GOOD = f"""
application: erp
database:
  url: postgresql://erp:{SECRET}@db.example:5432/erp
storage_targets:
  disk: {{type: local, path: backups}}
encryption: {{keyring: keyring.yaml}}
"""


def good(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(GOOD), **changes}


def parsed(document: dict[str, Any] | str, **environment: str) -> Settings:
    text = document if isinstance(document, str) else yaml.safe_dump(document, allow_unicode=True)
    return parse_settings(text, FILE, environment)


def mistakes(document: dict[str, Any] | str, **environment: str) -> list[str]:
    """The lines of the message, the secret in none of them."""
    with pytest.raises(SettingsError) as caught:
        parsed(document, **environment)
    message = str(caught.value)
    assert SECRET not in message
    assert str(FILE) in message
    assert "pydantic" not in message
    return [line.strip() for line in message.splitlines()]


def test_a_few_lines_are_enough_and_the_rest_has_safe_defaults() -> None:
    settings = parsed(GOOD)
    assert settings.application == "erp"
    disk = settings.storage_targets["disk"]
    assert (disk.enabled, disk.encrypt, disk.compression) == (True, True, "zstd")
    assert settings.form("disk").name == "zstd+enc"
    assert settings.work_dir == Path("/var/lib/twist-dr")
    assert settings.catalog_url == "sqlite:////var/lib/twist-dr/catalog.db"
    assert settings.staging_dir == Path("/var/lib/twist-dr/staging/erp")
    assert settings.scratch_dir == Path("/var/lib/twist-dr/scratch")
    assert settings.lock_dir == Path("/var/lib/twist-dr/locks")
    assert (settings.media, settings.configuration, settings.django) == ({}, [], None)
    assert settings.backup.compression_level == 3
    assert settings.verification.jobs >= 2


def test_relative_paths_start_at_the_files_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/erp")
    document = good(
        media={"uploads": "../media", "home": "~/media", "absolute": "/srv/media"},
        configuration=["settings/*.py", "/etc/nginx/*.conf"],
        work_dir="work",
        verification={"scratch": "scratch"},
        django={"manage": ["python", "manage.py"], "folder": "."},
    )
    settings = parsed(document)
    assert settings.media == {
        "uploads": Path("/etc/media"), "home": Path("/home/erp/media"), "absolute": Path("/srv/media"),
    }  # fmt: skip
    assert settings.configuration == ["/etc/erp/settings/*.py", "/etc/nginx/*.conf"]
    assert settings.encryption.keyring == "/etc/erp/keyring.yaml"
    assert (settings.work_dir, settings.scratch_dir) == (Path("/etc/erp/work"), Path("/etc/erp/scratch"))
    assert settings.django is not None and settings.django.folder == Path("/etc/erp")
    (disk,) = settings.storage_targets.values()
    assert disk.path == Path("/etc/erp/backups")  # type: ignore[union-attr]
    assert parsed(good(encryption={"keyring": "env:KEYRING"})).encryption.keyring == "env:KEYRING"
    assert parsed(good(work_dir="~nobody-of-that-name/work")).work_dir.is_absolute()


def test_variables_are_filled_in_everywhere_and_twice_the_dollar_stands_for_one() -> None:
    document = good(
        database={"url": "postgresql://erp:${PASSWORD}@${HOST}/erp"},
        media={"uploads": "${MEDIA}"},
        app_version="$${LITERAL} costs 5$ ${EMPTY}",
        django={"manage": ["${PYTHON}", "manage.py"], "folder": "/srv", "environment": {"SECRET": "${PASSWORD}"}},
    )
    settings = parsed(document, PASSWORD="${HOST}", HOST="db", MEDIA="/srv/media", PYTHON="/venv/python", EMPTY="")
    assert settings.database.url.get_secret_value() == "postgresql://erp:${HOST}@db/erp"
    assert settings.app_version == "${LITERAL} costs 5$ "
    assert settings.media["uploads"] == Path("/srv/media")
    assert settings.django is not None
    assert settings.django.manage[0] == "/venv/python"
    assert settings.django.environment["SECRET"].get_secret_value() == "${HOST}"


def test_variables_that_are_not_set_are_all_named_with_their_places() -> None:
    document = good(
        database={"url": "postgresql://erp:${PASSWORD}@${HOST}/erp"},
        configuration=["/etc/a", "${CONFIG}"],
        storage_targets={"disk": {"type": "local", "path": "${DISK}"}},
    )
    assert sorted(mistakes(document)[1:]) == [
        "configuration[1]: expected the environment variable CONFIG, found it unset",
        "database.url: expected the environment variable HOST, found it unset",
        "database.url: expected the environment variable PASSWORD, found it unset",
        "storage_targets.disk.path: expected the environment variable DISK, found it unset",
    ]


def test_all_mistakes_are_reported_at_once_each_with_its_place() -> None:
    document = {
        "application": "Twist ERP",
        "database": {"url": "mysql://root@db/erp", "pool": 5},
        "media": {"Uploads": "/srv/media"},
        "storage_targets": {
            "disk": {"type": "floppy", "path": "/a"},
            "nas": {"type": "nas", "timeout_seconds": 0},
            "cloud": {"type": "s3", "bucket": "backups", "access_key_id": "AK", "part_size_mib": "many"},
            "plain": {"path": "/b"},
            "packed": {"type": "local", "path": "/c", "compression": "bzip2", "encrypt": "perhaps"},
        },
        "backup": {"compression_level": 99},
        "verification": {"key_tables": ["a.b.c"], "jobs": 0},
        "work_dri": "/var",
        "app_version": "${UNSET}",
    }
    lines = mistakes(document)
    assert lines[0] == f"{FILE} has {len(lines) - 1} mistakes:"
    places = {line.partition(":")[0] for line in lines[1:]}
    assert places == {
        "application", "app_version", "database.url", "database.pool", "media.Uploads", "storage_targets.disk",
        "storage_targets.nas.path", "storage_targets.nas.timeout_seconds",
        "storage_targets.cloud.part_size_mib", "storage_targets.plain", "storage_targets.packed.compression",
        "storage_targets.packed.encrypt", "backup.compression_level", "verification.key_tables[0]",
        "verification.jobs", "work_dri", "encryption",
    }  # fmt: skip
    text = "\n".join(lines)
    assert "application: expected a name of at most 40 lower-case letters" in text
    assert "found 'Twist ERP'" in text
    assert "database.pool: unknown key; see the commented file of twist-dr init" in text
    assert "storage_targets.packed.compression: expected zstd, gzip or none, with a level if you like" in text
    assert "gzip:1 to gzip:9, found 'bzip2'" in text
    assert "encryption: expected a value, found nothing" in text


def test_no_form_of_a_text_is_told_as_a_regular_expression() -> None:
    assert '"pattern"' not in json.dumps(Settings.model_json_schema())
    drive = {"type": "google_drive", "client_id": "a", "client_secret": "b", "folder_id": "drive/folders/1abc"}
    assert mistakes(good(storage_targets={"drive": drive}))[1:] == [
        "storage_targets.drive.folder_id: expected an id, which is the end of the address of the folder or shared drive, found 'drive/folders/1abc'"
    ]


def test_a_text_that_is_too_short_is_told_by_its_length() -> None:
    drive = {"type": "dropbox", "client_id": "", "client_secret": "b"}
    bucket = {"type": "s3", "bucket": "ab"}
    assert mistakes(good(storage_targets={"cloud": bucket, "drive": drive}))[1:] == [
        "storage_targets.cloud.bucket: expected a text of at least 3 characters, found 'ab'",
        "storage_targets.drive.client_id: expected a text of at least 1 character, found ''",
    ]


def test_half_a_pair_of_s3_credentials_is_said_without_showing_it() -> None:
    target = {"type": "s3", "bucket": "backups", "secret_access_key": SECRET}
    assert "access_key_id and secret_access_key together" in mistakes(good(storage_targets={"cloud": target}))[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"database": f"postgresql://erp:{SECRET}@db/erp"},
        {"database": {"url": f"mysql://erp:{SECRET}@db/erp"}},
        {"database": {"url": [SECRET]}},
        {"database": {"password": SECRET}},
        {"catalog": f"postgresql://erp:{SECRET}@db/catalog"},
        {"catalog": {"url": {"password": SECRET}}},
        {"verification": f"postgresql://erp:{SECRET}@db/erp"},
        {"verification": {"server": [f"postgresql://erp:{SECRET}@db/erp"]}},
        {"verification": {"jobs": f"postgresql://erp:{SECRET}@db/erp"}},
        {"encryption": SECRET},
        {"encryption": {"keyring": [SECRET]}},
        {"storage_targets": f"s3://AK:{SECRET}@bucket"},
        {"storage_targets": {"cloud": SECRET}},
        {"storage_targets": {"cloud": {"type": "s3", "bucket": "backups", "secret_access_key": [SECRET]}}},
        {"django": {"manage": ["m"], "folder": "/", "environment": SECRET}},
        {"django": {"manage": ["m"], "folder": "/", "environment": {"DJANGO": [SECRET]}}},
        {"django": {"manage": f"DB={SECRET} manage.py", "folder": "/"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_secret_in_the_wrong_place_is_not_shown(changes: dict[str, Any]) -> None:
    assert len(mistakes(good(**changes))) > 1


def test_a_number_where_a_secret_belongs_is_not_shown() -> None:
    document = good(django={"manage": ["m"], "folder": "/", "environment": {"PGPASS": 424242}})
    assert "424242" not in "".join(mistakes(document))


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    document = good(
        django={"manage": ["m"], "folder": "/", "environment": {"DJANGO_KEY": SECRET}},
        catalog={"url": f"postgresql://erp:{SECRET}@db/catalog"},
        storage_targets={
            "cloud": {"type": "s3", "bucket": "backups", "access_key_id": "AK", "secret_access_key": SECRET}
        },
    )
    settings = parsed(document)
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "application: shop\n", "line 8: the key 'application' stands there twice"),
        (GOOD.replace("{type: local", "{type: nas, type: local"), "the key 'type' stands there twice"),
        (GOOD + "media: [", "line"),
        (GOOD + "\tmedia:", "line 8"),
        (GOOD + "media: *" + SECRET, "line 8"),
        (GOOD + "media: !" + SECRET, "line 8"),
        (GOOD + "media: {{ " + SECRET + " }}", "line 8"),
        (GOOD + "? [a, b]\n: c", "line 8"),
        (GOOD + "app_version: 2026-02-30", "somewhere: it holds a date or number that is none"),
        (GOOD + "app_version: \x00", "somewhere"),
        (GOOD + "media: " + "[" * 3000, "somewhere: it is nested too deeply"),
    ],
    ids=["twice", "twice inside", "bracket", "tab", "alias", "tag", "template", "list as key", "date", "nul", "deep"],
)
def test_what_is_not_yaml_is_said_with_its_line(text: str, words: str) -> None:
    (line,) = mistakes(text)
    assert f"{FILE} is not YAML: " in line
    assert words in line


@pytest.mark.parametrize("text", ["", "erp", "- application", "5"])
def test_what_is_no_mapping_is_said(text: str) -> None:
    assert "expected a mapping with 'application', 'database' and more" in mistakes(text)[0]


def test_media_folders_within_each_other_are_refused() -> None:
    for media in ({"all": "/srv", "uploads": "/srv/media"}, {"one": "/srv", "two": "/srv/../srv"}):
        assert "folders that lie apart" in mistakes(good(media=media))[1]
    assert parsed(good(media={"one": "/srv/media", "two": "/srv/media2"}))


def test_a_key_by_its_former_name_is_read_and_its_present_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    days = timedelta(days=3)
    assert parsed(good(cleanup={"remains_after": "3 days"})).cleanup.incomplete_after == days
    assert caplog.messages == [f"{FILE}: cleanup.remains_after is called cleanup.incomplete_after now; rename it."]
    assert "unknown key" in mistakes(good(cleanup={"remains_after": "3 days", "incomplete_after": "3 days"}))[1]
    caplog.clear()
    assert parsed(good(cleanup={"incomplete_after": "3 days"})).cleanup.incomplete_after == days
    assert not caplog.messages


def test_two_targets_in_one_place_of_a_bucket_are_refused() -> None:
    cloud = {"type": "s3", "bucket": "backups", "prefix": "erp", "endpoint_url": "https://s3.example.org"}
    again = {**cloud, "endpoint_url": "https://S3.example.org/"}
    told = mistakes(good(storage_targets={"cloud": cloud, "again": again}))[1]
    assert "storage_targets.again and storage_targets.cloud are one" in told
    assert parsed(good(storage_targets={"cloud": cloud, "again": {**again, "enabled": False}}))
    assert parsed(good(storage_targets={"cloud": cloud, "other": {**cloud, "prefix": "other"}}))


def test_bundles_are_for_drives_and_sooner_than_what_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {"disk": {"type": "local", "path": "/a"}, "drive": {"type": "local", "path": "/b"}}
    settings = parsed(good(storage_targets=targets, wal={}))
    assert settings.wal_every("disk") == settings.wal_every("drive") == timedelta(0)
    monkeypatch.setattr(type(settings.storage_targets["drive"]), "consumer", True)
    assert settings.wal_every("drive") == timedelta(minutes=1)
    targets["disk"]["wal_bundle_seconds"] = 0  # type: ignore[assignment]
    settings = parsed(good(storage_targets=targets, wal={"bundle_seconds": 300}))
    assert (settings.wal_every("disk"), settings.wal_every("drive")) == (timedelta(0), timedelta(minutes=5))
    for unreachable in (
        {"wal": {"bundle_seconds": 300, "warn_after": "5 minutes"}},
        {"objectives": {"wal": "1 minute"}},
    ):
        told = mistakes(good(storage_targets=targets, **{"wal": {}, **unreachable}))[1]
        assert "less than wal.warn_after and objectives.wal" in told and "of drive" in told
    targets["drive"]["wal_bundle_seconds"] = 0  # type: ignore[assignment]
    assert parsed(good(storage_targets=targets, wal={}, objectives={"wal": "1 minute"}))
    # Who is told of every segment that waits had a valid file before there were bundles.
    assert parsed(good(storage_targets=targets, wal={"warn_after": "0 minutes"}))


@pytest.mark.parametrize(
    ("retention", "told"),
    [
        ({"daily": -1}, ".daily: expected greater than or equal to 0, found -1"),
        ({"kinds": []}, ".kinds: expected at least one, found an empty list"),
        (
            [{"daily": 7}, {"dayly": 1}],
            "[1].dayly: unknown key; see the commented file of twist-dr init for those that exist",
        ),
        ({"wal": 7}, ".wal: expected a time such as '12 hours' or '7 days', found 7"),
        ("7 days", ": expected a mapping, found a text"),
    ],
)
def test_a_mistake_in_a_policy_is_told_at_its_place_and_once(retention: Any, told: str) -> None:
    disk = {"type": "local", "path": "backups", "retention": retention}
    assert mistakes(good(storage_targets={"disk": disk}))[1:] == [f"storage_targets.disk.retention{told}"]


def test_no_storage_target_is_a_mistake_and_a_disabled_one_is_left_out() -> None:
    assert mistakes(good(storage_targets={}))[1].startswith("storage_targets: expected")
    targets = {"a": {"type": "local", "path": "/a"}, "b": {"type": "local", "path": "/b", "enabled": False}}
    assert list(parsed(good(storage_targets=targets)).enabled_targets) == ["a"]


def test_the_file_named_by_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWIST_DR_CONFIG", raising=False)
    with pytest.raises(SettingsError, match=rf"There is no {tmp_path}/twist-dr\.yaml; write one with: twist-dr init"):
        load_settings()
    (tmp_path / "twist-dr.yaml").write_text(GOOD)
    assert load_settings().application == "erp"
    (tmp_path / "other.yaml").write_text(GOOD.replace("erp", "shop"))
    monkeypatch.setenv("TWIST_DR_CONFIG", "other.yaml")
    assert load_settings().application == "shop"


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("application: größe".encode("latin-1"))
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(SettingsError, match="cannot be read"):
            load_settings(path)


def test_a_file_that_is_closed_to_us_is_said(open_folder: Path) -> None:
    closed = open_folder / "closed.yaml"
    closed.write_text(GOOD)
    closed.chmod(0o600)
    said = said_by_python(
        "import sys\n"
        "from pathlib import Path\n"
        "from twist_dr.errors import SettingsError\n"
        "from twist_dr.settings import load_settings\n"
        + AS_USER.format(NOBODY)
        + "try: load_settings(Path(sys.argv[1]))\n"
        "except SettingsError as error: print(error)\n",
        closed,
    )
    assert "cannot be read (PermissionError); fix its permissions" in said


def test_folders_that_lie_in_each_other_are_named_with_their_paths(tmp_path: Path) -> None:
    text = """
application: erp
database: {url: "postgresql://a@b/c"}
media: {files: /srv/files}
storage_targets: {one: {type: local, path: /srv/files/backups}, two: {type: local, path: /b}, three: {type: local, path: /b}}
encryption: {keyring: k}
"""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, tmp_path / "twist-dr.yaml", {})
    assert "storage_targets.one.path lies in media.files" in str(caught.value)
    assert "storage_targets.two.path lies in storage_targets.three.path" in str(caught.value)


@pytest.mark.parametrize(
    ("disk", "wal", "said"),
    [
        (
            {},
            {"required_targets": ["disk"]},
            "targets that WAL is shipped to in wal.required_targets, and disk is none",
        ),
        ({"retention": {"daily": 1, "wal": "7 days"}}, {}, "storage_targets.disk: expected no wal in its retention"),
        (None, {}, "a storage target without wal: false"),
    ],
)
def test_nothing_relies_on_wal_where_none_goes(disk: dict[str, Any] | None, wal: dict[str, Any], said: str) -> None:
    kept_off = {"type": "local", "path": "/a", "wal": False, **(disk or {})}
    other = {"type": "local", "path": "/b", "enabled": disk is not None}
    document = good(storage_targets={"disk": kept_off, "office": other}, wal=wal)
    assert any(said in line for line in mistakes(document))
    assert parsed({**document, "storage_targets": {"disk": {**kept_off, "wal": True}, "office": other}}).wal_targets


# -- secrets of the secrets file ---------------------------------------------------------------------------------------


@pytest.fixture
def with_keys(tmp_path: Path) -> Path:
    save_keyring(Keyring("k1", {"k1": new_key("k1")}, "new"), tmp_path / "keyring.yaml")
    return tmp_path / "twist-dr.yaml"


def test_a_secret_is_filled_in_wherever_it_stands_and_is_hidden_from_then_on(with_keys: Path) -> None:
    secrets = parse_settings(GOOD, with_keys, {}).secrets_file
    assert secrets.path == with_keys.parent / "secrets.yaml"
    secrets.set("DB", "Qx-7_plain-password")
    secrets.set("BUCKET", "bucket-nobody-knows-77")
    s3 = {
        "type": "s3",
        "bucket": "${secret:BUCKET}",
        "access_key_id": "a",
        "secret_access_key": "$${secret:no} ${secret:DB}",
    }
    document = good(
        database={"url": "postgresql://erp:${secret:DB}@db/erp"}, storage_targets={"far": s3}, encryption={"keyring": "${KEYS}"}
    )  # fmt: skip
    settings = parse_settings(yaml.safe_dump(document), with_keys, {"KEYS": "keyring.yaml"})
    assert settings.database.url.get_secret_value() == "postgresql://erp:Qx-7_plain-password@db/erp"
    far: Any = settings.storage_targets["far"]
    assert far.bucket == "bucket-nobody-knows-77"
    assert far.secret_access_key.get_secret_value() == "${secret:no} Qx-7_plain-password"
    said = leaving("login with Qx-7_plain-password at bucket-nobody-knows-77 failed")
    assert said == "login with *** at *** failed"


def test_secrets_that_are_missing_are_told_with_all_other_mistakes_by_their_paths(with_keys: Path) -> None:
    document = good(database={"url": "${secret:DB}"}, app_version="${NO}", wal={"interval_seconds": 1})
    with pytest.raises(SettingsError) as caught:
        parse_settings(yaml.safe_dump(document), with_keys, {})
    said = str(caught.value)
    assert f"database.url: There is no {with_keys.parent / 'secrets.yaml'}" in said
    assert "twist-dr secrets set DB" in said and "3 mistakes" in said and "wal.interval_seconds" in said
    parse_settings(GOOD, with_keys, {}).secrets_file.set("OTHER", "another-secret")
    with pytest.raises(SettingsError, match=r"database.url: .*secrets.yaml has no secret DB"):
        parse_settings(yaml.safe_dump(document), with_keys, {})
    parse_settings(GOOD, with_keys, {}).secrets_file.path.chmod(0o644)
    with pytest.raises(SettingsError, match=r"database.url: Others than its owner may use .*chmod 600"):
        parse_settings(yaml.safe_dump(document), with_keys, {})


def test_what_leads_to_the_secrets_is_none_itself(with_keys: Path) -> None:
    document = good(encryption={"keyring": "${secret:KEYS}"})
    with pytest.raises(SettingsError, match=r"encryption.keyring: .*leads to the secrets, and can be none itself"):
        parse_settings(yaml.safe_dump(document), with_keys, {})


def test_settings_without_a_secret_import_nothing_of_secrets() -> None:
    program = (
        "import sys; from pathlib import Path; from twist_dr.settings import parse_settings; "
        f"settings = parse_settings({GOOD!r}, Path('/etc/erp/twist-dr.yaml'), {{}}); settings.machine; "
        "from twist_dr.settings.building import build_targets; build_targets(settings); "
        "print([name for name in ('cryptography', 'urllib.request', 'http.client', 'twist_dr.repository.secrets_file', "
        "'twist_dr.storage.oauth_http') if name in sys.modules])"
    )
    assert said_by_python(program) == "[]"
