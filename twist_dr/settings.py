"""twist-dr.yaml: what is protected, and where its backups go.

The file is the one named by the environment variable ``TWIST_DR_CONFIG``, else ``twist-dr.yaml`` in the working folder.
``${NAME}`` in any value is replaced from the environment, ``$${`` stands for ``${``. Relative paths start at the file's
folder. Every mistake is reported at once, by its path in the file, with what was expected and what was found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from twist_dr.engine.compression import Compression
from twist_dr.engine.documents import YamlInvalid, read_yaml
from twist_dr.engine.streams import Form
from twist_dr.errors import SettingsError

CONFIG_VARIABLE = "TWIST_DR_CONFIG"
DEFAULT_FILE = "twist-dr.yaml"

_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)\}")
#: Names become asset keys, resource names and folders on storage targets.
_NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"
_NAME_WORDS = "a name of at most 40 lower-case letters, digits and '_' that starts with a letter"
_HTTP_PATTERN = r"^https?://"
_TABLE_PATTERN = r"^[^.\s]+(\.[^.\s]+)?$"
_DURATION = re.compile(r"(\d{1,6}) (minute|hour|day|week)s?")


def _absolute(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("folder", Path.cwd())
    # os.path's leaves an unknown ~user as it is, where pathlib's raises.
    return Path(os.path.normpath(Path(base) / os.path.expanduser(path)))


def _duration(value: Any) -> timedelta:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a time such as '12 hours' or '7 days'")
    return timedelta(**{f"{match[2]}s": int(match[1])})


#: A number and a unit, as in ``7 days``.
Duration = Annotated[timedelta, BeforeValidator(_duration)]
SettingsPath = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, Field(pattern=_NAME_PATTERN)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _postgres_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("postgresql://user:password@host:5432/database")
    return url


def _database_of(url: SecretStr) -> str:
    """The database that a URL names; empty when it names none."""
    parts = urlsplit(url.get_secret_value())
    return parse_qs(parts.query).get("dbname", [""])[-1] or unquote(parts.path.removeprefix("/"))


class DatabaseSettings(_Section):
    """The database to protect. ``url`` as libpq takes it; ``client_tools`` are folders with pg_dump, tried before all others."""

    url: SecretStr
    client_tools: list[SettingsPath] = []

    @field_validator("url")
    @classmethod
    def _is_postgres(cls, url: SecretStr) -> SecretStr:
        return _postgres_url(url)


class DjangoSettings(_Section):
    """How to call manage.py: ``manage`` is the command, run in ``folder`` with ``environment`` added.

    ``database_variable``: the environment variable from which the application's settings take the database (its URL or its
    name). With it, a restored database can be migrated before it is live.
    """

    manage: list[str] = Field(min_length=1)
    folder: SettingsPath
    environment: dict[str, SecretStr] = {}
    database_variable: str | None = Field(None, min_length=1)


class _TargetSettings(_Section):
    enabled: bool = True
    encrypt: bool = True
    compression: Compression = "zstd"

    @property
    def form(self) -> Form:
        """How this target keeps bytes."""
        return Form(self.compression, self.encrypt)


class LocalTargetSettings(_TargetSettings):
    """A folder on this machine."""

    type: Literal["local"]
    path: SettingsPath


class NasTargetSettings(_TargetSettings):
    """A folder on a mounted file system (NFS, SMB). Refused while the mount is not there."""

    type: Literal["nas"]
    path: SettingsPath
    mount_point: SettingsPath | None = None
    timeout_seconds: float = Field(30, gt=0)


class S3TargetSettings(_TargetSettings):
    """A bucket on S3 or a look-alike (R2, B2, MinIO). ``endpoint_url`` is left out for AWS."""

    type: Literal["s3"]
    bucket: str = Field(min_length=3)
    prefix: str = Field("", pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$")
    endpoint_url: str | None = Field(None, pattern=_HTTP_PATTERN)
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    path_style: bool | None = None
    checksum: Literal["auto", "server", "read-back"] = "auto"
    part_size_mib: int = Field(64, ge=5, le=5120)
    connections: int = Field(4, ge=1, le=64)
    storage_class: str | None = None
    server_side_encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None
    object_lock_days: int | None = Field(None, ge=1)
    object_lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] = "GOVERNANCE"

    @model_validator(mode="after")
    def _pairs(self) -> S3TargetSettings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(
                "access_key_id and secret_access_key together, or neither (then boto3's usual sources are used)"
            )
        if self.kms_key_id is not None and self.server_side_encryption != "aws:kms":
            raise ValueError("server_side_encryption: aws:kms beside kms_key_id")
        return self


TargetSettings = Annotated[LocalTargetSettings | NasTargetSettings | S3TargetSettings, Field(discriminator="type")]


class EncryptionSettings(_Section):
    """``keyring``: a file, or ``env:NAME`` for a keyring in an environment variable."""

    keyring: str

    @field_validator("keyring")
    @classmethod
    def _located(cls, location: str, info: ValidationInfo) -> str:
        return location if location.startswith("env:") else str(_absolute(Path(location), info))


class BackupSettings(_Section):
    """How backups are made. ``compression_threads`` counts for zstd."""

    compression_level: int = Field(3, ge=1, le=19)
    compression_threads: int = Field(default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, le=64)


class VerificationSettings(_Section):
    """How backups are proven.

    ``server``: URL of an existing server to restore into, for machines without server programs; never the production server.
    ``key_tables``: tables (``schema.table``, or ``table`` in public) that must exist and hold rows.
    ``jobs``: parallel restore jobs. ``scratch``: folder for the scratch server and the dump.
    """

    server: SecretStr | None = None
    key_tables: list[Annotated[str, Field(pattern=_TABLE_PATTERN)]] = []
    jobs: int = Field(default_factory=lambda: max(2, min(8, os.cpu_count() or 1)), ge=1, le=64)
    scratch: SettingsPath | None = None


Command = Annotated[list[str], Field(min_length=1)]


class MaintenanceSettings(_Section):
    """How the application is told that it is down for a moment. Every way that is given is used.

    ``file`` exists while it lasts. ``command_on`` and ``command_off`` are run. ``sql_on`` is run in the live database before
    it is replaced, ``sql_off`` in the one that is live afterwards.
    """

    file: SettingsPath | None = None
    command_on: Command | None = None
    command_off: Command | None = None
    sql_on: str | None = None
    sql_off: str | None = None

    @model_validator(mode="after")
    def _pairs(self) -> MaintenanceSettings:
        if (self.command_on is None) != (self.command_off is None) or (self.sql_on is None) != (self.sql_off is None):
            raise ValueError("command_on and command_off together, and sql_on and sql_off together")
        return self


class HealthSettings(_Section):
    """How it is seen that the application works: ``url`` answers 200 to 299, ``command`` ends with 0, within ``timeout_seconds``."""

    url: str | None = Field(None, pattern=_HTTP_PATTERN)
    command: Command | None = None
    timeout_seconds: float = Field(30, gt=0)


class SandboxSettings(_Section):
    """What is run in sandboxes in the place of ``restore.after_restore_sql`` and ``restore.after_restore_commands``."""

    after_restore_sql: list[str] = []
    after_restore_commands: list[Command] = []


class RestoreSettings(_Section):
    """How backups are restored.

    ``database_url``: a role that may create and rename databases, where that of ``database.url`` may not. ``jobs``: parallel
    restore jobs. ``grace_seconds``: how long transactions of the application may go on before they are ended.
    ``stall_seconds``: a storage target that gives no megabyte for so long is passed over. ``validators``: commands that may
    refuse a restore. ``after_restore_sql`` and ``after_restore_commands`` are run in the restored database before it is live.
    """

    database_url: SecretStr | None = None
    jobs: int = Field(default_factory=lambda: max(2, min(8, os.cpu_count() or 1)), ge=1, le=64)
    grace_seconds: float = Field(10, ge=0)
    stall_seconds: float = Field(30, gt=0)
    keep_replaced_for: Duration = timedelta(days=7)
    maintenance: MaintenanceSettings = MaintenanceSettings()
    health: HealthSettings = HealthSettings()
    validators: list[Command] = []
    after_restore_sql: list[str] = []
    after_restore_commands: list[Command] = []
    sandbox: SandboxSettings | None = None

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        return url if url is None else _postgres_url(url)


class CatalogSettings(_Section):
    """``url``: SQLAlchemy URL of the index of what happened; SQLite in ``work_dir`` unless set."""

    url: SecretStr | None = None


class Settings(_Section):
    """The whole file."""

    application: Name
    app_version: str | None = None
    database: DatabaseSettings
    media: dict[Name, SettingsPath] = {}
    configuration: list[str] = []
    django: DjangoSettings | None = None
    storage_targets: dict[Name, TargetSettings] = Field(min_length=1)
    encryption: EncryptionSettings
    backup: BackupSettings = BackupSettings()
    verification: VerificationSettings = VerificationSettings()
    restore: RestoreSettings = RestoreSettings()
    catalog: CatalogSettings = CatalogSettings()
    work_dir: SettingsPath = Field(Path("/var/lib/twist-dr"), validate_default=True)

    @field_validator("configuration")
    @classmethod
    def _patterns_absolute(cls, patterns: list[str], info: ValidationInfo) -> list[str]:
        return [str(_absolute(Path(pattern), info)) for pattern in patterns]

    @field_validator("media")
    @classmethod
    def _media_apart(cls, media: dict[str, Path]) -> dict[str, Path]:
        for name, path in media.items():
            for other_name, other in media.items():
                if name != other_name and (path == other or other in path.parents):
                    raise ValueError(f"folders that lie apart, but {name} lies in {other_name}")
        return media

    @model_validator(mode="after")
    def _places_apart(self) -> Settings:
        """Two targets in one folder would be one copy that is counted twice; what lies in media would be backed up with it."""
        folders = {
            f"storage_targets.{name}.path": target.path
            for name, target in self.storage_targets.items()
            if target.type != "s3"
        }
        mine = {**folders, "work_dir": self.work_dir}
        media = {f"media.{name}": path for name, path in self.media.items()}
        nested = [
            f"{name} lies in {other_name}"
            for name, path in mine.items()
            for other_name, other in {**folders, **media}.items()
            if name != other_name and (path == other or other in path.parents)
        ]
        if nested:
            raise ValueError(f"folders that lie apart, but {' and '.join(nested)}")
        return self

    @property
    def enabled_targets(self) -> dict[str, LocalTargetSettings | NasTargetSettings | S3TargetSettings]:
        return {name: target for name, target in self.storage_targets.items() if target.enabled}

    @property
    def catalog_url(self) -> str:
        """The catalog's SQLAlchemy URL. A secret: it may hold a password."""
        return self.catalog.url.get_secret_value() if self.catalog.url else f"sqlite:///{self.work_dir / 'catalog.db'}"

    @property
    def staging_dir(self) -> Path:
        return self.work_dir / "staging" / self.application

    @property
    def scratch_dir(self) -> Path:
        return self.verification.scratch or self.work_dir / "scratch"

    @property
    def lock_dir(self) -> Path:
        return self.work_dir / "locks"

    @property
    def restores_dir(self) -> Path:
        """Where the journals of restores lie: what was switched, what is kept, what was cut short."""
        return self.work_dir / "restores" / self.application

    @model_validator(mode="after")
    def _one_database(self) -> Settings:
        """A restore replaces the database that its URL names: with that of a superuser's home, postgres, it would replace the wrong one."""
        if self.restore.database_url is not None:
            live, named = _database_of(self.database.url), _database_of(self.restore.database_url)
            if live and named != live:
                raise ValueError(
                    f"the database of database.url, {live}, in restore.database_url too; it names {named or 'none'}"
                )
        return self

    @property
    def restore_url(self) -> str:
        """The URL of the role that restores. A secret."""
        return (self.restore.database_url or self.database.url).get_secret_value()


