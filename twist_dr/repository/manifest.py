"""The manifest: what a backup is, written last, so that a backup exists exactly where its manifest does.

It is canonical JSON (keys sorted, no spaces, UTF-8) with a MAC over all the rest in its field ``mac``: HMAC-SHA256 under a
key derived from the one that ``key`` names. It holds no secret. Readers keep fields that they do not know of a newer minor
format and refuse a newer major one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, cast

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from twist_dr.errors import FROM_ANOTHER, BackupError, ManifestForeign, ManifestInvalid, ManifestTooNew
from twist_dr.repository.django_facts import DjangoFacts
from twist_dr.repository.keys import Key, Keyring
from twist_dr.repository.sealing import canonical, fits, mac_of
from twist_dr.repository.streams import Form
from twist_dr.repository.table_names import TableName, from_label, from_plain
from twist_dr.storage.base import Digest
from twist_dr.system.documents import DocumentInvalid, Limits, read_mapping, refuse_beyond
from twist_dr.system.words import counted

FORMAT_MAJOR = 1
#: 1.1: the keys of ``tables`` are labels that no two tables share; those of 1.0 had no quotes. 1.2: what a backup says beyond rows, in
#: fields with defaults, so that whatever an older version wrote is read. 1.3: forms that differ by their level alone.
FORMAT_MINOR = 3
FORMAT_VERSION = f"{FORMAT_MAJOR}.{FORMAT_MINOR}"
MANIFEST_NAME = "manifest.json"
_KIND = "manifest"
#: A manifest names every table and migration, no files: half a million is far more than any has. Whoever can write to a target could grow one.
LIMITS = Limits(size=32 << 20, values=500_000)
MOST_BYTES = LIMITS.size

Kind = Literal["full", "base", "tenant", "configuration"]
Label = Literal["manual", "scheduled", "weekly", "monthly", "pre-update", "pre-restore"]
Part = Literal["database", "media", "configuration", "cluster"]
#: What a verification compared: the content of every table, or how many rows it has.
Proved = Literal["content", "counts"]

#: Never stored unencrypted, whatever a target's settings say: they hold passwords and their hashes.
CONFIDENTIAL = frozenset({"roles.sql"})
#: The same for every artifact of these parts: a cluster's files hold the password hashes of all its roles; configuration is what passwords
#: are written in, and the catalog and Dagster's history, which are of that part too, tell who did what.
CONFIDENTIAL_PARTS: frozenset[Part] = frozenset({"cluster", "configuration"})

_BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-(full|base|tenant|configuration)-[0-9a-f]{4}")


def new_backup_id(kind: Kind, now: datetime) -> str:
    """An id that sorts by time: ``20261121T020000Z-full-3f9a``."""
    return f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{kind}-{secrets.token_hex(2)}"


def is_backup_id(text: str) -> bool:
    """Whether ``text`` has the form of an id; anything else on a target is not ours."""
    return bool(_BACKUP_ID.fullmatch(text))


def kind_of(backup_id: str) -> Kind:
    """The kind that an id tells."""
    match = _BACKUP_ID.fullmatch(backup_id)
    assert match is not None, backup_id
    return cast("Kind", match[1])


def form_of(form: Form, name: str, part: Part) -> Form:
    """The form in which a target of ``form`` holds an artifact."""
    return form.confidential if name in CONFIDENTIAL or part in CONFIDENTIAL_PARTS else form


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class ArtifactForm(_Model):
    """One stored form of an artifact: the object's name in the backup's folder, its size in bytes, its SHA-256."""

    name: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def digest(self) -> Digest:
        return Digest(self.size, self.sha256)


class Artifact(_Model):
    """One file of a backup. ``size`` (bytes) and ``sha256`` are of the plain bytes; ``stored`` goes by the form's name."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    part: Part
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    stored: dict[str, ArtifactForm]

    @property
    def digest(self) -> Digest:
        return Digest(self.size, self.sha256)

    def in_form(self, form: Form) -> ArtifactForm | None:
        """What a target of ``form`` holds of this artifact; None when it was not made so. See :func:`twist_dr.repository.streams.recorded`."""
        wanted = form_of(form, self.name, self.part)
        return self.stored.get(wanted.name) or self.stored.get(wanted.plain.name)


class Extension(_Model):
    """An installed extension."""

    name: str
    version: str


