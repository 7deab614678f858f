"""The proof: a backup restored for real and compared with what was recorded when it was taken."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

import dagster as dg
from pydantic import Field

from twist_dr.assets.freshness import fresh_within
from twist_dr.audit import note_key_use
from twist_dr.catalog import Catalog
from twist_dr.choosing import THERE, Choice, choose_newest, lacks, note_bad, summed_up
from twist_dr.engine.configuration_check import check_configuration
from twist_dr.engine.kinds import KINDS
from twist_dr.engine.labels import is_meant, split_label
from twist_dr.engine.manifest import Kind, Manifest, kind_of
from twist_dr.engine.postgres.scratch import scratch_base
from twist_dr.engine.progress import Report
from twist_dr.engine.recovery.rehearsal import RehearsalPlan, rehearse
from twist_dr.engine.repository import Repository
from twist_dr.engine.restore.sources import CORRUPT, PASSED_OVER
from twist_dr.engine.verification import VerificationResult, verify_backup
from twist_dr.engine.words import no_good_copy
from twist_dr.errors import (
    BackupNotFound,
    LaunchRefused,
    StorageError,
    VerificationFailed,
    WalError,
)
from twist_dr.metadata import in_list, in_words
from twist_dr.orchestration import APPLICATION, RUN_BACKUP, operation
from twist_dr.runs import heartbeat
from twist_dr.settings import Application, Settings
from twist_dr.settings.verifying import verification_plan


class VerifyBackupConfig(dg.Config):
    """All have defaults: launched as it is, the latest backup is verified from the first target with a good copy."""

    backup: str = Field(
        "latest",
        description="latest, latest-base (recovers the newest base backup and replays WAL), latest-configuration (reads it whole, opens its databases), "
        "or a backup's id. What a restore was about to replace is passed over unless it is named: latest:pre-restore, or any other label so",
    )
    target: str = Field(
        "any",
        description="any (the first storage target with a good copy, in the order of the settings), or one by name",
    )


def verification_asset(settings: Settings, copies: list[dg.AssetKey]) -> dg.AssetsDefinition:
    """The asset ``<application>/verification``."""
    key = dg.AssetKey([settings.application, "verification"])

    @dg.multi_asset(
        name="verification",
        specs=[
            dg.AssetSpec(
                key,
                deps=copies,
                description="A real restore into a scratch server, dumped again and compared row by row, and file by file.",
                group_name="backups",
                kinds={"postgres"},
                owners=[RUN_BACKUP],
                freshness_policy=fresh_within(settings.objectives.recovery_point),
                # A configuration backup that was read back proves nothing about the data, and one from before a restore nothing of use.
                skippable=True,
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "restored_equals_recorded",
                asset=key,
                description="Every table, definition, migration, extension and file is as it was when the backup was taken.",
            )
        ],
        required_resource_keys={APPLICATION},
        # Dagster asks for every check of a step that cannot be subset, and a configuration backup has nothing to say for this one.
        can_subset=True,
    )
    def verify(
        context: dg.AssetExecutionContext, config: VerifyBackupConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult | dg.AssetObservation]:
        with operation(context, retry=True) as (app, report):
            repositories = _repositories(app, config.target)
            choice = _chosen(app, config.backup, repositories, report)
            backup_id = choice.backup_id
            started_at = datetime.now(timezone.utc)
            corrupt: list[str] = []
            with app.in_use([backup_id], "a verification reads it"):
                result = _verify_first_good(app, backup_id, repositories, report, corrupt)
            record_verification(app, result, started_at)
            note_key_use(app, "verify", result.backup_id, report)
            check = dg.AssetCheckResult(
                asset_key=key,
                check_name="restored_equals_recorded",
                passed=result.verified,
                metadata={"differences": in_list(result.differences or [result.unproven] * bool(result.unproven))},
            )
            kind = KINDS[kind_of(backup_id)]
            known = app.catalog.backup(app.name, backup_id)
            # A proof of what a restore was about to replace is none of a state that somebody would want back.
            counts = kind.brings_data and (known is None or is_meant(known.label, None))
            if not result.verified:
                if kind.brings_data:
                    yield check
                raise VerificationFailed(
                    f"{result.backup_id} from {result.target} is NOT verified: {_some(result.differences) or result.unproven}. "
                    f"{_advice(result)} {summed_up(choice.missing)}".rstrip()
                )
            if kind.brings_data:
                proven: dg.MaterializeResult[None] = dg.MaterializeResult(
                    asset_key=key, metadata=_metadata(result), check_results=[check]
                )
                # Whoever launches the check alone on its page gets it alone.
                yield proven if counts and context.selected_asset_keys else check
                heartbeat(app, report)
            else:
                read = dg.AssetKey([app.name, "configuration_backup"])
                yield dg.AssetObservation(asset_key=read, metadata=_metadata(result))
            told = list(choice.missing)
            if corrupt:
                place = f"{app.name}/{kind.copies}"
                keys = " or ".join(f"key:{place}/{name}" for name in corrupt)
                told.insert(
                    0,
                    f"its copy on {', '.join(corrupt)} is bad. Store it anew while "
                    f"it is the newest: dagster asset materialize -m twist_dr.definitions --select '{keys}'",
                )
            if told:
                # Proven, recorded and told; that something newer or another copy is lost must not pass as success.
                raise VerificationFailed(f"{result.backup_id} is verified from {result.target}, but {summed_up(told)}")

    return verify


def _repositories(app: Application, wanted: str) -> list[Repository]:
    names = list(app.targets)
    if wanted not in ("any", *names):
        raise LaunchRefused(
            f"{wanted!r} is no enabled storage target; choose among {', '.join(names)}, or write 'any' in target."
        )
    return [place for name, place in app.repositories().items() if wanted in ("any", name)]


def rehearsal_plan(settings: Settings, to: str | None = None) -> RehearsalPlan:
    """How base backups are rehearsed. ``to`` as in ``RehearsalPlan``."""
    return RehearsalPlan(
        scratch_base(settings.scratch_dir),
        settings.database.client_tools,
        settings.verification.key_tables,
        settings.restore.stall_seconds,
        to,
        settings.verification.isolation,
    )


def prove(app: Application, manifest: Manifest, repository: Repository, report: Report) -> VerificationResult:
    """A full backup is restored, a base backup recovered to the point whose rows it counted, a configuration backup read whole."""
    settings, keyring = app.settings, app.keyring
    if not KINDS[manifest.kind].brings_data:
        repository.held(manifest)
        return check_configuration(
            manifest, lambda name: repository.read(manifest, name, keyring), repository.target.name,
            scratch=settings.staging_dir, client_tools=settings.database.client_tools, report=report,
        )  # fmt: skip
    if not KINDS[manifest.kind].physical:
        return verify_backup(verification_plan(settings, app.cluster), manifest, repository, keyring, report)
    return rehearse(rehearsal_plan(settings), manifest, repository, keyring, report)


#: What ``backup`` may name beside an id.
_NEWEST: Mapping[str, Kind] = {each.latest: each.kind for each in KINDS.values()}


def _chosen(app: Application, wanted: str, repositories: list[Repository], report: Report) -> Choice:
    word, label = split_label(wanted)
    kind = _NEWEST.get(word)
    return Choice(wanted) if kind is None else choose_newest(app, kind, repositories, report, label)


def _verify_first_good(
    app: Application, backup_id: str, repositories: list[Repository], report: Report, corrupt: list[str]
) -> VerificationResult:
    """The result from the first good copy. Names of targets whose copies are bad are added to ``corrupt``."""
    failures, catalog = [], app.catalog
    for place, repository in enumerate(repositories):
        name = repository.target.name
        try:
            manifest, sealed = repository.sealed(backup_id, app.keyring)
            if catalog.backup(manifest.application, backup_id) is None:
                catalog.record_backup(manifest, sealed, run_id=None)
            report.info(f"verifying {backup_id} from {name}")
            result = prove(app, manifest, repository, report)
        # What a target lacks of the WAL that a base needs makes its copy useless, too.
        except (*PASSED_OVER, WalError) as error:
            failures.append(str(error))
            report.warning(f"passed over {name}: {error}")
            if isinstance(error, CORRUPT) or (
                isinstance(error, BackupNotFound) and _was_stored(catalog, backup_id, name)
            ):
                corrupt.append(name)
                note_bad(catalog, backup_id, name, error)
        else:
            # The other targets' copies are not read, but they must be there.
            corrupt += _lacking(catalog, backup_id, repositories[place + 1 :], report)
            return result
    told = " ".join(failure if failure.endswith(".") else f"{failure}." for failure in failures)
    asked = [repository.target.name for repository in repositories]
    raise VerificationFailed(f"{no_good_copy(asked, backup_id)} {told}")


def _lacking(catalog: Catalog, backup_id: str, repositories: list[Repository], report: Report) -> list[str]:
    """Those of the targets that should have a copy and have none. One that does not answer is only said: it is not its copy's fault."""
    found = []
    for repository in repositories:
        try:
            found += [repository.target.name] if lacks(catalog, backup_id, repository) else []
        except StorageError as error:
            report.warning(f"passed over {repository.target.name}: {error}")
    return found


