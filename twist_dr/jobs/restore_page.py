"""What the run's page and the application's assets show of a restore."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import dagster as dg

from twist_dr.engine.progress import Report
from twist_dr.engine.restore.record import Record
from twist_dr.settings import Settings


def metadata(record: Record) -> dict[str, dg.MetadataValue]:
    """Bare numbers, which the page plots over time; sentences and tables for people."""
    found: dict[str, dg.MetadataValue] = {"result": dg.MetadataValue.text(record.error or record.result)}
    # What somebody who decides wants to read stands first.
    for name, table in (("impact", record.impact), ("gate", record.gate)):
        if table:
            found[name] = dg.MetadataValue.md(table)
    if record.seconds_locked_out is not None:
        found["seconds_locked_out"] = dg.MetadataValue.float(record.seconds_locked_out)
    if record.mode == "plan" and record.state == "done":
        found["run_config_to_cut_over"] = dg.MetadataValue.md(_run_config(record))
    found |= {
        "restore_id": dg.MetadataValue.text(record.restore_id),
        "backup_id": dg.MetadataValue.text(record.backup_id or "-"),
        "mode": dg.MetadataValue.text(record.mode),
        "reason": dg.MetadataValue.text(record.reason),
        "source": dg.MetadataValue.text(", ".join(record.sources) or "-"),
    }
    for name, lines in (
        ("passed_over", record.passed_over),
        ("warnings", record.warnings),
        ("replaced", record.replaced),
    ):
        if lines:
            found[name] = dg.MetadataValue.md("\n".join(f"- {line}" for line in lines))
    if record.pre_restore_backup:
        found["pre_restore_backup"] = dg.MetadataValue.text(record.pre_restore_backup)
    found |= {
        "tables": dg.MetadataValue.int(record.tables),
        "rows": dg.MetadataValue.int(record.rows),
        "files": dg.MetadataValue.int(record.files),
        **{f"{phase}_seconds": dg.MetadataValue.float(spent) for phase, spent in record.seconds.items()},
    }
    return found


def observe(context: dg.OpExecutionContext, settings: Settings, record: Record, report: Report) -> None:
    """Show on the application's own assets that they were restored, or that somebody tried."""
    if record.mode == "plan":
        return
    for part in record.parts:
        try:
            context.log_event(
                dg.AssetObservation(asset_key=dg.AssetKey([settings.application, part]), metadata=metadata(record))
            )
        except Exception as error:  # the page's history is not worth a restore
            report.warning(f"the page could not be told of the restore: {type(error).__name__}")


def _run_config(record: Record) -> str:
    """What to paste into the launchpad, or a file for -c, to do what was planned."""
    config = {
        "backup": record.backup_id,
        "parts": ", ".join(record.parts),
        "mode": "replace",
        "reason": "",
        "confirm": "",
    }
    lines = [f"      {name}: {value or chr(34) * 2}" for name, value in config.items()]
    return "\n".join(["```yaml", "ops:", "  restore_backup:", "    config:", *lines, "```"])
