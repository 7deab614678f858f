"""The schema of a backup held against another backup's, or the live database's. It only tells: nothing is written, and what cannot be compared is said."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import BackupError, Cancelled, DatabaseError, ProcessFailed, TwistDRError
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.dump_toc import UnknownDump
from twist_dr.postgres.roles import client_major
from twist_dr.postgres.schema_changes import SchemaChange, compare_schemas
from twist_dr.postgres.tools import Tools, choose_tools, find_tools
from twist_dr.repository.sources import Sources
from twist_dr.restore.dump_head import authentic_head
from twist_dr.system.processes import Child
from twist_dr.system.progress import human_bytes

#: A gigabyte takes seconds to read. A larger copy that is not encrypted is not read whole only to compare.
_MOST_STORED = 1 << 30
#: Definitions of some nine thousand tables. Both schemas are held in memory, and where each table differs that takes some seconds and ten times as much.
_MOST_DEFINITIONS = 16 << 20
#: How long pg_dump may wait for a lock that somebody holds on a table, and how long it may take in all.
_LOCK_WAIT_SECONDS = 5
_MOST_SECONDS = 120.0
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class SchemaDifference:
    """``changes`` from one schema to the other. ``unknown``: why they could not be compared, None where they were; ``note``: why a change may be none."""

    changes: tuple[SchemaChange, ...] = ()
    unknown: str | None = None
    note: str | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a person who reads the changes must know."""
        unknown = self.unknown and f"the schemas could not be compared: {self.unknown}"
        return tuple(line for line in (unknown, self.note) if line)


@dataclass(frozen=True)
class Schema:
    """A schema as pg_dump of a major version wrote it down: the head of its dump."""

    head: bytes
    major: int


def backup_schema(sources: Sources) -> Schema:
    """That of a backup, from the first storage target that gives it, authentic. Raises ``BackupError`` and ``RestoreFailed``."""
    manifest = sources.manifest
    if manifest.artifact("database.dump") is None or manifest.postgres is None:
        raise BackupError(f"{manifest.backup_id} has no dump")
    head = sources.attempt(lambda copy: authentic_head(copy, _MOST_STORED))
    return Schema(_small(head), client_major(manifest.postgres))


def live_schema(cluster: Cluster, folders: Sequence[Path], like: int) -> Schema:
    """That of a live database, by a pg_dump of version ``like`` if there is one that can. Raises ``DatabaseError``, ``ClientToolsMissing`` and ``ProcessFailed``."""
    with cluster.connect() as connection:
        major = connection.info.server_version // 10000
    known = find_tools(folders)
    exact = [each for each in known if each.major == like >= major]
    tools = choose_tools(exact or known, major, purpose="compare the schema of")
    return Schema(_dumped(cluster, tools), tools.major)


def compared(before: Callable[[], Schema], after: Callable[[], Schema]) -> SchemaDifference:
    """What differs between two schemas, when both can be had. Raises ``Cancelled``."""
    try:
        old, new = before(), after()
        changes = compare_schemas(old.head, new.head)
    except Cancelled:
        raise
    except UnknownDump:
        return SchemaDifference(unknown="a dump is none as pg_dump 12 to 18 write them")
    except TwistDRError as error:
        return SchemaDifference(unknown=str(error).rstrip("."))
    note = None
    if changes and old.major != new.major:
        note = f"pg_dump {old.major} and {new.major} wrote the definitions down, which word some of them otherwise: what changed may be the same"
    return SchemaDifference(tuple(changes), note=note)


def _dumped(cluster: Cluster, tools: Tools) -> bytes:
    arguments: list[str | Path] = [
        tools.program("pg_dump"), "--format=custom", "--compress=0", "--schema-only", "--no-password", "--no-subscriptions",
        f"--lock-wait-timeout={_LOCK_WAIT_SECONDS}s",
    ]  # fmt: skip
    pieces, size = [], 0
    with Child(arguments, environment=cluster.environment()) as child:
        late = threading.Event()
        patience = threading.Timer(_MOST_SECONDS, _end, [child.process, late])
        patience.start()
        try:
            for piece in child.bulk_output():
                pieces.append(piece)
                if (size := size + len(piece)) > _MOST_DEFINITIONS:
                    break
            else:
                child.finish()
        except ProcessFailed as error:
            if late.is_set():
                raise DatabaseError(f"the live schema could not be read within {_MOST_SECONDS:.0f} seconds") from error
            raise
        finally:
            patience.cancel()
            patience.join()
    return _small(b"".join(pieces))


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    """Asked to end, pg_dump tells the server so and waits for its answer, which one that hangs does not give."""
    late.set()
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _small(head: bytes) -> bytes:
    if len(head) > _MOST_DEFINITIONS:
        raise BackupError(f"its definitions are larger than {human_bytes(_MOST_DEFINITIONS)}, too large to be compared")
    return head
