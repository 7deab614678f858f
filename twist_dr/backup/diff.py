"""Two backups compared: rows per table, migrations, schema, extensions, sizes, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from twist_dr.backup.diff_files import INDEXED, FileChanges
from twist_dr.postgres.schema_changes import SchemaChange, What
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import Manifest
from twist_dr.system.progress import human_bytes
from twist_dr.system.tables import table
from twist_dr.system.words import counted, few

_ARCHIVES = tuple(f"{part}.tar" for part in INDEXED)
#: Names that are shown to people of each kind of change; ``--json`` has all.
_SHOWN = 50
_SIGNS: Mapping[What, str] = {"came": "+", "went": "-", "changed": "~"}


@dataclass(frozen=True)
class Change:
    """Something that both or one of the backups have; None: it is not in that one."""

    name: str
    before: int | str | None
    after: int | str | None


@dataclass(frozen=True)
class Difference:
    """What differs from backup ``before`` to backup ``after``. Sizes in bytes. ``files`` only where it was asked for, by part.

    ``schema`` only where the dumps were looked into; ``notes``: what could not be compared, or not for certain.
    ``other_bytes``: archives of files that are as large as before and hold something else: content of a file, or its time, mode or owner.
    """

    before: str
    after: str
    facts: tuple[Change, ...]
    tables: tuple[Change, ...]
    same_tables: int
    migrations_added: tuple[str, ...]
    migrations_removed: tuple[str, ...]
    extensions: tuple[Change, ...]
    artifacts: tuple[Change, ...]
    other_bytes: tuple[str, ...]
    file_counts: tuple[Change, ...]
    schema: tuple[SchemaChange, ...] = ()
    notes: tuple[str, ...] = ()
    files: dict[str, FileChanges] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        changes = (self.facts, self.tables, self.migrations_added, self.migrations_removed, self.extensions)
        if self.schema or self.notes:
            return False
        files = any(each.added or each.removed or each.changed for each in self.files.values())
        return not (any(changes) or self.artifacts or self.other_bytes or self.file_counts or files)


def compare(before: Manifest, after: Manifest) -> Difference:
    """What differs, as far as manifests tell."""
    old, new = _migrations(before), _migrations(after)
    rows_before, rows_after = _rows(before, after), _rows(after, before)
    tables = _changes(rows_before, rows_after)
    return Difference(
        before=before.backup_id,
        after=after.backup_id,
        facts=tuple(_changes(_facts(before), _facts(after))),
        tables=tuple(tables),
        same_tables=len(rows_before.keys() | rows_after.keys()) - len(tables),
        migrations_added=tuple(sorted(new - old)),
        migrations_removed=tuple(sorted(old - new)),
        extensions=tuple(_changes(_extensions(before), _extensions(after))),
        artifacts=tuple(_changes(_sizes(before), _sizes(after))),
        other_bytes=_other_bytes(before, after),
        file_counts=tuple(_changes(before.files, after.files)),
        notes=_without_a_dump(before, after),
    )


def _without_a_dump(before: Manifest, after: Manifest) -> tuple[str, ...]:
    """That a schema cannot be looked into. A base backup has files alone."""
    if before.backup_id == after.backup_id or before.postgres is None or after.postgres is None:
        return ()
    lacking = [each.backup_id for each in (before, after) if each.artifact("database.dump") is None]
    return (
        (f"the schemas could not be compared: {few(lacking)} {'have' if lacking[1:] else 'has'} no dump",)
        if lacking
        else ()
    )


def document(difference: Difference) -> dict[str, Any]:
    """For ``--json``, see :func:`~twist_dr.cli.output.json_pieces`: names of files are iterables."""
    files = {part: dict(vars(changes)) for part, changes in difference.files.items()}
    return {**asdict(replace(difference, files={})), "files": files, "same": difference.same}


def render(difference: Difference) -> str:
    """For a terminal."""
    lines = [f"from {difference.before} to {difference.after}"]
    if difference.same:
        return f"{lines[0]}: nothing differs that the manifests record"
    lines += [f"  {one_line(note)}" for note in difference.notes]
    lines += [
        f"  {one_line(change.name)}: {_shown(change.before)} -> {_shown(change.after)}" for change in difference.facts
    ]
    for title, names in (
        ("applied", difference.migrations_added),
        ("no longer applied", difference.migrations_removed),
    ):
        lines += [f"  migration {title}: {one_line(name)}" for name in names]
    lines += [
        f"  extension {one_line(change.name)}: {_shown(change.before)} -> {_shown(change.after)}"
        for change in difference.extensions
    ]
    if difference.schema:
        of_each = Counter(each.what for each in difference.schema)
        lines += ["", f"schema: {of_each['came']} came, {of_each['went']} went, {of_each['changed']} changed"]
        lines += [f"  {_SIGNS[each.what]} {one_line(_definition(each))}" for each in difference.schema[:_SHOWN]]
        if (more := len(difference.schema) - _SHOWN) > 0:
            lines.append(f"  and {more} more; --json names all")
        lines.append("")
    if difference.tables:
        rows = [(each.name, _shown(each.before), _shown(each.after), _signed(each)) for each in difference.tables]
        lines += ["", table(("TABLE", "ROWS BEFORE", "ROWS AFTER", "DIFFERENCE"), rows)]
    lines.append(f"{counted(difference.same_tables, 'table', 'has', 'have')} as many rows as before")
    if difference.artifacts:
        sizes = [
            (each.name, *(human_bytes(size) if isinstance(size, int) else "-" for size in (each.before, each.after)))
            for each in difference.artifacts
        ]
        lines += ["", table(("ARTIFACT", "BEFORE", "AFTER"), sizes)]
    lines += [
        f"{name}: as large as before, and other bytes: the content of files, their times or their owners differ"
        + ("" if difference.files else "; --files tells the first from the others")
        for name in difference.other_bytes
    ]
    if difference.file_counts:
        counts = [
            (each.name, _shown(each.before), _shown(each.after), _signed(each)) for each in difference.file_counts
        ]
        lines += ["", table(("FILES OF", "BEFORE", "AFTER", "DIFFERENCE"), counts)]
    for part, files in difference.files.items():
        lines += [
            "",
            f"files of {part}: {len(files.added)} added, {len(files.removed)} removed, {len(files.changed)} changed",
        ]
        for sign, listed in (("+", files.added), ("-", files.removed), ("~", files.changed)):
            lines += [f"  {sign} {one_line(name)}" for name in islice(listed, _SHOWN)]
            if len(listed) > _SHOWN:
                lines.append(f"  {sign} and {len(listed) - _SHOWN} more; --json names all")
    return "\n".join(lines)


def _definition(change: SchemaChange) -> str:
    told = " -> ".join(text for text in (change.before, change.after) if text)
    return f"{change.kind} {change.name}" + (f": {told}" if told else "")


def _changes(before: Mapping[str, int | str], after: Mapping[str, int | str]) -> list[Change]:
    names = sorted(before.keys() | after.keys())
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _rows(manifest: Manifest, other: Manifest) -> dict[str, int]:
    """Rows by label. A name that format 1.0 leaves open goes by the one table of the other backup that it can be."""
    rows, others = {}, other.rows
    for name, count in manifest.rows.items():
        label = name.label
        if not name.schema:
            bearers = [each.label for each in others if each.schema and each.plain == name.name]
            label = bearers[0] if len(bearers) == 1 else f"{name.name} (which table of this name was not recorded)"
        rows[label] = count
    return rows


def _facts(manifest: Manifest) -> dict[str, int | str]:
    server = manifest.postgres
    values: dict[str, int | str | None] = {
        "kind": manifest.kind,
        "parts": ", ".join(manifest.parts),
        "application version": manifest.app_version,
        "git revision": manifest.git_revision,
        "schema version": manifest.db_schema_version,
        "key": manifest.key.id,
        "large objects": manifest.large_objects,
        "PostgreSQL": server.version if server else None,
        "system identifier": server.system_identifier if server else None,
        "timeline": server.timeline if server else None,
        "database size (bytes)": server.database_size if server else None,
        "encoding": server.encoding if server else None,
        "collation": server.collate if server else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _migrations(manifest: Manifest) -> set[str]:
    return {f"{app}.{name}" for app, names in manifest.migrations.items() for name in names}


def _extensions(manifest: Manifest) -> dict[str, int | str]:
    return {each.name: each.version for each in manifest.postgres.extensions} if manifest.postgres else {}


def _sizes(manifest: Manifest) -> dict[str, int | str]:
    return {artifact.name: artifact.size for artifact in manifest.artifacts}


def _other_bytes(before: Manifest, after: Manifest) -> tuple[str, ...]:
    """Only archives of files: the bytes of a dump, or of a base backup, differ though the rows do not."""
    pairs = [(name, before.artifact(name), after.artifact(name)) for name in _ARCHIVES]
    return tuple(name for name, old, new in pairs if old and new and old.size == new.size and old.sha256 != new.sha256)


def _shown(value: int | str | None) -> str:
    return "-" if value is None else one_line(str(value))


def _signed(change: Change) -> str:
    if change.before is None:
        return "added"
    if change.after is None:
        return "removed"
    return f"{int(change.after) - int(change.before):+d}"
