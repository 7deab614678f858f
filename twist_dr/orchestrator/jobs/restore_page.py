"""What the run's page and the application's assets show of a restore."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import dagster as dg

from twist_dr.errors import TwistDRError
from twist_dr.orchestrator.around import failure
from twist_dr.orchestrator.metadata import in_json, in_list, in_markdown, in_words
from twist_dr.restore.record import RestoreRecord
from twist_dr.settings import Application
from twist_dr.system.events import Event, Shown


def restore_metadata(record: RestoreRecord) -> dict[str, dg.MetadataValue]:
    """Bare numbers, which the page plots over time; sentences and tables for people."""
    found: dict[str, dg.MetadataValue] = {"result": in_words(record.error or record.result)}
    # What somebody who decides wants to read stands first.
    for name, table in (("recovery", record.recovery), ("impact", record.impact), ("gate", record.gate)):
        if table:
            found[name] = in_markdown(table)
    if record.schema:
        found["schema"] = in_json([asdict(each) for each in record.schema])
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


@contextmanager
def watched(context: dg.OpExecutionContext, app: Application) -> Iterator[None]:
    """Around a restore: how it ended is shown on the run's page and on the application's own assets, a failure with all that is known of it."""
    seen: list[RestoreRecord] = []

    def page(event: Event) -> None:
        if isinstance(event, Shown) and isinstance(event.what, RestoreRecord):
            seen.append(event.what)
            if event.what.mode != "plan":
                _observe(context, app, event.what)

    app.report.add(page)
    try:
        yield
    except TwistDRError as error:
        if not seen:
            raise
        raise failure(error, **restore_metadata(seen[-1])) from None
    context.add_output_metadata(restore_metadata(seen[-1]))


def _observe(context: dg.OpExecutionContext, app: Application, record: RestoreRecord) -> None:
    for part in record.parts:
        try:
            context.log_event(
                dg.AssetObservation(asset_key=dg.AssetKey([app.name, part]), metadata=restore_metadata(record))
            )
        except Exception as error:  # the page's history is not worth a restore
            app.report.warning(f"the page could not be told of the restore: {type(error).__name__}")


def _run_config(record: RestoreRecord) -> str:
    """What to paste into the launchpad, or a file for -c, to do what was planned."""
    config = {
        "backup": record.backup_id,
        "parts": ", ".join(record.parts),
        "mode": "replace",
        "reason": "",
        "confirm": "",
    }
    return _yaml("restore", config)


def _recovery_config(record: RestoreRecord) -> str:
    options = {name: str(value) for name, value in record.recovery_options.items()}
    config = {"to": json.dumps(record.recovery_target), **options, "mode": "replace", "reason": "", "confirm": ""}
    return _yaml("restore_to_time", config)


def _yaml(op: str, config: Mapping[str, str | None]) -> str:
    lines = [f"      {name}: {value or chr(34) * 2}" for name, value in config.items()]
    return "\n".join(["```yaml", "ops:", f"  {op}:", "    config:", *lines, "```"])
