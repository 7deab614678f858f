"""The audit log: who did what to which, when, and how it ended; chained, so that a changed, missing or cut-off line is found.

The lines are in the catalog. What lies beside it below ``work_dir/audit`` makes them trustworthy:

    <application>.anchor      number and digest of the last line that this machine wrote: a log that was cut off or written anew lacks it
    <application>.spool       lines that the catalog could not take; they are written into it with the next one that it can
    <application>.salt        what values of the settings are hashed with, so that a change is noticed and the catalog tells no secret

Whoever may write to the catalog and to that folder can forge the log: keep a copy of the anchor, or of what ``twist-dr audit verify`` prints,
elsewhere. Configuration backups hold the log and the anchor.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from twist_dr.catalog import AuditRow, Catalog, CatalogUnavailable
from twist_dr.catalog.notes import Fingerprints
from twist_dr.catalog.operations import recordable
from twist_dr.errors import Busy
from twist_dr.redaction import leaving
from twist_dr.settings import Application, Settings, present_path
from twist_dr.system.documents import NOTE, read_file, read_mapping, replace_file
from twist_dr.system.lock import Locks

#: How long a line waits for others to be written; a catalog that is locked holds each up for some 15 seconds.
_PATIENCE_SECONDS = 60.0
#: Uses of keys that are remembered so that a run tells each once.
_REMEMBERED_USES = 1000

_told_uses: OrderedDict[tuple[str, ...], None] = OrderedDict()
_telling = threading.Lock()


@dataclass(frozen=True)
class AuditEntry:
    """What a line of the log says. ``details`` as JSON can hold them; no secrets."""

    at: str
    who: str
    action: str
    subject: str
    result: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Anchor:
    """The last line that this machine wrote."""

    seq: int
    digest: str


@dataclass(frozen=True)
class Places:
    """Where the files beside the catalog lie."""

    folder: Path
    application: str

    @property
    def anchor(self) -> Path:
        return self.folder / f"{self.application}.anchor"

    @property
    def spool(self) -> Path:
        return self.folder / f"{self.application}.spool"

    @property
    def salt(self) -> Path:
        return self.folder / f"{self.application}.salt"


def places(settings: Settings) -> Places:
    """Where this application's files lie."""
    return Places(settings.work_dir / "audit", settings.application)


def audit_anchor(settings: Settings) -> Path:
    """The file with number and digest of the last line: what a copy of the log elsewhere is compared with."""
    return places(settings).anchor


def record(
    app: Application, *, action: str, subject: str, result: str, details: Mapping[str, Any] | None = None
) -> None:
    """Write a line about what the actor did into the audit log. Never raises: what is audited must not fail because a line could not be written.

    A line that the catalog does not take is kept on disk and written with the next one; that is a warning.
    """
    try:
        plain = _plain(json.loads(json.dumps(dict(details or {}), default=str)))
        line = AuditEntry(
            datetime.now(timezone.utc).isoformat(),
            recordable(app.actor.name),
            action,
            recordable(subject),
            recordable(result),
            plain,
        )
        trouble = _write(places(app.settings), app.locks, app.catalog, line)
    except Exception as error:
        trouble = (
            f"The audit log lacks a line ({action} {subject}: {result}), and it could not be kept either ({error})."
        )
    if trouble is not None:
        app.report.warning(trouble)


@contextmanager
def noting(app: Application, *, action: str, subject: str) -> Iterator[dict[str, Any]]:
    """Around what somebody does: its line says whether it came to its end. Yields the line's details, to be filled in."""
    details, result = dict[str, Any](), "done"
    try:
        yield details
    except BaseException as error:
        result = f"failed: {type(error).__name__}"
        raise
    finally:
        record(app, action=action, subject=subject, result=result, details=details)


def note_key_use(app: Application, purpose: str, backup_id: str) -> None:
    """Write that a backup's key was used, if the catalog knows that backup. ``purpose`` as in :func:`key_used`."""
    try:
        row = app.catalog.backup(app.name, backup_id)
    except CatalogUnavailable as unavailable:
        app.report.warning(str(unavailable))
        return
    if row is not None:
        key_used(app, key_id=row.key_id, purpose=purpose, subject=backup_id)


def key_used(app: Application, *, key_id: str, purpose: str, subject: str) -> None:
    """Write that a key was used, once per run and purpose. ``purpose``: ``encrypt``, ``verify``, ``restore``. Never raises."""
    run_id = app.actor.run_id
    use = (app.name, run_id or subject, key_id, purpose)
    with _telling:
        if use in _told_uses:
            return
        _told_uses[use] = None
        if len(_told_uses) > _REMEMBERED_USES:
            _told_uses.popitem(last=False)
    details = {"purpose": purpose, "backup_id": subject, "run_id": run_id}
    record(app, action="use key", subject=key_id, result=purpose, details=details)


def note_settings(app: Application) -> list[str]:
    """Write a line when the settings are others than when this was last called; returns the paths that changed. Never raises.

    No value is told or kept, only its hash with a salt that stays on this machine.
    """
    settings, catalog = app.settings, app.catalog
    try:
        salt = _salt(places(settings))
        values = dict(_hashed(settings, salt))
        of = hashlib.sha256(salt).hexdigest()[:12]
        known = catalog.note(settings.application, Fingerprints, of)
        before = {present_path(path): value for path, value in known.by_path.items()} if known else {}
        changed = sorted(path for path in {*before, *values} if before.get(path) != values.get(path))
        if known is not None and not changed:
            return []
        if known is not None:
            details = {"changed": changed}
            record(app, action="change settings", subject="twist-dr.yaml", result="noticed", details=details)
        catalog.leave_note(settings.application, Fingerprints(**values), of)
        return changed if known is not None else []
    except Exception:
        # It is noticed the next time.
        return []


