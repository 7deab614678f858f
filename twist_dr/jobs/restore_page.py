"""What the run's page and the application's assets show of a restore."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from twist_dr import audit
from twist_dr.engine.progress import Report
from twist_dr.engine.restore.record import Record
from twist_dr.errors import RecoveryPointInvalid, RestoreRefused, RestoreUndone, TwistDRError
from twist_dr.metadata import in_list, in_markdown, in_words
from twist_dr.restores import RestoreLog
from twist_dr.settings import Application


def metadata(record: Record) -> dict[str, dg.MetadataValue]:
    """Bare numbers, which the page plots over time; sentences and tables for people."""
    found: dict[str, dg.MetadataValue] = {"result": in_words(record.error or record.result)}
    # What somebody who decides wants to read stands first.
    for name, table in (("recovery", record.recovery), ("impact", record.impact), ("gate", record.gate)):
        if table:
            found[name] = in_markdown(table)
    if record.seconds_locked_out is not None:
        found["seconds_locked_out"] = dg.MetadataValue.float(record.seconds_locked_out)
    if record.mode == "plan" and record.state == "done":
        config = _recovery_config(record) if record.recovery_point else _run_config(record)
        found["run_config_to_cut_over"] = in_markdown(config)
    if record.recovery_point:
        found["recovery_point"] = in_words(record.recovery_point)
    found |= {
        "restore_id": in_words(record.restore_id),
        "backup_id": in_words(record.backup_id or "-"),
        "mode": in_words(record.mode),
        "reason": in_words(record.reason),
        "source": in_words(", ".join(record.sources) or "-"),
    }
    for name, lines in (
        ("passed_over", record.passed_over),
        ("warnings", record.warnings),
        ("replaced", record.replaced),
    ):
        if lines:
            found[name] = in_list(lines)
    if record.pre_restore_backup:
        found["pre_restore_backup"] = in_words(record.pre_restore_backup)
    found |= {
        "tables": dg.MetadataValue.int(record.tables),
        "rows": dg.MetadataValue.int(record.rows),
        "files": dg.MetadataValue.int(record.files),
        **{f"{phase}_seconds": dg.MetadataValue.float(spent) for phase, spent in record.seconds.items()},
    }
    return found


def observe(context: dg.OpExecutionContext, app: Application, record: Record, report: Report) -> None:
    """Show on the application's own assets, and in the audit log, that they were restored, or that somebody tried."""
    if record.mode == "plan":
        return
    details = {
        "mode": record.mode,
        "backup_id": record.backup_id,
        "reason": record.reason,
        "run_id": context.run.run_id,
    }
    problem = audit.record(
        app, action=record.kind, subject=record.restore_id,
        result=record.state if record.error is None else f"{record.state}: {record.error}", details=details,
    )  # fmt: skip
    if problem:
        report.warning(problem)
    if record.backup_id is not None:
        audit.note_key_use(app, "restore", record.backup_id, report)
    for part in record.parts:
        try:
            context.log_event(dg.AssetObservation(asset_key=dg.AssetKey([app.name, part]), metadata=metadata(record)))
        except Exception as error:  # the page's history is not worth a restore
            report.warning(f"the page could not be told of the restore: {type(error).__name__}")


@contextmanager
def told(
    context: dg.OpExecutionContext, app: Application, record: Record, log: RestoreLog, report: Report
) -> Iterator[None]:
    """Around a restore: its outcome goes to the log of restores and to the run's page, however it ends."""
    try:
        yield
    except TwistDRError as error:
        state = (
            "refused"
            if isinstance(error, (RestoreRefused, RecoveryPointInvalid))
            else "undone"
            if isinstance(error, RestoreUndone)
            else "failed"
        )
        if isinstance(error, RestoreUndone):
            # It is not live any more, and what it had replaced is live again.
            record.result, record.replaced = "", []
        record.end(state, error=str(error))  # type: ignore[arg-type]
        log.note(record)
        observe(context, app, record, report)
        found = {"error": in_words(error.code), **metadata(record)}
        raise dg.Failure(str(error), metadata=found, allow_retries=False) from None
    except BaseException as error:
        # Where it had switched already, what is live is what was restored: the log must not leave that out.
        record.end("failed", error=f"ended by {type(error).__name__}" + (f"; {record.result}" if record.result else ""))
        log.note(record)
        raise
    log.note(record)
    observe(context, app, record, report)
    context.add_output_metadata(metadata(record))
    report.info(record.result)


def _run_config(record: Record) -> str:
    """What to paste into the launchpad, or a file for -c, to do what was planned."""
    config = {
        "backup": record.backup_id,
        "parts": ", ".join(record.parts),
        "mode": "replace",
        "reason": "",
        "confirm": "",
    }
    return _yaml("restore_backup", config)


def _recovery_config(record: Record) -> str:
    options = {name: str(value) for name, value in record.recovery_options.items()}
    config = {"to": json.dumps(record.recovery_target), **options, "mode": "replace", "reason": "", "confirm": ""}
    return _yaml("recover_to_point", config)


def _yaml(op: str, config: Mapping[str, str | None]) -> str:
    lines = [f"      {name}: {value or chr(34) * 2}" for name, value in config.items()]
    return "\n".join(["```yaml", "ops:", f"  {op}:", "    config:", *lines, "```"])
