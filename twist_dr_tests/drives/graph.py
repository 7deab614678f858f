"""Microsoft Graph's drives (learn.microsoft.com/graph/api/resources/onedrive): items by id and by path, upload sessions, quota.

As there, names differ by more than the case of their letters, a path has at most 400 characters, ``content`` is a redirect to another host that wants
no token, and an upload session's address wants none either.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from twist_dr.storage.quickxor import QuickXor
from twist_dr_tests.drives.gateway import Answer, Refused, Request, json_answer, part_of
from twist_dr_tests.drives.tokens import TokenServer

HOST, CONTENT_HOST = "graph.microsoft.com", "public.am.files.1drv.com"
API = "/v1.0"
#: Characters of a path.
_LONGEST = 400
_ADDRESS = re.compile(
    r"/drives/(?P<drive>[^/]+)(?:/(?P<base>root|items/[^/:]+)(?::/(?P<path>[^:]*)(?=:|$):?)?(?:/(?P<action>[A-Za-z]+))?)?"
)


def graph_error(status: int, code: str, message: str = "", inner: str = "", **headers: str) -> Answer:
    """An error of Microsoft's: ``code`` and ``inner`` are what a program goes by."""
    said: dict[str, Any] = {"code": code, "message": message or code}
    if inner:
        said["innererror"] = {"code": inner}
    return json_answer({"error": said}, status, **headers)


@dataclass
class Item:
    """A file (``content`` is not None) or a folder."""

    name: str
    parent: str
    content: bytes | None = field(default=None, repr=False)
    id: str = field(default_factory=lambda: uuid.uuid4().hex.upper())
    modified: str = ""


@dataclass
class Drive:
    """``kind``: ``personal``, ``business`` or ``documentLibrary``. ``writers``: the accounts that may do all there."""

    id: str
    kind: str
    writers: set[str]
    quota: int = 1 << 40
    items: dict[str, Item] = field(default_factory=dict)
    root: str = ""


@dataclass
class _Session:
    drive: Drive
    parent: Item
    name: str
    modified: str
    content: bytearray = field(default_factory=bytearray)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