class PostgresFacts(_Model):
    """The server and the database at the snapshot.

    Since 1.2: ``session``, parameters outside the database that change how rows read, as a fresh session saw them; ``preloaded``, the
    server's shared_preload_libraries, None where they were not told; ``icu_rules`` and ``collation_version`` of the database's locale.
    """

    version: str
    version_number: int
    system_identifier: str | None
    lsn: str
    timeline: int
    in_recovery: bool
    database: str
    database_size: int
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    locale: str | None
    extensions: list[Extension]
    bootstrap_role: str
    dumped_as: str
    client_version: str
    public_schema: bool | None = None
    """Whether there is a schema ``public``, which every new database has; None in backups that do not tell."""
    session: dict[str, str] = {}
    preloaded: list[str] | None = None
    icu_rules: str | None = None
    collation_version: str | None = None

    @property
    def major(self) -> int:
        return self.version_number // 10000


class Tablespace(_Model):
    """A tablespace beside the default one: its files are in ``<oid>.tar``. ``size`` in bytes, None where the role may not ask."""

    oid: int
    name: str
    location: str
    size: int | None


class BaseFacts(_Model):
    """What a base backup is, for those who recover from it. LSNs are text such as ``0/3000028``, sizes bytes.

    ``chain`` are the ids from the full base to this one, itself included; ``parent`` is the one before it: of a differential base the
    full one, of an incremental one whichever was the newest. ``started_at`` and
    ``stopped_at`` are the server's clock, and ``stopped_at`` is never too early: whoever aims at a later time aims behind
    ``stop_lsn``. The manifest's row counts are those at ``restore_point``, which lies behind ``stop_lsn``; without one there are none.
    """

    parent: str | None
    chain: list[str] = Field(min_length=1)
    timeline: int
    start_lsn: str
    stop_lsn: str
    started_at: AwareDatetime
    stopped_at: AwareDatetime
    wal_segment_size: int
    data_checksums: bool
    from_standby: bool
    tablespaces: list[Tablespace]
    restore_point: str | None
    restore_point_lsn: str | None
    cluster_settings: dict[str, int]
    checksums: dict[str, str] = {}
    """SHA-256 of the rows of each table at the restore point, by label as ``tables``; none unless the settings asked for them."""

    type: Literal["full", "differential", "incremental"] | None = None
    """None in backups of before differential ones: :attr:`sort` tells."""

    @property
    def sort(self) -> Literal["full", "differential", "incremental"]:
        return self.type or ("incremental" if self.parent else "full")

    @property
    def last_lsn(self) -> str:
        """Up to here the WAL must be in the archive before a copy of this base is complete."""
        return self.restore_point_lsn or self.stop_lsn


class ExtensionRows(_Model):
    """Rows of a table that belongs to an extension, which are in ``extension-rows.sql``. ``content``: see ``postgres/extension_rows.py``."""

    extension: str
    table: str
    rows: int = Field(ge=0)
    content: str


class ExtensionMembers(_Model):
    """What belongs to an extension: how many objects, the SHA-256 of what servers call them, and which were added after most others."""

    count: int = Field(ge=0)
    sha256: str
    added: list[str] = []


class Counters(_Model):
    """What the server had counted of the changes of each table when the snapshot was taken: see ``postgres/changes.py``.

    ``tables``: rows inserted, updated and deleted, with spaces between. ``epoch`` differs when the counters began anew.
    """

    epoch: str
    tables: dict[str, Annotated[str, Field(pattern=r"^[0-9]{1,19} [0-9]{1,19} [0-9]{1,19}$")]]


class ViewFacts(_Model):
    """Rows of a materialized view in the backup's snapshot: how many, and a hash that their order does not change.

    ``proven``: its query gave just these rows, and gives them whenever its tables hold the same.
    """

    rows: int
    digest: str
    proven: bool


class KeyName(_Model):
    """Which key a backup was written with."""

    id: str
    check_value: str


