"""Google Drive and OneDrive with what goes wrong there: a named error each, nothing half-made, and what is stored is there once."""

from __future__ import annotations

import json
import math
import threading
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from twist_dr.errors import (
    CredentialsRefused,
    KeyClash,
    KeyTooLong,
    ObjectCorrupt,
    ObjectTooLarge,
    TargetDailyLimit,
    TargetFull,
    TargetReauthorize,
    TargetRefused,
    TargetUnavailable,
)
from twist_dr.storage import drive_target, oauth, rclone_session
from twist_dr.storage.base import Digest, StorageTarget
from twist_dr.storage.drive import GoogleDriveOptions
from twist_dr.storage.machine import Grant, GrantsInMemory, Machine
from twist_dr.storage.oauth import GOOGLE_ALL_FILES
from twist_dr.storage.onedrive import OneDriveOptions
from twist_dr_tests.drives.cloud import GOOGLE_CLIENT, MICROSOFT_CLIENT, Cloud
from twist_dr_tests.drives.gateway import Answer, Fault, Request
from twist_dr_tests.drives.google import FOLDER, File, google_error
from twist_dr_tests.drives.graph import graph_error
from twist_dr_tests.storage.conftest import MakeFile, Place, google_place, microsoft_place

KEY = "erp/backups/1/database.dump"
NOW = timedelta(0)
MIB = 1 << 20


@pytest.fixture(params=["google_drive", "onedrive"])
def place(request: pytest.FixtureRequest, vendors: Cloud, machine_folder: Path) -> Place:
    make = google_place if request.param == "google_drive" else microsoft_place
    return make(vendors, machine_folder)


@pytest.fixture
def google(vendors: Cloud, machine_folder: Path) -> Place:
    return google_place(vendors, machine_folder)


@pytest.fixture
def microsoft(vendors: Cloud, machine_folder: Path) -> Place:
    return microsoft_place(vendors, machine_folder)


def ready(place: Place) -> StorageTarget:
    """A target there, whose folder is made."""
    target = place.target()
    target.prepare()
    return target


def uploads(request: Request) -> bool:
    return request.ends_an_upload


def requests(request: Request) -> bool:
    return request.host in ("www.googleapis.com", "graph.microsoft.com")


def files_of(vendors: Cloud, place: Place) -> list[str]:
    """The names of all files in that place, as their owner sees them."""
    if place.arguments["type"] == "google_drive":
        below = vendors.google.below(place.arguments["folder_id"])
        return sorted(file.name for file in below if file.mime != FOLDER)
    drive = vendors.microsoft.drive_of(vendors.microsoft_tokens.account)
    return [path.rpartition("/")[2] for path in vendors.microsoft.below(drive, place.arguments["path"])]


def assert_read(target: StorageTarget, source: Path, key: str = KEY) -> None:
    with target.open(key) as stream:
        assert stream.read() == source.read_bytes()


# -- what is believed ---------------------------------------------------------------------------------------------------


def test_what_the_provider_hashed_is_not_read_back(vendors: Cloud, place: Place, make_file: MakeFile) -> None:
    source, digest = make_file(MIB)
    target = ready(place)
    target.put(source, KEY, digest)
    read = [
        each for each in vendors.gateway.requests if each.query.get("alt") == "media" or each.path.startswith("/get/")
    ]
    assert read == []
    assert_read(target, source)


@pytest.mark.parametrize("size", [10, 11 * MIB])
def test_bytes_that_arrived_altered_are_refused_and_nothing_remains(
    vendors: Cloud, place: Place, make_file: MakeFile, size: int
) -> None:
    source, digest = make_file(size)

    def altered(content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1]) if content else content

    vendors.google.stored = vendors.microsoft.stored = altered
    with pytest.raises(ObjectCorrupt):
        ready(place).put(source, KEY, digest)
    assert files_of(vendors, place) == []


# -- who may ------------------------------------------------------------------------------------------------------------


