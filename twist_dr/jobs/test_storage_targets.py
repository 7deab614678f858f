"""The job that tries every storage target with a small object and says in words what is wrong."""

# No "from __future__ import annotations" here: Dagster looks at the annotations of steps themselves.

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import dagster as dg

from twist_dr.engine.progress import human_seconds
from twist_dr.engine.target_test import TargetTest, run_target_test
from twist_dr.errors import TargetUnavailable
from twist_dr.metadata import in_words
from twist_dr.orchestration import APPLICATION, CONFIGURE_BACKUP, operation, run_tags
from twist_dr.settings import Settings


def test_storage_targets_job(settings: Settings) -> dg.JobDefinition:
    """The job ``test_storage_targets``: all targets at once, results in the catalog, failed when one is not usable."""

    @dg.op(name="test_targets", required_resource_keys={APPLICATION})
    def test_targets(context: dg.OpExecutionContext) -> None:
        with operation(context) as (app, report):
            with ThreadPoolExecutor(len(app.targets)) as pool:
                tests = list(pool.map(run_target_test, app.targets.values()))
            for test in tests:
                app.catalog.record_target_test(
                    test.target,
                    ok=test.ok,
                    location=test.location,
                    capabilities=asdict(test.capabilities) if test.capabilities else None,
                    error=test.error,
                    seconds=test.seconds,
                )
                (report.info if test.ok else report.warning)(_line(test))
            context.add_output_metadata({test.target: in_words(_line(test)) for test in tests})
            if failed := [test for test in tests if not test.ok]:
                raise TargetUnavailable(
                    f"{len(failed)} of {len(tests)} storage targets cannot be used. {' '.join(str(test.error) for test in failed)}"
                )

    @dg.job(
        name="test_storage_targets",
        description="Write, read back, compare and delete a small object on every storage target, and record what each can do.",
        tags=run_tags(settings),
        owners=[CONFIGURE_BACKUP],
    )
    def job() -> None:
        test_targets()

    return job


def _line(test: TargetTest) -> str:
    if test.capabilities is None:
        why = test.error.clause if test.error else "not tried"
        return f"{test.target} ({test.location}): {why}"
    can = test.capabilities
    facts = [
        "refuses to overwrite by itself" if can.write_once else "does not refuse overwriting by itself",
        "checks what it receives" if can.checksum == "server" else "is read back after each write",
        *([f"its clock differs by {human_seconds(abs(can.clock_skew_seconds))}"] if can.clock_skew_seconds else []),
        *can.notes,
    ]
    return f"{test.target} ({test.location}): written, read back, compared and deleted in {human_seconds(test.seconds)}; {'; '.join(facts)}"