def fingerprint(settings: Settings, content: bytes) -> str:
    """What tells one content from another, and says nothing of it to whoever lacks this machine's salt; before the colon, which salt it is."""
    salt = _salt(places(settings))
    return f"{hashlib.sha256(salt).hexdigest()[:12]}:{hmac.new(salt, content, hashlib.sha256).hexdigest()}"


def waiting(places: Places) -> list[AuditEntry]:
    """Lines that the catalog could not take yet, oldest first."""
    try:
        texts = places.spool.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except FileNotFoundError:
        return []
    return [_parsed(text) for text in texts if text.strip()]


def read_anchor(places: Places) -> Anchor | None:
    """The last line that this machine wrote; None when there is none. Raises ``ValueError`` for what is no anchor."""
    try:
        document = read_mapping(read_file(places.anchor, NOTE.size), NOTE)
        return Anchor(int(document["seq"]), str(document["digest"]))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(str(error)) from None


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(places: Places, locks: Locks, catalog: Catalog, line: AuditEntry) -> str | None:
    with ExitStack() as stack:
        # Held by none for longer than the catalog makes it wait. Without it, a line is still better written than lost.
        with suppress(Busy, OSError):
            stack.enter_context(locks.hold("Writing the audit log", scope="audit", patience=_PATIENCE_SECONDS))
        try:
            _write_waiting(places, catalog)
            _renew_anchor(places, catalog, _append(places.application, catalog, line, late=False))
        except Exception as error:
            _keep(places, line)
            return f"The audit log could not be written and will be later: {error}"
    return None


def _append(application: str, catalog: Catalog, line: AuditEntry, *, late: bool) -> AuditRow:
    # The catalog writes its own time: a line's time says when it was chained, and what came late says when it happened.
    details = {**line.details, "happened_at": line.at} if late else line.details
    return catalog.append_audit(
        application, who=line.who, action=line.action, subject=line.subject, result=line.result, details=details
    )


def _write_waiting(places: Places, catalog: Catalog) -> None:
    """Lines that wait go first. One that was written just before a crash may be written again, with the same ``happened_at``."""
    lines = waiting(places)
    while lines:
        row = _append(places.application, catalog, lines[0], late=True)
        del lines[0]
        replace_file(places.spool, "".join(_text(line) for line in lines).encode("utf-8", "backslashreplace"))
        _renew_anchor(places, catalog, row)
    with suppress(FileNotFoundError):
        places.spool.unlink()


def _keep(places: Places, line: AuditEntry) -> None:
    _make_folder(places.folder)
    descriptor = os.open(places.spool, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, _text(line).encode("utf-8", "backslashreplace"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _renew_anchor(places: Places, catalog: Catalog, row: AuditRow) -> None:
    """Point the anchor at the line just written, unless the log no longer has the line that it points at: then it is the proof of that."""
    with suppress(Exception):
        if (anchor := read_anchor(places)) is None or _still_there(anchor, catalog, row):
            _make_folder(places.folder)
            replace_file(places.anchor, (json.dumps({"seq": row.seq, "digest": row.digest}) + "\n").encode())


def _still_there(anchor: Anchor, catalog: Catalog, row: AuditRow) -> bool:
    if row.seq == anchor.seq + 1:
        return row.previous == anchor.digest
    if row.seq <= anchor.seq:
        return False
    # Other machines have written lines in between.
    between = catalog.audit(row.application, limit=row.seq - anchor.seq + 1)
    return any(each.seq == anchor.seq and each.digest == anchor.digest for each in between)


def _text(line: AuditEntry) -> str:
    return json.dumps(asdict(line)) + "\n"


def _parsed(text: str) -> AuditEntry:
    try:
        return AuditEntry(**json.loads(text))
    except (ValueError, TypeError):  # cut off by a full disk or a power cut
        return AuditEntry("unknown", "unknown", "unreadable line", "audit spool", "damaged", {"text": text})


def _plain(value: Any) -> Any:
    """Without secrets, and without what some database would not take, for ever: names of files may hold bytes that are no text."""
    if isinstance(value, str):
        return leaving(value).encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


# -- settings ---------------------------------------------------------------------------------------------------------


def _salt(places: Places) -> bytes:
    with suppress(FileNotFoundError):
        return bytes.fromhex(places.salt.read_text().strip())
    _make_folder(places.folder)
    salt = secrets.token_bytes(32)
    replace_file(places.salt, f"{salt.hex()}\n".encode())
    return salt


def _hashed(settings: Settings, salt: bytes) -> Iterator[tuple[str, str]]:
    for path, value in _leaves("", settings):
        yield path, hmac.new(salt, value.encode("utf-8", "backslashreplace"), hashlib.sha256).hexdigest()[:16]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every value of the settings, as text, by its path in the file."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _leaves(f"{path}.{name}".lstrip("."), getattr(value, name))
    elif is_dataclass(value) or isinstance(value, dict):
        for name, each in (value if isinstance(value, dict) else vars(value)).items():
            yield from _leaves(f"{path}.{name}", each)
    elif isinstance(value, list | tuple | frozenset):
        yield path, str(len(value))
        # A set has another order in each process.
        for index, each in enumerate(sorted(value) if isinstance(value, frozenset) else value):
            yield from _leaves(f"{path}[{index}]", each)
    elif value is not None:
        yield path, value.get_secret_value() if isinstance(value, SecretStr) else str(value)
