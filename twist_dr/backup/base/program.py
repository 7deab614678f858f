"""Running pg_basebackup: its arguments, what it says, and what its failures mean."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import (
    BackupError,
    DatabaseRefused,
    DatabaseRightsMissing,
    DatabaseUnreachable,
    ProcessFailed,
    StagingFull,
)
from twist_dr.postgres.cluster import Cluster
from twist_dr.postgres.sessions import COMMANDS
from twist_dr.postgres.tools import Tools
from twist_dr.system.processes import Child
from twist_dr.system.progress import Report
from twist_dr.system.words import few

#: pg_basebackup of a cluster that archives its WAL waits until the last segment is archived, for ever if that fails.
ARCHIVE_WAIT_SECONDS = 240
_LOOK_SECONDS = 0.5
#: The smallest cluster is some megabytes; an incremental one has every file all the same, if only its name.
_LEAST_BYTES = 1 << 19

_WARNING = re.compile(r"^(?:pg_basebackup: warning|WARNING): +(.*)$")
_CHECKSUM = re.compile(r'checksum verification (?:failed|failure).* file "([^"]*)"', re.IGNORECASE)
_ARCHIVE_WAIT = re.compile(r"waiting for all required WAL segments to be archived \((\d+) seconds elapsed\)")
_REFUSED_INCREMENTAL = re.compile(r"incremental|manifest|summar|UPLOAD_MANIFEST|WAL summarization", re.IGNORECASE)


class IncrementalRefused(Exception):
    """The server gives no incremental backup from this parent. Its text is the server's reason."""


@dataclass
class BaseBackup:
    """pg_basebackup of one cluster. ``warn`` is told what it warns of."""

    cluster: Cluster
    tools: Tools
    label: str
    report: Report
    warn: Callable[[str], None]

    def stream(self, incremental: Path | None = None) -> Iterator[bytes]:
        """The tar of a cluster without further tablespaces. It is good only when the iterator has ended without an error."""
        heard = _Listener(self.report)
        wrote = 0
        with self._child("-", incremental, heard) as child:
            for chunk in child.bulk_output():
                wrote += len(chunk)
                yield chunk
            self._finish(child, heard, incremental if not wrote else None, wrote)

    def write(self, folder: Path, incremental: Path | None = None) -> None:
        """A tar for each tablespace in ``folder``, which must not be there yet, and ``backup_manifest``."""
        heard = _Listener(self.report)
        with self._child(folder, incremental, heard) as child, self.report.part("pg_basebackup") as advance:
            done = 0
            while child.process.poll() is None:
                try:
                    child.process.wait(_LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    size = _size(folder)
                    advance(size - done)
                    done = size
            wrote = _size(folder)
            self._finish(child, heard, incremental if not wrote else None, wrote)

    def _child(self, place: str | Path, incremental: Path | None, heard: _Listener) -> Child:
        arguments: list[str | Path] = [
            self.tools.program("pg_basebackup"), f"--pgdata={place}", "--format=tar", "--wal-method=none", "--checkpoint=fast",
            "--manifest-checksums=CRC32C", "--no-sync", "--no-estimate-size", "--no-password", "--verbose", f"--label={self.label}",
        ]  # fmt: skip
        if incremental is not None:
            arguments.append(f"--incremental={incremental}")
        child = Child(arguments, environment=self.cluster.environment(settings=COMMANDS), on_line=heard)
        heard.give_up = child.process.terminate
        return child

    def _finish(self, child: Child, heard: _Listener, incremental: Path | None, wrote: int) -> None:
        """``incremental``: unless None, a refusal of it is told apart."""
        try:
            child.finish(_LEAST_BYTES, wrote)
        except ProcessFailed as error:
            raise self._named(error, child.complaint(), heard, incremental) from None
        for line in heard.warnings:
            self.warn(f"cluster: {line}")

    def _named(self, error: ProcessFailed, said: str, heard: _Listener, incremental: Path | None) -> Exception:
        """What a failure means. libpq and the server tell it in words only."""
        if heard.gave_up:
            return BackupError(
                f"The server could not archive the last WAL of the base backup within {ARCHIVE_WAIT_SECONDS} s",
                remedy="see in its log why archive_command or archive_library fails, or set archive_mode = off where the WAL is received by another way",
            )
        if heard.damaged or ("checksum" in said and "manifest" not in said):
            return BackupError(
                f"Pages of {few(heard.damaged) or 'some files'} have wrong checksums: the live database is damaged, and a backup of it would be too",
                remedy="keep all backups, stop cleanups, and look into it with pg_amcheck; restore from a backup that is verified",
            )
        if "no pg_hba.conf entry for replication" in said or "pg_hba.conf rejects replication" in said:
            return DatabaseRefused(
                f"The server lets nobody in for replication from here ({_reason(said)})",
                remedy="add a line to pg_hba.conf such as: host replication ROLE ADDRESS scram-sha-256, and reload it",
            )
        if "max_wal_senders" in said:
            return DatabaseUnreachable(
                f"The server has no free WAL sender for a base backup ({_reason(said)})",
                remedy="raise max_wal_senders, or end a replication that nobody needs",
            )
        if "replication role" in said or "to start WAL sender" in said:
            return DatabaseRightsMissing(
                f"The role may not take base backups ({_reason(said)})",
                remedy="as a superuser run: ALTER ROLE ... REPLICATION, or name another role in wal.replication_url",
            )
        if "No space left on device" in said and "ERROR:" not in said:  # with it, it is the server's disk
            return StagingFull(
                "The disk for staging became full", remedy="free space there, or set work_dir to a larger disk"
            )
        if "can only write single tablespace to stdout" in said:
            return BackupError("A tablespace was created while the base backup began", remedy="run the backup again")
        if incremental is not None and _REFUSED_INCREMENTAL.search(said):
            return IncrementalRefused(_reason(said))
        return error


class _Listener:
    """What pg_basebackup says. That WAL archiving is not enabled it says as a notice, and is no warning: WAL goes another way."""

    def __init__(self, report: Report) -> None:
        self.warnings: list[str] = []
        self.damaged: list[str] = []
        self.gave_up = False
        self.give_up: Callable[[], None] = lambda: None
        self._report = report

    def __call__(self, line: str) -> None:
        if waited := _ARCHIVE_WAIT.search(line):
            self._report.warning(f"the server waits for its own archiving, {waited[1]} s until now")
            if int(waited[1]) >= ARCHIVE_WAIT_SECONDS:
                self.gave_up = True
                self.give_up()
        elif damaged := _CHECKSUM.search(line):
            if damaged[1] not in self.damaged:
                self.damaged.append(damaged[1])
        elif match := _WARNING.match(line):
            self.warnings.append(match[1])


def _reason(said: str) -> str:
    """``pg_basebackup: error: could not initiate base backup: ERROR:  why`` as ``why``."""
    return re.split(r"(?:ERROR|FATAL|error): +", said)[-1].strip().rstrip(".")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*")) if folder.exists() else 0
