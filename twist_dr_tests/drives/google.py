"""Google Drive v3 (developers.google.com/drive/api/reference/rest/v3): files, folders, shared drives, uploads, quota.

As there, names may repeat in a folder, what was deleted for ever is gone, and a listing may lag behind what a file's id already shows.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import itertools
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from twist_dr_tests.drives.gateway import Answer, Refused, Request, json_answer, part_of
from twist_dr_tests.drives.google_query import matching
from twist_dr_tests.drives.tokens import Token, TokenServer

FOLDER = "application/vnd.google-apps.folder"
API, UPLOAD = "/drive/v3", "/upload/drive/v3/files"
_DRIVE, _OWN = "https://www.googleapis.com/auth/drive", "https://www.googleapis.com/auth/drive.file"


def google_error(status: int, reason: str, message: str = "", **headers: str) -> Answer:
    """An error of Google's: ``reason`` is what a program goes by."""
    said = {
        "domain": "usageLimits" if status in (403, 429) else "global",
        "reason": reason,
        "message": message or reason,
    }
    errors = [said] if reason else []
    return json_answer({"error": {"code": status, "message": message or reason, "errors": errors}}, status, **headers)


@dataclass
class File:
    """A file or a folder. ``app``: the client that made it; ``readers``: who may read it beside its owner, and not write."""

    name: str
    parent: str
    owner: str
    mime: str = "application/octet-stream"
    content: bytes = field(default=b"", repr=False)
    app: str = ""
    drive: str | None = None
    readers: set[str] = field(default_factory=set)
    trashed: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    modified: str = ""
    created: str = ""
    #: When listings begin to have it, by ``time.monotonic``.
    listed_from: float = 0.0