def granted(vendors: Cloud, name: str, *, google: bool, expires: float = 3600) -> GrantsInMemory:
    """A grant with an access token that has been good for a while, and may be so for ``expires`` seconds."""
    tokens, client, scope = (
        (vendors.google_tokens, GOOGLE_CLIENT, GOOGLE_ALL_FILES)
        if google
        else (vendors.microsoft_tokens, MICROSOFT_CLIENT, "Files.ReadWrite")
    )
    now = datetime.now(timezone.utc)
    grants = GrantsInMemory()
    refresh = tokens.grant(client.id, scope, "offline_access")
    access = tokens.access(client.id, scope, lifetime=expires)
    ends = now + timedelta(seconds=expires)
    with grants.held(name) as held:
        held.commit(Grant(refresh, now, access_token=access, expires=ends, refreshed=now))
    return grants


def own(vendors: Cloud, machine_folder: Path, kind: str, expires: float = 3600) -> StorageTarget:
    """A target with a grant of its own."""
    machine = Machine(machine_folder, granted(vendors, "own", google=kind == "google_drive", expires=expires))
    if kind == "google_drive":
        folder = vendors.google.folder(vendors.google_tokens.account).id
        secret = {"client_id": GOOGLE_CLIENT.id, "client_secret": GOOGLE_CLIENT.secret}
        return GoogleDriveOptions.model_validate({"type": kind, "folder_id": folder, **secret}).build("own", machine)
    options = {
        "type": kind,
        "account": "business",
        "client_id": MICROSOFT_CLIENT.id,
        "path": f"own/{uuid.uuid4().hex}",
    }
    return OneDriveOptions.model_validate(options).build("own", machine)


KINDS = pytest.mark.parametrize("kind", ["google_drive", "onedrive"])


@KINDS
def test_a_grant_that_was_taken_back_wants_its_owner(
    vendors: Cloud, machine_folder: Path, make_file: MakeFile, kind: str
) -> None:
    source, digest = make_file()
    target = own(vendors, machine_folder, kind)
    target.prepare()
    target.put(source, KEY, digest)
    vendors.google_tokens.revoke()
    vendors.microsoft_tokens.revoke()
    with pytest.raises(TargetReauthorize, match="twist-dr targets authorize own"):
        target.put(source, "erp/next", digest)


