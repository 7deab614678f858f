"""The gate's last look: does PostgreSQL of the live server's version take every statement of the backup's schema?

Asked of a scratch server of that version, before anything is fetched but the head of the dump. What it says is a warning: the live
server may have files and locales that this machine lacks. There, the schema is tried before any row is loaded.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from twist_dr.errors import Cancelled, ClientToolsMissing, TwistDRError
from twist_dr.postgres.extension_restore import KeptFiles, fetch_kept
from twist_dr.postgres.restore_place import scratch_server, versions_differ
from twist_dr.postgres.schema_trial import try_schema
from twist_dr.postgres.scratch import scratch_base
from twist_dr.postgres.tools import choose_tools, find_tools
from twist_dr.repository.keys import Keyring
from twist_dr.repository.manifest import Manifest
from twist_dr.repository.repository import Repository
from twist_dr.repository.sources import Sources
from twist_dr.restore.dump_head import need_authentic, read_head
from twist_dr.restore.gate import Gate
from twist_dr.restore.plan import RestorePlace, RestoreRequest


def look_at_schema(gate: Gate, request: RestoreRequest, place: RestorePlace, sources: Sources) -> None:
    """Add to the gate what it finds. Costs nothing where backup, tools and server are of one major version."""
    facts = sources.manifest.postgres
    if "database" not in request.parts or request.tables or facts is None or gate.tools is None:
        return
    if not versions_differ(facts, gate.server_major):
        return
    try:
        server = choose_tools(
            find_tools(place.client_tools), gate.server_major, server=True, purpose="try the schema on"
        )
        if server.major != gate.server_major:
            raise ClientToolsMissing(f"this machine has no server programs of PostgreSQL {gate.server_major}")
        head = sources.attempt(lambda repository: _authentic_head(repository, sources.manifest, place.keyring))
        opened = partial(scratch_server, server, place.scratch, facts, sources.read_small("roles.sql"))
        kept_in = partial(_kept, sources)
        found = try_schema(head, scratch_base(place.scratch), opened, kept_in, gate.tools)
    except Cancelled:
        raise
    except TwistDRError as error:
        gate.warnings.append(
            f"whether PostgreSQL {gate.server_major} takes the schema of {facts.version} could not be tried: {error}".rstrip(
                "."
            )
        )
        return
    if found.complaint is None:
        gate.passed.append(f"PostgreSQL {found.version} takes the backup's schema, tried in a scratch server")
    else:
        gate.warnings.append(
            f"PostgreSQL {found.version}, the live server's version, does not take the backup's schema: {found.complaint}; the restore will "
            "fail there too, before it loads a row, unless what is missing is there: change it in the application that made the backup, "
            f"or restore into PostgreSQL {facts.major}"
        )


def _kept(sources: Sources, folder: Path) -> KeptFiles | None:
    return fetch_kept(sources.manifest, folder, sources.fetch, rows=False)


def _authentic_head(repository: Repository, manifest: Manifest, keyring: Keyring) -> bytes:
    need_authentic(repository, manifest)
    return read_head(repository, manifest, keyring)
