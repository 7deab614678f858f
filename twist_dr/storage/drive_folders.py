"""Folders in Google Drive by their ids: two of one name become one. rclone goes by paths, which name either of the two.

Only the four calls that this takes, of https://developers.google.com/drive/api/reference/rest/v3/files .
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from twist_dr.errors import ObjectCorrupt, TargetRefused, TargetUnavailable
from twist_dr.storage.oauth_http import answer_to
from twist_dr.storage.rclone_options import FreshToken

FOLDER = "application/vnd.google-apps.folder"
_FILES = "https://www.googleapis.com/drive/v3/files"
_FIELDS = "id,name,mimeType,size,sha256Checksum,createdTime"
_ALL_DRIVES = {"supportsAllDrives": "true", "includeItemsFromAllDrives": "true"}


@dataclass(frozen=True)
class _Entry:
    id: str
    name: str
    is_folder: bool
    #: What two equal ones have in common: size and SHA-256 as Google tells them.
    content: tuple[str, str]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> _Entry:
        content = str(said.get("size", "")), str(said.get("sha256Checksum", ""))
        return cls(str(said["id"]), str(said["name"]), said["mimeType"] == FOLDER, content)


class DriveFolders:
    """``token``: where access tokens come from. Raises ``TargetReauthorize``, ``TargetRefused``, ``TargetUnavailable``."""

    def __init__(self, target: str, token: FreshToken) -> None:
        self._target, self._token = target, token

    def merge(self, ids: list[str], path: str) -> None:
        """Make one of folders that have one name; the first stays. Raises ``ObjectCorrupt`` when objects of one name differ: both then stay as they are."""
        for other in ids[1:]:
            self._merge(ids[0], other, path)

    def _merge(self, kept: str, other: str, path: str) -> None:
        there = {each.name: each for each in self._children(kept)}
        for child in self._children(other):
            twin = there.get(child.name)
            if twin is None:
                self._ask("PATCH", child.id, {"addParents": kept, "removeParents": other}, {})
            elif twin.is_folder and child.is_folder:
                self._merge(twin.id, child.id, f"{path}/{child.name}")
            elif not twin.is_folder and not child.is_folder and all(twin.content) and twin.content == child.content:
                self._ask("DELETE", child.id, {})
            else:
                raise ObjectCorrupt(
                    f"{path}/{child.name} is there twice, with different bytes, and both were left as they are",
                    remedy="see in Google Drive who made them, and delete the wrong one",
                    target=self._target,
                )
        self.trash(other)

    def trash(self, folder: str) -> None:
        """Deleting one deletes what is in it, and a listing may not show everything yet. Empty, it takes no space in the trash."""
        self._ask("PATCH", folder, {}, {"trashed": True})

    def _children(self, folder: str) -> list[_Entry]:
        return list(self._pages(folder))  # all of them, before any is moved

    def _pages(self, folder: str) -> Iterator[_Entry]:
        query = {
            "q": f"'{folder}' in parents and trashed = false",
            "fields": f"nextPageToken,files({_FIELDS})",
            "orderBy": "createdTime",
            **_ALL_DRIVES,
        }
        page = self._ask("GET", "", query)
        while True:
            try:
                found = [_Entry.of(each) for each in page.get("files", ())]
            except (KeyError, TypeError, AttributeError):
                raise no_answer(self._target) from None
            yield from found
            if "nextPageToken" not in page:
                return
            page = self._ask("GET", "", {**query, "pageToken": str(page["nextPageToken"])})

    def _ask(
        self, method: str, wanted: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        access_token, _ = self._token()
        url = f"{_FILES}{'/' if wanted else ''}{wanted}?{urlencode({'supportsAllDrives': 'true', **query})}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        request.add_unredirected_header("Authorization", f"Bearer {access_token}")
        status, text = answer_to(request, self._target)
        if status >= 300:
            kind = TargetUnavailable if status >= 500 or status == 429 else TargetRefused
            what = f"Google Drive refused to make one of two folders of one name (HTTP {status})"
            raise kind(what, remedy="do it in Google Drive, or run again later", target=self._target)
        try:
            said = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise no_answer(self._target)
        return said


def no_answer(target: str) -> TargetUnavailable:
    """What something that answers in the place of Google Drive gives: the page of a network that wants a login, for one."""
    return TargetUnavailable(
        "what answers as Google Drive does not answer what it was asked",
        remedy="see what stands between this machine and Google, then run again",
        target=target,
    )