@dataclass
class _Upload:
    meta: dict[str, Any]
    token: Token
    file: File | None
    total: int
    content: bytearray = field(default_factory=bytearray)
    #: What it became: whoever lost that answer and asks again gets it again.
    answer: Answer | None = None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class GoogleDrive:
    """``quota``: bytes that an account may store. ``lag``: seconds until a listing has what was made, moved or renamed, and lacks what was deleted.

    ``daily_limit``: bytes after which uploads are refused as over the daily limit. ``stored``: what becomes of bytes on their way to the disks.
    """

    def __init__(self, tokens: TokenServer) -> None:
        self.tokens = tokens
        self.files: dict[str, File] = {}
        self.deleted: dict[str, tuple[File, float]] = {}
        self.drives: dict[str, str] = {}
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """No faults any more; files stay."""
        self.quota: int | None = 15 << 30
        self.daily_limit: int | None = None
        self.uploaded = 0
        self.lag = 0.0
        self.page_size = 1000
        self.stored: Callable[[bytes], bytes] = lambda content: content

    # -- what tests do --------------------------------------------------------------------------------------------------

    def root(self, account: str) -> File:
        """The account's own drive."""
        with self._lock:
            found = [
                file for file in self.files.values() if file.owner == account and not file.parent and not file.drive
            ]
            return found[0] if found else self.add(File("My Drive", "", account, FOLDER))

    def add(self, file: File) -> File:
        with self._lock:
            file.created = file.created or _now()
            file.modified = file.modified or file.created
            self.files[file.id] = file
        return file

    def folder(self, account: str, name: str = "", app: str = "") -> File:
        """A new folder in the account's own drive."""
        return self.add(File(name or uuid.uuid4().hex, self.root(account).id, account, FOLDER, app=app))

    def shared_drive(self, name: str) -> str:
        """A new shared drive, whose id is that of its root."""
        file = self.add(File(name, "", "", FOLDER, drive=uuid.uuid4().hex))
        del self.files[file.id]
        file.id = str(file.drive)
        self.drives[file.id] = name
        return self.add(file).id

    def below(self, folder: str) -> list[File]:
        """All that lies in that folder and its folders."""
        here = [file for file in self.files.values() if file.parent == folder]
        return here + [each for file in here for each in self.below(file.id)]

    def used(self, account: str) -> int:
        return sum(len(file.content) for file in self.files.values() if file.owner == account and not file.drive)

    # -- what programs ask ----------------------------------------------------------------------------------------------

    def __call__(self, request: Request) -> Answer:
        if self.tokens.serves(request):
            return self.tokens(request)
        token = self.tokens.of(request)
        if token is None:
            return google_error(401, "authError", "Invalid Credentials")
        with self._lock:
            if request.path.startswith(UPLOAD):
                return self._upload(request, token)
            if request.path == f"{API}/about":
                return self._about(token)
            if request.path.startswith(f"{API}/drives"):
                return self._drives(request)
            if request.path == f"{API}/files":
                return self._list(request, token) if request.method == "GET" else self._create(request.json, token)
            return self._one(request, request.path.removeprefix(f"{API}/files/"), token)

    def _about(self, token: Token) -> Answer:
        used = self.used(token.account)
        trash = sum(len(file.content) for file in self.files.values() if file.owner == token.account and file.trashed)
        quota = {"usage": str(used), "usageInDrive": str(used), "usageInDriveTrash": str(trash)}
        if self.quota is not None:
            quota["limit"] = str(self.quota)
        user = {"emailAddress": token.account, "displayName": token.account}
        return json_answer({"storageQuota": quota, "user": user, "maxUploadSize": str(5 << 40)})

    def _drives(self, request: Request) -> Answer:
        wanted = request.path.removeprefix(f"{API}/drives").strip("/")
        if not wanted:
            return json_answer({"drives": [{"id": each, "name": name} for each, name in self.drives.items()]})
        if wanted not in self.drives:
            return google_error(404, "notFound", f"Shared drive not found: {wanted}")
        return json_answer({"id": wanted, "name": self.drives[wanted]})

    def _list(self, request: Request, token: Token) -> Answer:
        query, now = request.query, time.monotonic()
        skip = int(query.get("pageToken", 0))
        fits = matching(query.get("q", "trashed=false").replace("'root'", f"'{self.root(token.account).id}'"))
        for parent in re.findall(r"'([^']*)' in parents", query.get("q", "")):
            if parent != "root" and (parent not in self.files or not self._sees(self.files[parent], token)):
                return google_error(404, "notFound", "File not found: .")
        # A shared drive is searched by whoever names it, or asks for all drives.
        late = [file for file, shown_until in self.deleted.values() if shown_until > now]
        everywhere = query.get("includeItemsFromAllDrives") == "true"
        found = [
            file
            for file in sorted(
                [*self.files.values(), *late], key=lambda file: file.created if "orderBy" in query else ""
            )
            if file.parent and file.listed_from <= now and self._sees(file, token) and (everywhere or not file.drive)
            if query.get("driveId") in (None, file.drive)
            if fits(
                {"name": file.name, "mimeType": file.mime, "trashed": self._trashed(file), "parents": {file.parent}}
            )
        ]
        size = min(self.page_size, int(query.get("pageSize", 100)))
        page = list(itertools.islice(found, skip, skip + size))
        more = {"nextPageToken": str(skip + size)} if skip + size < len(found) else {}
        return json_answer({"files": [self._shown(file) for file in page], "incompleteSearch": False, **more})

    def _trashed(self, file: File) -> bool:
        """Explicitly, or with a folder above it (the field ``trashed`` in the Drive API's reference)."""
        above = self.files.get(file.parent)
        return file.trashed or (above is not None and self._trashed(above))

    def _one(self, request: Request, wanted: str, token: Token) -> Answer:
        file = self._found(wanted, token, request)
        if request.method == "GET" and request.query.get("alt") == "media":
            return part_of(file.content, request)
        if request.method == "GET":
            return json_answer(self._shown(file))
        self._writable(file, token)
        if request.method == "DELETE":
            for each in [*self.below(file.id), file]:
                self.deleted[each.id] = self.files.pop(each.id), time.monotonic() + self.lag
            return Answer(204)
        self._change(file, request.json, token, request)
        return json_answer(self._shown(file))

    def _change(self, file: File, wanted: dict[str, Any], token: Token, request: Request) -> None:
        if "addParents" in request.query:
            self._writable(self._found(request.query["addParents"], token, request), token)
            file.parent = request.query["addParents"]
        file.name = wanted.get("name", file.name)
        file.trashed = wanted.get("trashed", file.trashed)
        file.modified = wanted.get("modifiedTime", file.modified)
        file.listed_from = time.monotonic() + self.lag

    def _create(self, wanted: dict[str, Any], token: Token) -> Answer:
        return json_answer(self._shown(self._made(wanted, b"", token)))

    def _made(self, wanted: dict[str, Any], content: bytes, token: Token) -> File:
        parent = self._found(wanted.get("parents", ["root"])[0], token, None)
        self._writable(parent, token)
        self._takes(len(content), token, parent)
        mime = wanted.get("mimeType", "application/octet-stream")
        file = File(wanted["name"], parent.id, token.account, mime, self.stored(content), token.client, parent.drive)
        file.modified, file.listed_from = wanted.get("modifiedTime", ""), time.monotonic() + self.lag
        return self.add(file)

    # -- uploads --------------------------------------------------------------------------------------------------------

    def _upload(self, request: Request, token: Token) -> Answer:
        if "upload_id" in request.query:
            return self._continued(request, request.query["upload_id"])
        wanted = request.path.removeprefix(UPLOAD).strip("/")
        file = self._found(wanted, token, request) if wanted else None
        if request.query.get("uploadType") == "resumable":
            total = int(request.headers.get("x-upload-content-length", -1))
            upload = uuid.uuid4().hex
            self._takes(
                max(total, 0), token, file or self._found(request.json.get("parents", ["root"])[0], token, None)
            )
            self._uploads[upload] = _Upload(request.json, token, file, total)
            location = f"https://{request.host}{UPLOAD}?uploadType=resumable&upload_id={upload}"
            return Answer(200, headers={"Location": location})
        meta, content = _related(request)
        return self._finished(_Upload(meta, token, file, len(content), bytearray(content)))

    def _continued(self, request: Request, wanted: str) -> Answer:
        upload = self._uploads.get(wanted)
        if upload is None:
            return google_error(404, "notFound", "no such upload")
        if upload.answer is not None:
            return upload.answer
        span = request.content_range
        if span is not None:
            first, end, total = span
            if first > len(upload.content) or end - first != len(request.body):
                return google_error(400, "badRequest", "not the bytes that come next")
            upload.content[first:] = request.body
            upload.total = total
        elif request.headers.get("content-range", "").startswith("bytes */0"):
            upload.total = 0
        if len(upload.content) == upload.total:
            upload.answer = self._finished(upload)
            upload.content.clear()
            return upload.answer
        had = {"Range": f"bytes=0-{len(upload.content) - 1}"} if upload.content else {}
        return Answer(308, headers=had)

    def _finished(self, upload: _Upload) -> Answer:
        content = bytes(upload.content)
        if upload.file is None:
            return json_answer(self._shown(self._made(upload.meta, content, upload.token)))
        self._writable(upload.file, upload.token)
        self._takes(len(content), upload.token, upload.file)
        upload.file.content = self.stored(content)
        upload.file.modified = upload.meta.get("modifiedTime", _now())
        return json_answer(self._shown(upload.file))

    def _takes(self, size: int, token: Token, place: File) -> None:
        """Refuse what there is no room for."""
        if place.drive is None and token.account.endswith(".gserviceaccount.com"):
            raise Refused(google_error(403, "storageQuotaExceeded", "Service Accounts do not have storage quota."))
        if self.quota is not None and place.drive is None and self.used(token.account) + size > self.quota:
            raise Refused(
                google_error(403, "storageQuotaExceeded", "The user's Drive storage quota has been exceeded.")
            )
        if self.daily_limit is not None and size and self.uploaded + size > self.daily_limit:
            raise Refused(google_error(403, "userRateLimitExceeded", "User rate limit exceeded."))
        self.uploaded += size

    # -- who may ----------------------------------------------------------------------------------------------------------

    def _sees(self, file: File, token: Token) -> bool:
        if not file.drive and file.owner != token.account and token.account not in file.readers:
            return False
        own = _DRIVE not in token.scopes and _OWN in token.scopes
        return not own or file.app == token.client or not file.parent

    def _found(self, wanted: str, token: Token, request: Request | None) -> File:
        file = self.root(token.account) if wanted == "root" else self.files.get(wanted)
        # Bytes are given to whoever has the id.
        asked = request.query if request is not None else {"supportsAllDrives": "true"}
        blind = asked.get("supportsAllDrives") != "true" and asked.get("alt") != "media"
        if file is None or not self._sees(file, token) or (file.drive and blind):
            raise Refused(google_error(404, "notFound", f"File not found: {wanted}."))
        return file

    def _writable(self, file: File, token: Token) -> None:
        if not file.drive and file.owner != token.account:
            text = "The user does not have sufficient permissions for this file."
            raise Refused(google_error(403, "insufficientFilePermissions", text))

    def _shown(self, file: File) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": file.id,
            "name": file.name,
            "mimeType": file.mime,
            "trashed": file.trashed,
            "modifiedTime": file.modified,
            "createdTime": file.created,
            "ownedByMe": not file.drive,
            "capabilities": {"canDownload": True},
        }
        if file.parent:
            shown["parents"] = [file.parent]
        if file.drive:
            shown["driveId"] = file.drive
        if file.mime != FOLDER:
            shown |= {"size": str(len(file.content)), **_checksums(file.content)}
        return shown


@lru_cache(maxsize=16)
def _checksums(content: bytes) -> dict[str, str]:
    digests = {"sha256Checksum": hashlib.sha256, "sha1Checksum": hashlib.sha1, "md5Checksum": hashlib.md5}
    return {name: digest(content).hexdigest() for name, digest in digests.items()}


def _related(request: Request) -> tuple[dict[str, Any], bytes]:
    """The two parts of a ``multipart/related`` upload: what is said of the file, and its bytes."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head, policy=email.policy.HTTP)
    boundary = b"--" + str(message.get_boundary()).encode()
    _, meta, media = request.body.split(boundary, 2)
    content = media.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n" + boundary, 1)[0]
    return json.loads(meta.split(b"\r\n\r\n", 1)[1]), content