@KINDS
def test_a_token_that_ends_in_the_middle_of_an_upload_is_followed_by_the_next(
    vendors: Cloud, machine_folder: Path, make_file: MakeFile, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone takes a token for ended 10 s before it is: of 13 s it has 3."""
    source, digest = make_file(25 * MIB)
    vendors.google_tokens.lifetime = vendors.microsoft_tokens.lifetime = 13
    monkeypatch.setattr(rclone_session, "_HALF", 0.1)
    monkeypatch.setattr(oauth, "in_first_half", lambda grant, now: None)
    target = own(vendors, machine_folder, kind, expires=13)
    target.prepare()
    parts = vendors.gateway.add(Fault(lambda request: request.content_range is not None, delay=1.5, times=None))
    target.put(source, KEY, digest)
    assert parts.happened >= 3
    assert len({request.bearer for request in vendors.gateway.requests if request.bearer}) >= 2
    assert_read(target, source)


def test_a_folder_may_have_any_name(vendors: Cloud, machine_folder: Path, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(google_place(vendors, machine_folder, path="Bob's backups/the firm's"))
    target.put(source, KEY, digest)
    assert [each.key for each in target.list("")] == [KEY]
    assert_read(target, source)


def test_a_folder_of_somebody_elses_is_said_to_be_out_of_reach(
    vendors: Cloud, machine_folder: Path, make_file: MakeFile
) -> None:
    source, digest = make_file()
    foreign = vendors.google.folder("somebody.else@example.com")
    with pytest.raises(TargetRefused, match=f"the folder {foreign.id} does not exist, or is not shared"):
        google_place(vendors, machine_folder, folder_id=foreign.id).target().prepare()
    foreign.readers.add(vendors.google_tokens.account)
    with pytest.raises(CredentialsRefused):
        google_place(vendors, machine_folder, folder_id=foreign.id).target().put(source, KEY, digest)
    assert vendors.google.below(foreign.id) == []


def test_a_service_account_stores_in_a_shared_drive(
    vendors: Cloud, machine_folder: Path, make_file: MakeFile, tmp_path: Path
) -> None:
    source, digest = make_file()
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    email = "backup@tests.iam.gserviceaccount.com"
    vendors.google_tokens.service_accounts[email] = pem
    file = tmp_path / "account.json"
    token_url = f"https://{vendors.google_tokens.token_url}"
    said = {"type": "service_account", "client_email": email, "private_key": pem, "token_uri": token_url}
    file.write_text(json.dumps(said))
    drive = vendors.google.shared_drive("Backups")
    options = GoogleDriveOptions.model_validate(
        {"type": "google_drive", "service_account_file": file, "shared_drive": drive}
    )
    target = options.build("drive", Machine(machine_folder))
    target.prepare()
    target.put(source, KEY, digest)
    assert_read(target, source)
    assert {file.drive for file in vendors.google.below(drive)} == {drive}


def test_a_site_of_sharepoint_is_found_by_its_address(
    vendors: Cloud, machine_folder: Path, make_file: MakeFile
) -> None:
    source, digest = make_file()
    drive = vendors.microsoft.site("contoso.sharepoint.com:/sites/it", vendors.microsoft_tokens.account)
    there = {"account": "sharepoint", "site": "contoso.sharepoint.com/sites/it"}
    place = microsoft_place(vendors, machine_folder, **there)
    ready(place).put(source, KEY, digest)
    assert vendors.microsoft.below(drive, place.arguments["path"]) == [f"{place.arguments['path']}/{KEY}"]
    with pytest.raises(TargetRefused, match="correct site or drive_id"):
        microsoft_place(
            vendors, machine_folder, **{**there, "site": "contoso.sharepoint.com/sites/no"}
        ).target().prepare()


# -- room and speed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 11 * MIB])
def test_a_full_drive_is_said_to_be_full_and_nothing_half_made_remains(
    vendors: Cloud, place: Place, make_file: MakeFile, size: int
) -> None:
    source, digest = make_file(size)
    vendors.google.quota = vendors.google.used(vendors.google_tokens.account) + size - 1
    drive = vendors.microsoft.drive_of(vendors.microsoft_tokens.account)
    drive.quota = sum(len(item.content or b"") for item in drive.items.values()) + size - 1
    with pytest.raises(TargetFull, match="space"):
        ready(place).put(source, KEY, digest)
    assert files_of(vendors, place) == []


def test_the_daily_limit_of_google_is_told_from_a_moments(vendors: Cloud, google: Place, make_file: MakeFile) -> None:
    source, digest = make_file(MIB)
    target = ready(google)
    vendors.gateway.add(
        Fault(
            requests,
            google_error(
                403,
                "userRateLimitExceeded",
                "User Rate Limit Exceeded. Rate of requests for user exceed configured project quota",
            ),
            times=2,
        )
    )
    target.put(source, KEY, digest)
    vendors.google.daily_limit = 0
    with pytest.raises(TargetDailyLimit, match="tomorrow"):
        target.put(source, "erp/next", digest)
    assert files_of(vendors, google) == ["database.dump"]


@pytest.mark.parametrize(
    ("answer", "times"),
    [
        (google_error(429, "rateLimitExceeded"), 2),
        # rclone tries neither again, nor does it wait for as long as it is told.
        (google_error(429, ""), 1),
        (Answer(429, b"", {"Retry-After": "1"}), 1),
        (Answer(503), 2),
    ],
    ids=["reason", "no-reason", "retry-after", "unavailable"],
)
def test_google_may_ask_to_be_asked_less(
    vendors: Cloud, google: Place, make_file: MakeFile, answer: Answer, times: int
) -> None:
    source, digest = make_file(MIB)
    target = ready(google)
    storm = vendors.gateway.add(Fault(requests, answer, times=times))
    target.put(source, KEY, digest)
    assert storm.happened == times
    assert_read(target, source)


def test_microsoft_may_ask_to_be_asked_less_and_is_waited_for(
    vendors: Cloud, microsoft: Place, make_file: MakeFile
) -> None:
    source, digest = make_file(MIB)
    throttled = graph_error(429, "activityLimitReached", Retry_After="1")
    at_once = vendors.gateway.add(Fault(requests, throttled))
    target = ready(microsoft)
    storm = vendors.gateway.add(Fault(requests, throttled, times=2))
    target.put(source, KEY, digest)
    assert (at_once.happened, storm.happened) == (1, 2)
    assert_read(target, source)


# -- what is there twice, late or not yet ---------------------------------------------------------------------------------


def test_an_emptied_folder_takes_nothing_with_it_that_is_not_shown_yet(
    vendors: Cloud, google: Place, make_file: MakeFile
) -> None:
    source, digest = make_file()
    target = ready(google)
    target.put(source, KEY, digest)
    folder = next(each for each in vendors.google.below(google.arguments["folder_id"]) if each.name == "1")
    hidden = File("manifest.json", folder.id, folder.owner, content=b"of another machine", listed_from=math.inf)
    vendors.google.add(hidden)
    target.delete(KEY)
    assert target.children("erp") == []
    assert hidden.id in vendors.google.files


def test_what_is_stored_where_another_process_took_the_emptied_folder_away_is_not_lost(
    place: Place, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_target, "_LAG_SECONDS", 2.0)
    source, digest = make_file()
    one, other = ready(place), ready(place)
    one.put(source, "erp/wal/1", digest)
    other.delete("erp/wal/1")
    one.put(source, "erp/wal/2", digest)
    for target in (one, other, ready(place)):
        assert [each.key for each in target.list("")] == ["erp/wal/2"]
    other.delete("erp/wal/2")
    other.put(source, "erp/wal/3", digest)
    assert one.stat("erp/wal/3") is not None
    assert [each.key for each in one.list("erp/wal")] == ["erp/wal/3"]
    assert_read(one, source, "erp/wal/3")


def test_a_listing_of_many_pages_is_whole(vendors: Cloud, place: Place, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(place)
    keys = [f"erp/wal/{number}" for number in range(5)]
    for key in keys:
        target.put(source, key, digest)
    vendors.google.page_size = vendors.microsoft.page_size = 2
    assert [each.key for each in target.list("")] == keys


def test_storing_beside_many_objects_lists_none_of_them(vendors: Cloud, place: Place, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(place)
    target.put(source, "erp/wal/1", digest)
    vendors.gateway.requests.clear()
    target.put(source, "erp/wal/2", digest)
    asked = vendors.gateway.requests
    lists = [each for each in asked if each.path.endswith("/children") or "name" not in each.query.get("q", "name")]
    assert len(lists) <= 1, "the target's own folder, to see that it is there"


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_lost_answer_and_a_late_listing_make_no_second_object(
    vendors: Cloud, place: Place, make_file: MakeFile, size: int
) -> None:
    source, digest = make_file(size)
    target = ready(place)
    vendors.google.lag = 0.25
    lost = vendors.gateway.add(Fault(uploads, lose_answer=True))
    target.put(source, KEY, digest)
    assert lost.happened == 1
    assert target.stat(KEY) is not None
    target.sweep(NOW)
    assert files_of(vendors, place) == ["database.dump"]
    assert_read(target, source)


def test_a_listing_that_lags_is_waited_for_by_whoever_stored(
    vendors: Cloud, google: Place, make_file: MakeFile
) -> None:
    source, digest = make_file()
    vendors.google.lag = 0.25
    ready(google).put(source, KEY, digest)
    other = ready(google)
    assert other.stat(KEY) is not None
    assert [each.key for each in other.list("erp")] == [KEY]


def test_what_was_just_deleted_may_be_shown_for_a_while(vendors: Cloud, google: Place, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(google)
    target.put(source, KEY, digest)
    vendors.google.lag = 0.5
    target.delete(KEY)
    assert target.stat(KEY) is None
    assert files_of(vendors, google) == []


def test_what_was_just_made_may_not_be_found_at_first(vendors: Cloud, place: Place, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(place)
    missing = (
        graph_error(404, "itemNotFound")
        if "account" in place.arguments
        else google_error(404, "notFound", "File not found: .")
    )

    def afterwards(request: Request) -> bool:
        return request.method in ("GET", "PATCH") and any(map(uploads, vendors.gateway.requests)) and requests(request)

    fault = vendors.gateway.add(Fault(afterwards, missing))
    target.put(source, KEY, digest)
    assert fault.happened == 1
    assert_read(target, source)


def again(vendors: Cloud, name: str, content: bytes | None = None) -> File:
    """Another file or folder of that name, beside the first, as a process makes it that does not see the first yet."""
    first = next(file for file in vendors.google.files.values() if file.name == name)
    made = first.content if content is None else content
    return vendors.google.add(File(name, first.parent, first.owner, first.mime, made, first.app))


@pytest.fixture
def stored(vendors: Cloud, google: Place, make_file: MakeFile) -> tuple[StorageTarget, Path, Digest, str]:
    """A target with an object of a name that no other test has."""
    source, digest = make_file()
    key = f"erp/{google.arguments['folder_id']}/object-{google.arguments['folder_id']}"
    target = ready(google)
    target.put(source, key, digest)
    return target, source, digest, key


def test_of_two_objects_with_the_same_bytes_one_goes(
    vendors: Cloud, google: Place, stored: tuple[StorageTarget, Path, Digest, str]
) -> None:
    target, source, digest, key = stored
    again(vendors, key.rpartition("/")[2])
    assert [each.key for each in target.list("")] == [key]
    target.put(source, key, digest)
    assert files_of(vendors, google) == [key.rpartition("/")[2]]
    again(vendors, key.rpartition("/")[2])
    target.delete(key)
    assert target.stat(key) is None
    assert files_of(vendors, google) == []


def test_two_objects_with_different_bytes_are_told_and_left(
    vendors: Cloud, google: Place, stored: tuple[StorageTarget, Path, Digest, str]
) -> None:
    target, source, digest, key = stored
    again(vendors, key.rpartition("/")[2], b"other bytes")
    with pytest.raises(ObjectCorrupt, match=f"{key} is there 2 times"):
        target.put(source, key, digest)
    assert len(files_of(vendors, google)) == 2


def test_two_folders_of_one_name_become_one_with_all_their_objects(
    vendors: Cloud, google: Place, stored: tuple[StorageTarget, Path, Digest, str], make_file: MakeFile
) -> None:
    target, source, _, key = stored
    folder, name = key.split("/")[1:]
    twin = again(vendors, folder)
    other, other_digest = make_file(b"in the other")
    for content in (source, other):
        file = name if content is source else "other"
        vendors.google.add(File(file, twin.id, twin.owner, content=content.read_bytes()))
    vendors.google.add(
        File("deep", vendors.google.add(File("sub", twin.id, twin.owner, FOLDER)).id, twin.owner, content=b"x")
    )
    assert [each.key for each in target.list("")] == sorted([key, f"erp/{folder}/other", f"erp/{folder}/sub/deep"])
    newcomer = ready(google)
    newcomer.put(other, f"erp/{folder}/other", other_digest)
    newcomer.put(other, f"erp/{folder}/newest", other_digest)
    folders = [file for file in vendors.google.files.values() if file.name == folder]
    assert sorted(file.trashed for file in folders) == [False, True]
    assert files_of(vendors, google) == sorted([name, "other", "deep", "newest"])


def test_several_writers_make_one_folder_and_one_object_of_a_name(
    vendors: Cloud, google: Place, make_file: MakeFile
) -> None:
    source, digest = make_file()
    vendors.google.lag = 0.25
    start = threading.Barrier(3)
    failures: list[BaseException] = []

    def store() -> None:
        target = ready(google)
        start.wait()
        try:
            target.put(source, KEY, digest)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=store) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    names = [file.name for file in vendors.google.below(google.arguments["folder_id"])]
    assert sorted(names) == [".incoming", "1", "backups", "database.dump", "erp"]


# -- names and sizes ------------------------------------------------------------------------------------------------------


def test_a_name_that_differs_in_case_alone_is_refused_and_said_to_clash(
    vendors: Cloud, microsoft: Place, make_file: MakeFile
) -> None:
    source, digest = make_file()
    ready(microsoft).put(source, "erp/wal/ABC", digest)
    for key in ("erp/wal/abc", "erp/Wal/other", "ERP/wal/other"):
        with pytest.raises(KeyClash, match="differ in the case of letters only"):
            microsoft.target().put(source, key, digest)
    assert [each.key for each in microsoft.target().list("")] == ["erp/wal/ABC"]


def test_what_microsoft_does_not_take_is_not_sent(vendors: Cloud, microsoft: Place, make_file: MakeFile) -> None:
    source, digest = make_file()
    target = ready(microsoft)
    with pytest.raises(KeyTooLong, match="400"):
        target.put(source, f"erp/{'/'.join(['a' * 60] * 6)}", digest)
    with pytest.raises(ObjectTooLarge, match="268435456000"):
        target.put(source, KEY, replace(digest, size=(250 << 30) + 1))
    assert files_of(vendors, microsoft) == []


def test_what_cleanup_deletes_is_gone_and_does_not_fill_the_trash(
    vendors: Cloud, place: Place, make_file: MakeFile
) -> None:
    source, digest = make_file()
    target = ready(place)
    target.put(source, KEY, digest)
    target.delete(KEY)
    assert files_of(vendors, place) == []
    removed = [each for each in vendors.gateway.requests if each.path.endswith("/permanentDelete")]
    assert bool(removed) == ("account" in place.arguments)
    assert not any(file.trashed and file.mime != FOLDER for file in vendors.google.files.values())


# -- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either client_id with client_secret, or service_account_file"),
        ({"client_id": "id"}, "client_id and client_secret together"),
        ({"service_account_file": "/a"}, "has no space of its own"),
        ({"client_id": "id", "client_secret": "s", "impersonate": "x@example.com"}, "service_account_file beside"),
        (
            {"client_id": "id", "client_secret": "s", "folder_id": "a/b"},
            "an id, which is the end of the address of the folder",
        ),
    ],
)
def test_settings_of_a_google_drive_that_do_not_go_together(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GoogleDriveOptions.model_validate({"type": "google_drive", **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"account": "sharepoint"}, "site or drive_id"),
        ({"account": "business", "site": "contoso.sharepoint.com/sites/it"}, "account: sharepoint beside site"),
        ({"account": "personal", "path": ""}, "path\n.* at least 1 item"),
    ],
)
def test_settings_of_a_onedrive_that_do_not_go_together(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OneDriveOptions.model_validate({"type": "onedrive", "client_id": "id", **options})


def test_rights_are_asked_for_no_more_than_is_needed() -> None:
    secret = {"type": "google_drive", "client_id": "id", "client_secret": "s"}

    def asked(more: dict[str, str]) -> tuple[str, ...]:
        client = GoogleDriveOptions.model_validate({**secret, **more}).oauth
        assert client is not None
        return client.scopes

    assert [scope.rpartition("/")[2] for scope in (*asked({}), *asked({"folder_id": "abc"}))] == ["drive.file", "drive"]
    own_drive = OneDriveOptions.model_validate({"type": "onedrive", "account": "personal", "client_id": "id"})
    assert own_drive.oauth.scopes == ("Files.ReadWrite", "offline_access")


@pytest.mark.parametrize("body", [b"<!doctype html><title>Sign in to this network</title>", b'{"files": [{}]}'])
def test_what_answers_in_the_place_of_google_is_a_named_error(
    vendors: Cloud, google: Place, make_file: MakeFile, body: bytes
) -> None:
    target, (source, digest) = ready(google), make_file(100)
    target.put(source, KEY, digest)
    erp = next(each for each in vendors.google.below(google.arguments["folder_id"]) if each.name == "erp")
    vendors.google.add(File("erp", erp.parent, erp.owner, FOLDER))
    # Folders of one name are asked for without rclone.
    vendors.gateway.add(Fault(lambda request: request.query.get("orderBy") == "createdTime", Answer(200, body)))
    with pytest.raises(TargetUnavailable, match="what answers as Google Drive"):
        ready(google).put(source, "erp/backups/2/database.dump", digest)
    vendors.gateway.add(Fault(lambda request: request.method == "GET", Answer(200, body), times=None))
    with pytest.raises(TargetUnavailable):
        google.target().prepare()
    vendors.gateway.clear()
    assert files_of(vendors, google) == ["database.dump"]


def test_what_answers_in_the_place_of_microsoft_is_a_named_error(vendors: Cloud, microsoft: Place) -> None:
    vendors.gateway.add(Fault(requests, Answer(200, b'{"id": "x"}'), times=None))
    with pytest.raises(TargetUnavailable, match="what answers as Microsoft Graph"):
        microsoft.target().prepare()
