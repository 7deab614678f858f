"""Trying every storage target."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from twist_dr.catalog.space import record_space
from twist_dr.errors import TargetUnavailable, TwistDRError
from twist_dr.operations.operation import Config
from twist_dr.repository.repository import Repository
from twist_dr.settings import Application
from twist_dr.storage.base import StorageTarget
from twist_dr.storage.trial import TargetTest, run_target_test
from twist_dr.system.progress import human_seconds


def test_storage_targets(app: Application, config: Config) -> list[TargetTest]:
    """Write, read back and delete a small object on all at once; results, and how much space there is, go to the catalog. Raises ``TargetUnavailable`` when one is not usable."""
    with ThreadPoolExecutor(len(app.targets)) as pool:
        tests = list(pool.map(lambda target: _tried(app, target), app.targets.values()))
    for test in tests:
        app.catalog.record_target_test(
            test.target,
            ok=test.ok,
            location=test.location,
            capabilities=asdict(test.capabilities) if test.capabilities else None,
            error=test.error,
            seconds=test.seconds,
        )
        (app.report.info if test.ok else app.report.warning)(in_a_line(test))
    record_space(app.catalog, (app.targets[test.target] for test in tests if test.ok), app.report)
    if failed := [test for test in tests if not test.ok]:
        raise TargetUnavailable(
            f"{len(failed)} of {len(tests)} storage targets cannot be used. {' '.join(str(test.error) for test in failed)}"
        )
    return tests


def _tried(app: Application, target: StorageTarget) -> TargetTest:
    """Asked first whether it still lists backups that it held: an absent disk would be made a new, empty target, and found well every day."""
    try:
        if app.catalog.backups(application=app.name, target=target.name, state="checked", limit=1):
            Repository(target, app.name).need_backups()
    except TwistDRError as error:
        return TargetTest(target.name, target.location, 0.0, None, error)
    return run_target_test(target)


_CHECKED = {"server": "checks what it receives", "read-back": "is read back after each write"}


def in_a_line(test: TargetTest) -> str:
    if test.capabilities is None:
        why = test.error.clause if test.error else "not tried"
        return f"{test.target} ({test.location}): {why}"
    can = test.capabilities
    facts = [
        # Where it does not, a note says what follows.
        *(["refuses to overwrite by itself"] if can.write_once else []),
        _CHECKED.get(can.checksum, f"computes {can.checksum} of what it holds, which is compared after each write"),
        *([f"its clock differs by {human_seconds(abs(can.clock_skew_seconds))}"] if can.clock_skew_seconds else []),
    ]
    said = f"{test.target} ({test.location}): written, read back, compared and deleted in {human_seconds(test.seconds)}; {'; '.join(facts)}"
    return ". ".join((said, " ".join(can.notes))) if can.notes else said
