"""What a recovering server is set to, and how that is written.

Its settings are ours alone: what was in the base's configuration files may archive, replicate or listen as the live server does.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from twist_dr.postgres.tools import Tools
from twist_dr.recovery.untar import Owner
from twist_dr.repository.manifest import BaseFacts
from twist_dr.system.processes import run

#: A server that replays may not have fewer than the primary had, see "Hot Standby" in PostgreSQL's manual; and our least.
AT_LEAST_PRIMARYS = {
    "max_connections": 20,
    "max_worker_processes": 8,
    "max_wal_senders": 4,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
_COMMON = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "wal_level": "replica",
    "hot_standby": "on",
    "archive_mode": "off",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    # A subscription of the live server would go on here, and take from its publisher what the live one has not had yet.
    "max_logical_replication_workers": "0",
    "synchronous_standby_names": "",
    "primary_conninfo": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "",
    "lc_messages": "C",
    "timezone": "UTC",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    # A restart point writes everything down; segments before it are recycled.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "30min",
    "jit": "off",
    "dynamic_shared_memory_type": "mmap",
}
#: For a server that is made anew when it crashes.
_SCRATCH = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
#: WAL that lies in the data folder between two restart points, at most: twice max_wal_size.
MOST_WAL_KEPT = 4 << 30
#: Where the base's own postgresql.auto.conf is kept while we recover.
BASES_OWN_SETTINGS = "postgresql.auto.conf.base"


def common_settings(major: int, *, durable: bool) -> dict[str, str]:
    """What every recovering server of that version is set to. Not ``durable``: it is made anew when it crashes."""
    return {
        **_COMMON,
        **({} if durable else _SCRATCH),
        # Else it opens and syncs every file, one by one, before it begins.
        **({"recovery_init_sync_method": "syncfs"} if major >= 14 else {}),
    }


def least_settings(tools: Tools, data: Path, owner: Owner, facts: BaseFacts) -> dict[str, int]:
    """The settings that may not be less than the primary's: from the manifest and from the control file, which may be newer."""
    said = run(
        [tools.program("pg_controldata"), data],
        environment={"LC_ALL": "C"},
        user=owner.user,
        group=owner.group,
        folder=data,
    ).decode(errors="replace")
    # The control file calls one of them "max_locks_per_xact".
    control = {
        name.replace("_per_xact", "_per_transaction"): int(value)
        for name, value in re.findall(r"^(max_\w+) setting:\s+(\d+)$", said, re.MULTILINE)
    }
    return {
        name: max(least, facts.cluster_settings.get(name, 0), control.get(name, 0))
        for name, least in AT_LEAST_PRIMARYS.items()
    }


def write_settings(folder: Path, data: Path, owner: Owner, settings: Mapping[str, str]) -> None:
    """Write the settings, and who may connect, into ``folder``, made anew and ours; the base's own in ``data`` are put aside. Raises ``OSError``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    owner.lend(folder)
    lines = "".join(f"{name} = '{_quoted(value)}'\n" for name, value in settings.items())
    _lent_file(folder / "postgresql.conf", lines, owner)
    # Replication: pages are checked by a base backup that goes nowhere.
    _lent_file(folder / "pg_hba.conf", "local all all trust\nlocal replication all trust\n", owner)
    _lent_file(folder / "pg_ident.conf", "", owner)
    # Read whatever config_file says, and after it: the base's own must not count.
    aside = data / "postgresql.auto.conf"
    if aside.exists() and not (kept := data / BASES_OWN_SETTINGS).exists():
        aside.rename(kept)
    new_file(aside, "", owner)


def _lent_file(path: Path, text: str, owner: Owner) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    owner.lend(path)


def new_file(path: Path, text: str, owner: Owner) -> None:
    """A file that only the server's user can read, in the place of one that may be there. Raises ``OSError``.

    It lies where that user may write: a link that one of its processes puts there meanwhile is not written through, nor given away.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", errors="surrogateescape") as file:
        file.write(text)
        owner.take(descriptor)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