def _was_stored(catalog: Catalog, backup_id: str, target: str) -> bool:
    return any(copy.target == target and copy.state in THERE for copy in catalog.copies(backup_id))


def record_verification(app: Application, result: VerificationResult, started_at: datetime) -> None:
    """Write down in the catalog what came out; nothing where nothing could be compared, for that proves no more than before."""
    if result.unproven and not result.differences:
        return
    app.catalog.record_verification(
        result.backup_id,
        result.target,
        state="verified" if result.verified else "unverified",
        started_at=started_at,
        seconds=result.seconds["total"],
        restore_seconds=result.seconds.get("restore"),
        tables=result.tables,
        rows=result.rows,
        files=result.files,
        server_version=result.server_version,
        differences=result.differences,
        notes=result.notes,
        run_id=app.actor.run_id,
        proved=result.proved,
        content_seconds=result.seconds.get("content"),
    )


def _advice(result: VerificationResult) -> str:
    if result.differences:
        return "Make a new backup now, and keep this one until the cause is known."
    return "Let twist-dr doctor say what is missing, then take a new base backup."


def _metadata(result: VerificationResult) -> dict[str, dg.MetadataValue]:
    return {
        "backup_id": in_words(result.backup_id),
        "target": in_words(result.target),
        "tables": dg.MetadataValue.int(result.tables),
        "rows": dg.MetadataValue.int(result.rows),
        "files": dg.MetadataValue.int(result.files),
        "duration_seconds": dg.MetadataValue.float(result.seconds["total"]),
        "restore_seconds": dg.MetadataValue.float(result.seconds.get("restore", 0.0)),
        "proved": in_words(result.proved),
        "content_seconds": dg.MetadataValue.float(result.seconds.get("content", 0.0)),
        "server_version": in_words(result.server_version or "no database part"),
        "notes": in_list(result.notes),
    }


def _some(lines: list[str]) -> str:
    return "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
