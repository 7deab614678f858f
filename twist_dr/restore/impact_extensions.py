"""What the live database has in tables of extensions, against what a backup keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twist_dr.postgres.cluster import first_line
from twist_dr.postgres.extension_members import MemberTable, columns_of
from twist_dr.postgres.extension_rows import as_written, read_content
from twist_dr.redaction import one_line
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.table_names import from_label
from twist_dr.system.words import counted

if TYPE_CHECKING:
    from twist_dr.postgres.cluster import Connection


def extension_impact(connection: Connection, manifest: Manifest) -> list[str]:
    """Tables of extensions whose rows the backup keeps, and which hold others now, each as a sentence. Raises psycopg's errors."""
    import psycopg

    notes = []
    for kept in manifest.extension_rows:
        name = from_label(kept.table)
        what = f"table {name.label} of the extension {kept.extension}: {counted(kept.rows, 'row')} in the backup"
        columns = columns_of(connection, name)
        if columns is None:
            notes.append(f"{what}, and no such table now")
            continue
        try:
            with as_written(connection):
                now = read_content(connection, MemberTable(kept.extension, name.schema, name.name, "", columns))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable) as error:
            notes.append(f"{what}, and those of now cannot be read: {first_line(error)}")
            continue
        if now.number != kept.content:
            notes.append(f"{what}, {now.rows:,} now, and they are not the same")
    return list(map(one_line, notes))
