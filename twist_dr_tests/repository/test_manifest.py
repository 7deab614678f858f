"""The manifest: what a backup is. Whoever can write to a target must not be able to change a word of it unnoticed."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from twist_dr.errors import (
    BackupError,
    EncryptionError,
    KeyMissing,
    ManifestForeign,
    ManifestInvalid,
    ManifestTooNew,
    WrongKey,
)
from twist_dr.repository.keys import Key, Keyring, new_key
from twist_dr.repository.manifest import (
    MOST_BYTES,
    Manifest,
    is_backup_id,
    new_backup_id,
    open_manifest,
    schema_version,
)
from twist_dr.repository.streams import Form
from twist_dr_tests.helpers import KEY, KEYRING, OTHER_KEY

BACKUP = "20260101T020000Z-full-0001"
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def document(**changes: Any) -> dict[str, Any]:
    """A manifest's fields as JSON has them, without its MAC."""
    stored = {"name": "database.dump.zst.enc", "size": 1000, "sha256": "a" * 64}
    return {
        "format_version": "1.0",
        "application": "erp",
        "app_version": "4.2",
        "git_revision": None,
        "backup_id": BACKUP,
        "kind": "full",
        "label": "scheduled",
        "reason": "every night",
        "who": "Jürgen",
        "parts": ["database"],
        "started_at": "2026-01-01T02:00:00Z",
        "snapshot_at": "2026-01-01T02:00:01Z",
        "finished_at": "2026-01-01T02:10:00Z",
        "postgres": {
            "version": "18.6",
            "version_number": 180006,
            "system_identifier": "7412345678901234567",
            "lsn": "0/1A2B3C4D",
            "timeline": 1,
            "in_recovery": False,
            "database": "erp",
            "database_size": 12345678,
            "encoding": "UTF8",
            "collate": "C.UTF-8",
            "ctype": "C.UTF-8",
            "locale_provider": "libc",
            "locale": None,
            "extensions": [{"name": "plpgsql", "version": "1.0"}],
            "bootstrap_role": "postgres",
            "dumped_as": "backup",
            "client_version": "18.6",
        },
        "db_schema_version": "0123456789ab",
        "migrations": {"billing": ["0001_initial", "0002_due_date"]},
        "tables": {"public.billing_invoice": 41, "public.größe": 2},
        "large_objects": 3,
        "artifacts": [
            {
                "name": "database.dump",
                "part": "database",
                "size": 5000,
                "sha256": "b" * 64,
                "stored": {"zstd+enc": stored},
            }
        ],
        "files": {"media": 7},
        "storage_targets": {"nas": "zstd+enc"},
        "durations": {"total": 600.123, "database": 0.1},
        "warnings": ["database: a warning"],
        "key": {"id": KEY.id, "check_value": KEY.check_value},
        **changes,
    }


def sealed(key: Key = KEY, **changes: Any) -> bytes:
    return Manifest.model_validate(document(**changes)).seal(key)


def read(data: bytes, keyring: Keyring = KEYRING, application: str = "erp", backup_id: str = BACKUP) -> Manifest:
    return open_manifest(data, keyring, application=application, backup_id=backup_id, what=f"nas: {backup_id}")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every leaf."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*path, number))
    else:
        yield path


