"""A schema restored for a trial: its statements are what versions of PostgreSQL differ in, and without rows it takes a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twist_dr.errors import DiskFilled, ProcessFailed
from twist_dr.postgres.dump import restore_database
from twist_dr.postgres.dump_internals import leave_out_internals
from twist_dr.postgres.extension_restore import KeptFiles
from twist_dr.postgres.own_settings import OwnSettings, own_settings_of
from twist_dr.postgres.restore_place import TrialPlace
from twist_dr.postgres.tools import Tools
from twist_dr.repository.streams import full_disk, write_new
from twist_dr.system.scratch_folder import ScratchFolder, clear_left_over

_FOLDER = "schema-"


@dataclass(frozen=True)
class Trial:
    """``version`` of the server that it was tried on; ``complaint``: what PostgreSQL said, None when it took all."""

    version: str
    complaint: str | None


def try_schema(
    dump: bytes,
    base: Path,
    open_place: Callable[[OwnSettings], TrialPlace],
    kept_in: Callable[[Path], KeptFiles | None],
    tools: Tools | None = None,
) -> Trial:
    """Restore the schema of a dump, or of the head of one, in a place that is opened for it, with ``tools`` or the place's own.

    ``base`` takes the file; ``kept_in`` puts beside it what the dump leaves out of extensions. Raises what opening the place raises, and ``StagingFull``.
    """
    clear_left_over(base, _FOLDER)
    with ScratchFolder(base, _FOLDER) as folder:
        file = folder / "schema.dump"
        write_new(file, [dump], durable=False)
        leave_out_internals(file)
        kept = kept_in(folder)
        place = open_place(own_settings_of(file))
        with place:
            try:
                restore_database(
                    place.cluster,
                    tools or place.tools,
                    place.database,
                    file,
                    jobs=1,
                    keep_owners=place.keep_owners,
                    subscriptions=False,
                    schema_only=True,
                    kept=kept,
                )
            except DiskFilled as error:  # which says nothing about the schema
                raise full_disk(base) from error
            except ProcessFailed as error:
                return Trial(place.version, str(error).removesuffix("."))
    return Trial(place.version, None)