class MicrosoftGraph:
    """``stored``: what becomes of bytes on their way to the disks."""

    def __init__(self, tokens: TokenServer) -> None:
        self.tokens = tokens
        self.drives: dict[str, Drive] = {}
        #: Site path (``contoso.sharepoint.com:/sites/it``) to the id of its document library's drive.
        self.sites: dict[str, str] = {}
        self.sessions: dict[str, _Session] = {}
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """No faults any more; items stay."""
        self.stored: Callable[[bytes], bytes] = lambda content: content
        self.page_size = 200
        for drive in self.drives.values():
            drive.quota = 1 << 40

    # -- what tests do --------------------------------------------------------------------------------------------------

    def drive_of(self, account: str, kind: str = "business") -> Drive:
        """The account's own drive, made when it is asked for first."""
        with self._lock:
            wanted = f"b!{hashlib.sha256(account.encode()).hexdigest()[:16]}"
            return self.drives.get(wanted) or self._new_drive(wanted, kind, {account})

    def site(self, path: str, *accounts: str) -> Drive:
        """A SharePoint site with its document library."""
        drive = self._new_drive(f"b!{uuid.uuid4().hex[:16]}", "documentLibrary", set(accounts))
        self.sites[path] = drive.id
        return drive

    def below(self, drive: Drive, path: str) -> list[str]:
        """The paths of all files below that folder, sorted."""
        top = self._at(drive, drive.items[drive.root], path)
        if top is None:
            return []
        found = [item for item in drive.items.values() if item.content is not None]
        whole = [self._path(drive, item) for item in found]
        return sorted(each for each in whole if each.startswith(f"{path}/"))

    # -- what programs ask ----------------------------------------------------------------------------------------------

    def __call__(self, request: Request) -> Answer:
        with self._lock:
            if request.host == CONTENT_HOST:
                return self._session(request) if request.path.startswith("/up/") else self._content(request)
            token = self.tokens.of(request)
            if token is None:
                return graph_error(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
            path = request.path.removeprefix(API)
            if path == "/me":
                return json_answer(
                    {"id": token.account, "userPrincipalName": token.account, "displayName": token.account}
                )
            if path.startswith("/sites/"):
                return self._site(unquote(path.removeprefix("/sites/")), token.account)
            if path == "/me/drives":
                return json_answer({"value": [self._drive_shown(self.drive_of(token.account))]})
            own = f"/drives/{self.drive_of(token.account).id}"
            return self._addressed(re.sub(r"^/me/drive(?=/|$)", own, path), request, token.account)

    def _site(self, wanted: str, account: str) -> Answer:
        where, _, rest = wanted.partition("/drive")
        found = {path: drive for path, drive in self.sites.items() if where in (path, _site_id(path))}
        for path, drive in found.items():
            if account not in self.drives[drive].writers:
                return graph_error(403, "accessDenied", "Access denied")
            if wanted == where:
                return json_answer({"id": _site_id(path), "webUrl": f"https://{path.replace(':', '')}"})
            shown = self._drive_shown(self.drives[drive])
            return json_answer({"value": [shown]} if rest == "s" else shown)
        return graph_error(404, "itemNotFound", "Requested site could not be found")

    def _addressed(self, path: str, request: Request, account: str) -> Answer:
        address = _ADDRESS.fullmatch(path)
        drive = self.drives.get(unquote(address["drive"])) if address else None
        if address is None or drive is None:
            return graph_error(404, "itemNotFound", f"The resource could not be found: {path}")
        if account not in drive.writers:
            return graph_error(403, "accessDenied", "Access denied")
        if address["base"] is None:
            return json_answer(self._drive_shown(drive))
        base = drive.items.get(drive.root if address["base"] == "root" else address["base"].removeprefix("items/"))
        if base is None:
            return _missing()
        return self._done(request, drive, base, unquote(address["path"] or "").strip("/"), address["action"])

    def _done(self, request: Request, drive: Drive, base: Item, path: str, action: str | None) -> Answer:
        """Do ``action`` to the item at ``path`` from ``base`` on."""
        whole = "/".join(filter(None, (self._path(drive, base), path)))
        if len(whole) > _LONGEST:
            return graph_error(400, "invalidRequest", "The provided path is too long", "pathIsTooLong")
        item = self._at(drive, base, path)
        if request.method in ("PUT", "POST") and action in ("content", "createUploadSession"):
            above, _, name = path.rpartition("/")
            parent = self._at(drive, base, above) if path else None
            if parent is None:
                return _missing()
            if action == "content":
                return self._kept(drive, parent, name, request.body, "")
            return self._new_session(request, drive, parent, name)
        if item is None:
            return _missing()
        match request.method, action:
            case "GET", None:
                return json_answer(self._shown(drive, item))
            case "GET", "children":
                return self._children(request, drive, item)
            case "POST", "children":
                return self._new_folder(request.json, drive, item)
            case "GET", "content":
                return Answer(302, headers={"Location": _download(drive, item)})
            case "PATCH", None:
                return self._moved(request.json, drive, item)
            case ("DELETE", None) | ("POST", "permanentDelete"):
                return self._removed(drive, item)
        return graph_error(400, "invalidRequest", f"the tests' server does not know {request.method} {action}")

    def _children(self, request: Request, drive: Drive, folder: Item) -> Answer:
        found = [item for item in drive.items.values() if item.parent == folder.id]
        skip = int(request.query.get("$skiptoken", 0))
        size = min(self.page_size, int(request.query.get("$top", 200)))
        content: dict[str, Any] = {"value": [self._shown(drive, item) for item in found[skip : skip + size]]}
        if skip + size < len(found):
            asked = f"$top={size}&$skiptoken={skip + size}"
            content["@odata.nextLink"] = f"https://{HOST}{API}/drives/{drive.id}/items/{folder.id}/children?{asked}"
        return json_answer(content)

    def _new_folder(self, wanted: dict[str, Any], drive: Drive, parent: Item) -> Answer:
        if self._child(drive, parent, wanted["name"]) is not None:
            return _clash()
        return json_answer(self._shown(drive, self._add(drive, Item(wanted["name"], parent.id))), 201)

    def _moved(self, wanted: dict[str, Any], drive: Drive, item: Item) -> Answer:
        parent = drive.items.get(wanted.get("parentReference", {}).get("id", item.parent))
        if parent is None:
            return _missing()
        name = wanted.get("name", item.name)
        there = self._child(drive, parent, name)
        if there is not None and there is not item:
            return _clash()
        item.parent, item.name = parent.id, name
        item.modified = wanted.get("fileSystemInfo", {}).get("lastModifiedDateTime", item.modified)
        return json_answer(self._shown(drive, item))

    def _removed(self, drive: Drive, item: Item) -> Answer:
        for child in [each for each in drive.items.values() if each.parent == item.id]:
            self._removed(drive, child)
        del drive.items[item.id]
        return Answer(204)

    # -- contents ---------------------------------------------------------------------------------------------------------

    def _new_session(self, request: Request, drive: Drive, parent: Item, name: str) -> Answer:
        if drive.kind != "personal" and any(
            (each.parent.id, each.name.lower()) == (parent.id, name.lower()) for each in self.sessions.values()
        ):
            return graph_error(409, "nameAlreadyExists", "Another upload session of that name is open")
        modified = request.json.get("item", {}).get("fileSystemInfo", {}).get("lastModifiedDateTime", "")
        session = uuid.uuid4().hex
        self.sessions[session] = _Session(drive, parent, name, modified)
        ends = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
        url = f"https://{CONTENT_HOST}/up/{session}"
        return json_answer({"uploadUrl": url, "expirationDateTime": ends, "nextExpectedRanges": ["0-"]})

    def _session(self, request: Request) -> Answer:
        wanted = request.path.removeprefix("/up/")
        session = self.sessions.get(wanted)
        if session is None:
            return graph_error(404, "itemNotFound", "The upload session was not found")
        if request.method == "DELETE":
            del self.sessions[wanted]
            return Answer(204)
        span = request.content_range
        if request.method == "PUT" and span is not None:
            first, end, total = span
            self._takes(session.drive, total)
            if first != len(session.content):
                return graph_error(416, "invalidRange", "not the bytes that come next", "fragmentOverlap")
            session.content += request.body
            if end == total:
                del self.sessions[wanted]
                return self._kept(session.drive, session.parent, session.name, bytes(session.content), session.modified)
        waits = {"nextExpectedRanges": [f"{len(session.content)}-"]}
        return json_answer(waits, 202 if request.method == "PUT" else 200)

    def _kept(self, drive: Drive, parent: Item, name: str, content: bytes, modified: str) -> Answer:
        self._takes(drive, len(content))
        there = self._child(drive, parent, name)
        if there is not None and there.content is None:
            return _clash()
        item = there or self._add(drive, Item(name, parent.id))
        item.content, item.modified = self.stored(content), modified or _now()
        return json_answer(self._shown(drive, item), 200 if there else 201)

    def _takes(self, drive: Drive, size: int) -> None:
        if _used(drive) + size > drive.quota:
            raise Refused(graph_error(507, "quotaLimitReached", "Insufficient Space Available"))

    def _content(self, request: Request) -> Answer:
        _, drive, item = request.path.strip("/").split("/")
        found = self.drives[unquote(drive)].items.get(item)
        return _missing() if found is None or found.content is None else part_of(found.content, request)

    # -- items ------------------------------------------------------------------------------------------------------------

    def _new_drive(self, wanted: str, kind: str, accounts: set[str]) -> Drive:
        drive = Drive(wanted, kind, accounts)
        drive.root = self._add(drive, Item("root", "")).id
        self.drives[wanted] = drive
        return drive

    def _add(self, drive: Drive, item: Item) -> Item:
        item.modified = item.modified or _now()
        drive.items[item.id] = item
        return item

    def _child(self, drive: Drive, parent: Item, name: str) -> Item | None:
        for item in drive.items.values():
            if item.parent == parent.id and item.name.lower() == name.lower():
                return item
        return None

    def _at(self, drive: Drive, base: Item, path: str) -> Item | None:
        item: Item | None = base
        for name in filter(None, path.split("/")):
            item = None if item is None else self._child(drive, item, name)
        return item

    def _path(self, drive: Drive, item: Item) -> str:
        parts = []
        while item.parent:
            parts.append(item.name)
            item = drive.items[item.parent]
        return "/".join(reversed(parts))

    def _drive_shown(self, drive: Drive) -> dict[str, Any]:
        used = _used(drive)
        quota = {"total": drive.quota, "used": used, "remaining": max(0, drive.quota - used), "deleted": 0}
        owner = min(drive.writers)
        whose = {"user": {"email": owner, "displayName": owner}}
        return {"id": drive.id, "driveType": drive.kind, "quota": quota, "owner": whose}

    def _shown(self, drive: Drive, item: Item) -> dict[str, Any]:
        times = {"createdDateTime": item.modified, "lastModifiedDateTime": item.modified}
        shown: dict[str, Any] = {"id": item.id, "name": item.name, "fileSystemInfo": times, **times}
        if item.parent:
            shown["parentReference"] = {"driveId": drive.id, "id": item.parent, "driveType": drive.kind}
        else:
            shown |= {"root": {}, "parentReference": {"driveId": drive.id, "driveType": drive.kind}}
        if item.content is None:
            children = sum(each.parent == item.id for each in drive.items.values())
            return {**shown, "size": 0, "folder": {"childCount": children}}
        file = {"mimeType": "application/octet-stream", "hashes": {"quickXorHash": _quick_xor(item.content)}}
        return {
            **shown,
            "size": len(item.content),
            "file": file,
            "@microsoft.graph.downloadUrl": _download(drive, item),
        }


@lru_cache(maxsize=16)
def _quick_xor(content: bytes) -> str:
    hashed = QuickXor()
    hashed.update(content)
    return base64.b64encode(bytes.fromhex(hashed.hexdigest())).decode()


def _used(drive: Drive) -> int:
    return sum(len(item.content or b"") for item in drive.items.values())


def _site_id(path: str) -> str:
    host, _, _ = path.partition(":")
    return f"{host},{uuid.uuid5(uuid.NAMESPACE_URL, path)},{uuid.uuid5(uuid.NAMESPACE_DNS, path)}"


def _download(drive: Drive, item: Item) -> str:
    return f"https://{CONTENT_HOST}/get/{drive.id}/{item.id}"


def _missing() -> Answer:
    return graph_error(404, "itemNotFound", "The resource could not be found.")


def _clash() -> Answer:
    return graph_error(409, "nameAlreadyExists", "The specified item name already exists.")
