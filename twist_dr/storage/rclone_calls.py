"""What is asked of a running rclone: calls of its remote control (rclone.org/rc) over its socket, and objects to read."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twist_dr.storage.rclone_log import RcloneLog

#: An answer is a document, of a folder with 100,000 objects one of 25 MB. Bytes.
_LARGEST_ANSWER = 512 << 20


class RcloneFailed(Exception):
    """An answer that is an error: rclone's words, which may hold a secret, and the status it gave (404: there is no such thing)."""

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.said, self.status = said, status


class RcloneGone(Exception):
    """The connection to rclone itself broke: it died or was killed."""


class RcloneSilent(RcloneGone):
    """It waits for its provider, and does so for longer than anybody waits for it."""


@dataclass(frozen=True)
class Item:
    """What rclone says of something on a remote. ``size`` in bytes, -1 where there is none; ``hashes`` by rclone's names, in hexadecimal digits."""

    name: str
    path: str
    size: int
    modified: str
    is_folder: bool
    hashes: dict[str, str]
    id: str

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Item:
        return cls(
            str(answer["Name"]),
            str(answer["Path"]),
            int(answer["Size"]),
            str(answer["ModTime"]),
            bool(answer["IsDir"]),
            {str(name): str(value).lower() for name, value in (answer.get("Hashes") or {}).items()},
            str(answer.get("ID", "")),
        )


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("rclone", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class RcloneCalls:
    """Calls of one running rclone. For several threads. Raises ``RcloneFailed`` and ``RcloneGone``; ``RcloneSilent`` where none of the answer comes for so many ``seconds``."""

    def __init__(self, path: Path, log: RcloneLog, seconds: float) -> None:
        self._path, self._log, self._seconds = path, log, seconds
        #: Once it was so, it is not asked again.
        self.gone = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        connection = _Connection(self._path, self._seconds)
        try:
            connection.request("POST", f"/{method}", json.dumps(parameters), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read(_LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from None
        finally:
            connection.close()
        answer = _document(text)
        if response.status != 200:
            raise RcloneFailed(_reason(text), response.status)
        if answer is None:
            # A document that is cut short is no answer.
            self.gone = True
            raise RcloneGone("an answer was cut short")
        return answer

    def stat(self, fs: str, remote: str, hashes: tuple[str, ...] = (), *, no_folder: bool = False) -> Item | None:
        """What lies there; None when there positively is nothing. ``no_folder``: a folder is none, which spares looking for one in a list of all that lies beside it."""
        options = {"showHash": True, "hashTypes": hashes} if hashes else {}
        options |= {"noMimeType": True, "filesOnly": no_folder}
        found = self.call("operations/stat", fs=fs, remote=remote, opt=options)["item"]
        return Item.of(found) if found is not None else None

    def list(self, fs: str, remote: str, hashes: tuple[str, ...] = ()) -> list[Item]:
        """What lies in a folder, and not in those below it. All of it: that some is not shown is a failure."""
        options = {"showHash": True, "hashTypes": hashes} if hashes else {}
        before = self._log.incomplete
        found = self.call("operations/list", fs=fs, remote=remote, opt={**options, "noMimeType": True})["list"]
        if not self._log.heard_up_to(self._note) or self._log.incomplete != before:
            raise RcloneFailed("the list is incomplete", 503)
        return [Item.of(each) for each in found or ()]

    def _note(self, mark: str) -> None:
        """Have it logged: this call fails, and rclone logs with what."""
        with suppress(RcloneFailed):
            self.call("rc/error", mark=mark)

    def begin_copy(self, source: Path, fs: str, remote: str, group: str) -> int:
        """Begin to copy a file of this machine; the job's number. ``group``: what its progress is asked by."""
        answer = self.call(
            "operations/copyfile",
            srcFs=str(source.absolute().parent),
            srcRemote=source.name,
            dstFs=fs,
            dstRemote=remote,
            _async=True,
            _group=group,
        )
        return int(answer["jobid"])

    def sent(self, group: str) -> int:
        """Bytes that the jobs of a group have sent so far."""
        return int(self.call("core/stats", group=group)["bytes"])

    def ended(self, job: int) -> bool:
        """Whether a job has ended, well. Raises ``RcloneFailed`` when it did not end well."""
        answer = self.call("job/status", jobid=job)
        if answer["finished"] and not answer["success"]:
            raise RcloneFailed(str(answer["error"]), 500)
        return bool(answer["finished"])

    def stop(self, job: int) -> None:
        self.call("job/stop", jobid=job)

    def open(self, fs: str, remote: str, position: int) -> http.client.HTTPResponse:
        """The bytes of an object from ``position`` on. The caller closes it."""
        folder, _, name = remote.rpartition("/")
        place = f"{fs.rstrip('/')}/{folder}" if folder and not fs.endswith(":") else f"{fs}{folder}"
        connection = _Connection(self._path, self._seconds)
        try:
            since = {"Range": f"bytes={position}-"} if position else {}
            headers = {"Connection": "close", **since}
            connection.request("GET", f"/[{quote(place)}]/{quote(name)}", headers=headers)
            response = connection.getresponse()
            if response.status not in (200, 206):
                raise RcloneFailed(_reason(response.read(_LARGEST_ANSWER)), response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._gone(error) from None
        except BaseException:
            connection.close()
            raise
        return response

    def _gone(self, error: Exception) -> RcloneGone:
        self.gone = True
        return RcloneSilent() if isinstance(error, TimeoutError) else RcloneGone(str(error))


def _document(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _reason(text: bytes) -> str:
    answer = _document(text)
    return text[:200].decode(errors="replace") if answer is None else str(answer.get("error", ""))
