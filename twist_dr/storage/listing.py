"""What lies in a folder as a storage target: its objects, and what is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from os import stat_result

from twist_dr.storage.base import StoredObject, Stranger
from twist_dr.storage.beneath import A_FILE, A_FOLDER, Folder, FolderEntry, NoFolder
from twist_dr.storage.names import DEEPEST, in_key_order, is_part

#: A day from the ends of the calendar, so that every time zone has them.
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=timezone.utc), datetime(9999, 12, 30, tzinfo=timezone.utc)
#: Entries between two signs that a walk goes on.
_SIGN_OF_LIFE = 500


def stored(key: str, status: stat_result) -> StoredObject:
    """The object under ``key``."""
    return StoredObject(key, status.st_size, _moment(status.st_mtime))


def _moment(seconds: float) -> datetime:
    """Whoever can write to a target can give a file a time that no calendar has: it is taken for the nearest."""
    return datetime.fromtimestamp(min(max(seconds, EARLIEST.timestamp()), LATEST.timestamp()), timezone.utc)


def entries(folder: Folder) -> list[FolderEntry]:
    """Files and folders whose names can be parts of a key, in key order.

    Anything that cannot be read is an error: a listing that leaves something out would look like a lost backup.
    """
    found = [entry for entry in folder.entries() if is_part(entry.name) and entry.what in (A_FILE, A_FOLDER)]
    return sorted(found, key=lambda entry: in_key_order(entry.name, is_folder=entry.what == A_FOLDER))


def walk(folder: Folder, prefix: str, listed: Sequence[FolderEntry] | None = None) -> Iterator[StoredObject]:
    """Every object below ``folder``, whose own key ends in ``prefix``, in key order. ``listed``: its entries, if not all."""
    for entry in entries(folder) if listed is None else listed:
        if entry.what == A_FILE:
            status = folder.file(entry.name)
            if status is not None:  # else deleted, or exchanged, meanwhile
                yield stored(prefix + entry.name, status)
        elif prefix.count("/") + 1 < DEEPEST:
            try:
                child = folder.child(entry.name)
            except (FileNotFoundError, NoFolder):
                continue
            with child:
                yield from walk(child, f"{prefix}{entry.name}/")


def strangers_at(root: Folder, parts: Sequence[str]) -> Iterator[Stranger | None]:
    """What below the folder that ``parts`` lead to, or on the way to it, is neither file nor folder, or leads elsewhere.

    ``None`` now and then: it goes on.
    """
    try:
        with root.chain(parts) as chain:
            yield from _strangers(chain[-1], "".join(f"{part}/" for part in parts))
    except FileNotFoundError:
        return
    except NoFolder as error:
        yield Stranger(error.path, error.what)


def _strangers(folder: Folder, prefix: str) -> Iterator[Stranger | None]:
    for number, name in enumerate(sorted(entry.name for entry in folder.entries())):
        if number % _SIGN_OF_LIFE == 0:
            yield None
        try:
            what = folder.kind(name)
            if what == A_FOLDER and prefix.count("/") + 1 < DEEPEST:
                with folder.child(name) as child:
                    yield from _strangers(child, f"{prefix}{name}/")
                continue
        except FileNotFoundError:
            continue
        except NoFolder as error:
            what = error.what
        if what != A_FILE:
            yield Stranger(prefix + name, "too deep a folder" if what == A_FOLDER else what)