def settings_file() -> Path:
    """Where the settings are looked for."""
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load_settings(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read, fill in and validate the settings. Raises ``SettingsError`` with all mistakes."""
    path = (path or settings_file()).absolute()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"There is no {path}; write one with: twist-dr init NAME, or name yours in the environment variable {CONFIG_VARIABLE}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({type(error).__name__}); mend its permissions or encoding."
        ) from None
    return parse_settings(text, path, environment)


def parse_settings(text: str, path: Path, environment: Mapping[str, str]) -> Settings:
    """Validate the text of a settings file that lies at ``path``."""
    try:
        document = read_yaml(text)
    except YamlInvalid as error:
        place = f"line {error.line}" if error.line else "somewhere"
        raise SettingsError(f"{path} is not YAML: {place}: {error.problem}.") from None
    if not isinstance(document, dict):
        raise SettingsError(
            f"{path}: expected a mapping with 'application', 'database' and more, found {_found(document)}."
        )
    mistakes: list[str] = []
    filled = _fill(document, environment, "", mistakes)
    try:
        settings = Settings.model_validate(filled, context={"folder": path.parent})
    except ValidationError as error:
        unset = {mistake.partition(":")[0] for mistake in mistakes}
        mistakes += [line for place, line in _explain(error, filled) if place not in unset]
    if mistakes:
        count = f"{len(mistakes)} mistakes" if len(mistakes) > 1 else "a mistake"
        raise SettingsError(f"{path} has {count}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return settings


def _fill(value: Any, environment: Mapping[str, str], place: str, mistakes: list[str]) -> Any:
    """Replace ``${NAME}`` everywhere below ``value``."""
    if isinstance(value, dict):
        return {key: _fill(each, environment, f"{place}.{key}".lstrip("."), mistakes) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, environment, f"{place}[{index}]", mistakes) for index, each in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return "${" + match[2] + "}"
        if match[2] not in environment:
            mistakes.append(f"{place}: expected the environment variable {match[2]}, found it unset")
            return match[0]
        return environment[match[2]]

    return _VARIABLE.sub(replace, value)


_EXPECTED = {
    "missing": "a value",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "union_tag_not_found": "a 'type': local, nas or s3",
}


def _explain(error: ValidationError, document: Any) -> Iterator[tuple[str, str]]:
    """Each mistake as its place and a line for people. No value is shown that may be a secret."""
    for mistake in error.errors(include_url=False):
        place = _place(mistake["loc"])
        kind, context = mistake["type"], mistake.get("ctx", {})
        if kind == "extra_forbidden":
            line = f"{place}: unknown key; see the commented file of twist-dr init for those that exist"
        else:
            if kind == "string_pattern_mismatch" and context.get("pattern") == _NAME_PATTERN:
                expected = _NAME_WORDS
            elif kind == "string_pattern_mismatch" and context.get("pattern") == _HTTP_PATTERN:
                expected = "a text that begins with http:// or https://"
            elif kind == "value_error":
                expected = str(context["error"])
            elif kind == "literal_error":
                expected = str(context["expected"])
            elif kind == "union_tag_invalid":
                expected = f"one of the types {context['expected_tags']}"
                mistake["loc"] = (*mistake["loc"], "type")
            else:
                expected = _EXPECTED.get(kind) or mistake["msg"].lower().removeprefix("input should be ")
            value = _lookup(document, mistake["loc"])
            # A text in the place of a whole section is often the one secret of it: database: postgresql://...
            whole = isinstance(value, str) and expected in ("a mapping", "a list")
            # What several settings say together is told whole in what was expected.
            found = (
                ""
                if kind == "value_error" and isinstance(value, dict)
                else f", found {'a text' if whole else _found(value, place)}"
            )
            line = f"{place or 'settings'}: expected {expected}{found}"
        yield place, line


def _place(location: tuple[int | str, ...]) -> str:
    place = ""
    for step in _without_tags(location):
        place += f"[{step}]" if isinstance(step, int) else f".{step}"
    return place.lstrip(".")


def _without_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Pydantic puts a target's type between its name and its fields, and '[key]' after a wrong key."""
    steps = [step for step in location if step != "[key]"]
    if steps[:1] == ["storage_targets"] and len(steps) > 2 and steps[2] in ("local", "nas", "s3"):
        del steps[2]
    return tuple(steps)


_ABSENT = object()
_SECRET = re.compile(r"url|secret|token|password|key|environment|sql|command", re.IGNORECASE)


def _lookup(document: Any, location: tuple[int | str, ...]) -> Any:
    if location[-1:] == ("[key]",):
        return location[-2]
    for step in _without_tags(location):
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return document


def _found(value: Any, place: str = "") -> str:
    if value is _ABSENT or value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    secret = _SECRET.search(place) or "://" in str(value)
    return "a value that is not shown" if secret else repr(value)