def another(value: Any) -> Any:
    """Nearly the same value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value:
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return "something"


def test_a_sealed_manifest_reads_back_as_it_was() -> None:
    manifest = Manifest.model_validate(document())
    assert read(manifest.seal(KEY)) == manifest
    assert json.loads(manifest.seal(KEY)).keys() == {*document(), "mac"}


@pytest.mark.parametrize("path", list(places(json.loads(sealed()))), ids=lambda path: ".".join(map(str, path)))
def test_every_altered_field_is_refused(path: tuple[Any, ...]) -> None:
    altered = json.loads(sealed())
    holder = altered
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = another(holder[path[-1]])
    with pytest.raises((ManifestInvalid, EncryptionError)) as caught:
        read(json.dumps(altered).encode())
    assert BACKUP in str(caught.value) or KEY.id[:-1] in str(caught.value)


@pytest.mark.parametrize("field", json.loads(sealed()))
def test_every_field_left_out_is_refused(field: str) -> None:
    altered = json.loads(sealed())
    del altered[field]
    with pytest.raises(ManifestInvalid, match=BACKUP):
        read(json.dumps(altered).encode())


def test_an_added_field_is_refused() -> None:
    altered = json.loads(sealed()) | {"note": "added later"}
    with pytest.raises(ManifestInvalid, match="altered"):
        read(json.dumps(altered).encode())


@pytest.mark.parametrize("length", [0, 1, 100, len(sealed()) // 2, len(sealed()) - 1])
def test_a_truncated_manifest_is_refused(length: int) -> None:
    with pytest.raises(ManifestInvalid, match="truncated or overwritten"):
        read(sealed()[:length])


@pytest.mark.parametrize(
    "data",
    [b"PGDMP", b"\xff\xfe\x00", b"[]", b"null", b"{}", b'{"format_version":"x"}', bytes(5000), b"[" * 100_000],
    ids=["dump", "binary", "list", "null", "empty", "odd version", "zeros", "deep"],
)
def test_what_is_no_manifest_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="another storage target"):
        read(data)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", '"\\ud800"', "1" + "0" * 5000], ids=["nan", "inf", "half", "huge"]
)
@pytest.mark.parametrize("field", ["large_objects", "reason", "mac", "format_version"])
def test_json_that_only_python_accepts_is_refused_in_words(field: str, value: str) -> None:
    text = json.dumps({**json.loads(sealed()), field: "PLACE"}).replace('"PLACE"', value)
    with pytest.raises((ManifestInvalid, ManifestTooNew)):
        read(text.encode())


@pytest.mark.parametrize("version", ["²", "²²", "-1", "1e9", "٣"])
def test_an_odd_format_version_is_refused_in_words(version: str) -> None:
    with pytest.raises((ManifestInvalid, ManifestTooNew)):
        read(json.dumps({**json.loads(sealed()), "format_version": version}).encode())


@pytest.mark.parametrize(("application", "backup_id"), [("shop", BACKUP), ("erp", "20260101T020000Z-full-0002")])
def test_a_manifest_in_the_place_of_another_is_foreign(application: str, backup_id: str) -> None:
    with pytest.raises(ManifestForeign, match=rf"erp/{BACKUP}.*{application}/{backup_id}"):
        read(sealed(), application=application, backup_id=backup_id)


def test_the_mac_put_anywhere_else_makes_no_other_manifest() -> None:
    """The text without it is what is authenticated, so wherever it is put it must read as the same document, or not at all."""
    data = sealed()
    mac = json.loads(data)["mac"]
    field = f',"mac":"{mac}"'.encode()
    rest, taken = data.replace(field, b""), 0
    for place in range(len(rest) + 1):
        try:
            found = read(rest[:place] + field + rest[place:])
        except ManifestInvalid:
            continue
        assert found == read(data)
        taken += 1
    assert taken == len(json.loads(rest))


def test_a_manifest_is_not_written_again_to_be_authenticated_but_where_others_wrote_it_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = sealed()
    spread = json.dumps(json.loads(data), indent=1).encode()
    assert read(spread) == read(data)
    monkeypatch.setattr("twist_dr.repository.sealing.canonical", lambda document: pytest.fail("it was written again"))
    assert read(data).backup_id == BACKUP


def test_fields_of_a_newer_minor_format_are_kept_and_are_under_the_mac() -> None:
    artifact = document()["artifacts"][0] | {"page_checksums": "good"}
    data = sealed(format_version="1.7", mood="calm", artifacts=[artifact])
    again = read(data).seal(KEY)
    assert again == data
    assert b'"mood":"calm"' in again
    assert b'"page_checksums":"good"' in again
    with pytest.raises(ManifestInvalid):
        read(data.replace(b"calm", b"wild"))
    with pytest.raises(ManifestInvalid):
        read(data.replace(b'"good"', b'"fine"'))


@pytest.mark.parametrize("version", ["2.0", "2", "10.3"])
def test_a_newer_major_format_is_refused_with_the_advice_to_upgrade(version: str) -> None:
    with pytest.raises(ManifestTooNew, match=rf"{version}.*upgrade twist-dr"):
        read(sealed(format_version=version))


def test_a_manifest_that_no_reader_would_take_fails_the_backup_that_wrote_it() -> None:
    just = Manifest.model_validate(document(warnings=["w" * (MOST_BYTES - 10_000)]))
    assert len(just.seal(KEY)) <= MOST_BYTES
    with pytest.raises(BackupError, match=rf"may have {MOST_BYTES}, with 2 tables and 1 warning"):
        sealed(warnings=["w" * MOST_BYTES])


def test_a_missing_key_is_named() -> None:
    with pytest.raises(KeyMissing, match=KEY.id):
        read(sealed(), Keyring("b", {"b": new_key("b")}, "the keyring"))


def test_a_wrong_key_is_said_at_once() -> None:
    with pytest.raises(WrongKey, match=KEY.id):
        read(sealed(), Keyring(OTHER_KEY.id, {OTHER_KEY.id: OTHER_KEY}, "the keyring"))


def test_a_manifest_of_an_older_key_is_read_as_long_as_the_keyring_keeps_it() -> None:
    assert read(sealed(), KEYRING.with_new_primary(new_key("newer"))).backup_id == BACKUP


def test_a_manifest_forged_with_a_key_of_the_forgers_own_is_refused() -> None:
    forger = Key(KEY.id, bytes(32))
    with pytest.raises(ManifestInvalid, match="altered"):
        read(Manifest.model_validate(document()).seal(forger))


def test_a_manifest_holds_no_secret() -> None:
    data = sealed()
    for secret in (KEY.secret, KEY.mac_secret("manifest")):
        for shown in (secret.hex().encode(), base64.b64encode(secret), secret):
            assert shown not in data


def test_ids_sort_by_time_across_kinds_and_zones() -> None:
    ids = [
        new_backup_id(kind, (NOON + timedelta(seconds=number)).astimezone(timezone(timedelta(hours=number % 20 - 10))))
        for number, kind in enumerate(["tenant", "full", "configuration", "base"] * 25)
    ]
    assert ids == sorted(ids)
    assert all(map(is_backup_id, ids))
    assert len({new_backup_id("full", NOON) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "manifest.json",
        BACKUP + "\n",
        BACKUP + "x",
        "x" + BACKUP,
        BACKUP.upper(),
        "٢" * 8 + BACKUP[8:],
        "../" + BACKUP,
    ],
)
def test_other_names_are_no_ids(name: str) -> None:
    assert not is_backup_id(name)


def test_the_schema_version_follows_the_applied_migrations_and_nothing_else() -> None:
    state = {"a": ["0001", "0002"], "b": ["0001"]}
    assert schema_version(state) == schema_version({"b": ["0001"], "a": ["0002", "0001"]})
    assert schema_version(state) != schema_version({"a": ["0001"], "b": ["0001"]})
    assert schema_version({}) is None


def test_configuration_is_counted_as_encrypted_on_a_target_that_encrypts_nothing() -> None:
    form = {"name": "configuration.tar.zst.enc", "size": 77, "sha256": "c" * 64}
    artifact = {
        "name": "configuration.tar",
        "part": "configuration",
        "size": 100,
        "sha256": "d" * 64,
        "stored": {"zstd+enc": form},
    }
    assert Manifest.model_validate(document(artifacts=[artifact])).stored_bytes(Form("zstd", False)) == 77