class Manifest(_Model):
    """See the module's docstring. Times are UTC, durations seconds, sizes bytes. ``tables`` as written; :attr:`rows` reads every format."""

    format_version: str
    application: str
    app_version: str | None
    git_revision: str | None
    backup_id: str
    kind: Kind
    label: Label
    reason: str
    who: str
    parts: list[Part]
    started_at: AwareDatetime
    snapshot_at: AwareDatetime | None
    finished_at: AwareDatetime
    postgres: PostgresFacts | None
    db_schema_version: str | None
    migrations: dict[str, list[str]]
    tables: dict[str, int]
    large_objects: int
    artifacts: list[Artifact]
    files: dict[str, int]
    storage_targets: dict[str, str]
    durations: dict[str, float]
    warnings: list[str]
    key: KeyName
    base: BaseFacts | None = None
    django: DjangoFacts | None = None
    extension_rows: list[ExtensionRows] = []
    extension_members: dict[str, ExtensionMembers] = {}
    left_out: list[str] = []
    counters: Counters | None = None
    materialized_views: dict[str, ViewFacts] = {}
    """By label, as ``tables``; of full backups."""

    @property
    def rows(self) -> dict[TableName, int]:
        """Rows by table. Of format 1.0 some names are left open (see :class:`TableName`). Raises ``ManifestInvalid``."""
        read = from_plain if self.format_version == f"{FORMAT_MAJOR}.0" else from_label
        try:
            return {read(label): rows for label, rows in self.tables.items()}
        except ValueError as error:
            raise _invalid(self.backup_id, f"garbles tables: {error}") from None

    def artifact(self, name: str) -> Artifact | None:
        """The artifact of that name, if the backup has it."""
        return next((artifact for artifact in self.artifacts if artifact.name == name), None)

    def left_out_of(self, parts: Sequence[Part]) -> list[str]:
        """What is said to be left out of these parts: of files it begins with the part, all else is about the database."""
        of_files = {"media", "configuration"}
        begins = [(sentence.partition(": ")[0], sentence) for sentence in self.left_out]
        return [sentence for part, sentence in begins if (part if part in of_files else "database") in parts]

    @property
    def plain_bytes(self) -> int:
        return sum(artifact.size for artifact in self.artifacts)

    def stored_bytes(self, form: Form) -> int:
        """Bytes that a target of ``form`` holds, manifest left out; of what was not made so none."""
        return sum(stored.size for artifact in self.artifacts if (stored := artifact.in_form(form)) is not None)

    def seal(self, key: Key) -> bytes:
        """The bytes to store. Raises ``BackupError`` when they are more than any reader takes."""
        # What says nothing is left out: only base backups have ``base``.
        silent = {
            name
            for name, field in Manifest.model_fields.items()
            if not field.is_required() and getattr(self, name) == field.get_default(call_default_factory=True)
        }
        document = self.model_dump(mode="json", exclude=silent)
        sealed = canonical({**document, "mac": mac_of(document, key, _KIND)})
        try:
            refuse_beyond(sealed, LIMITS)
        except DocumentInvalid:
            raise BackupError(
                f"{self.backup_id}: the manifest has {len(sealed)} bytes and may have {MOST_BYTES}, with {counted(len(self.tables), 'table')} and "
                f"{counted(len(self.warnings), 'warning')}",
                remedy="see to what the warnings name, or divide the database",
            ) from None
        return sealed


def schema_version(migrations: dict[str, list[str]]) -> str | None:
    """A short name for a migration state: 12 hexadecimal digits that are equal exactly when the applied migrations are."""
    if not migrations:
        return None
    names = sorted(f"{app}.{name}" for app, applied in migrations.items() for name in applied)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def open_manifest(data: bytes, keyring: Keyring, *, application: str, backup_id: str, what: str) -> Manifest:
    """Read, authenticate and check a manifest that lies under ``application`` and ``backup_id``.

    ``what`` names the place, for messages. Raises ``ManifestInvalid``, ``ManifestForeign``, ``ManifestTooNew``,
    ``KeyMissing`` or ``WrongKey``.
    """
    document = _parse(data, what)
    try:
        key_name = KeyName.model_validate(document.get("key"))
    except ValidationError:
        raise _invalid(what, "names no key") from None
    key = keyring.find(key_name.id, key_name.check_value)
    if not fits(document.pop("mac", None), document, key, _KIND, data):
        raise _invalid(what, "was altered: its MAC does not fit")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise _invalid(what, f"lacks or garbles {'.'.join(map(str, first['loc']))}") from None
    if (manifest.application, manifest.backup_id) != (application, backup_id):
        raise ManifestForeign(
            f"{what}: the manifest is that of {manifest.application}/{manifest.backup_id} and was put in the place of {application}/{backup_id}",
            remedy="move it back, or remove this folder",
        )
    return manifest


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = read_mapping(data, LIMITS)
    except DocumentInvalid as error:
        raise _invalid(what, f"cannot be read: {error.problem}") from None
    version = str(document.get("format_version", ""))
    major = version.partition(".")[0]
    if not re.fullmatch("[0-9]{1,9}", major):
        raise _invalid(what, "says no format version")
    if int(major) > FORMAT_MAJOR:
        raise ManifestTooNew(
            f"{what}: written in format {version}, and this twist-dr reads up to {FORMAT_MAJOR}.x",
            remedy="upgrade twist-dr",
        )
    return document


def _invalid(what: str, why: str) -> ManifestInvalid:
    return ManifestInvalid(f"{what}: the manifest {why}", remedy=FROM_ANOTHER)
