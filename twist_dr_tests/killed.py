"""Run a command that kills itself with SIGKILL at the n-th step of a restore: ``python -m twist_dr_tests.killed N COMMAND...``.

A step is the moment before or after one of the calls below, so that every place between two effects is one. ``COMMAND`` is ``dagster`` or
``twist-dr`` with its arguments. With N = 0 nothing is killed, and the steps are listed in the file that KILLED_STEPS names.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

#: Every call of a restore or an undo that changes something outside the process.
STEPS = (
    "twist_dr.restore.journal:Journals.save",
    "twist_dr.postgres.making:make_to_serve",
    "twist_dr.restore.pipeline:FetchedDatabase.load",
    "twist_dr.restore.preparation:analyze",
    "twist_dr.postgres.making:give_last",
    "twist_dr.postgres.making:take_after",
    "twist_dr.restore.preparation:unpack_media",
    "twist_dr.restore.hooks:Maintenance.on",
    "twist_dr.postgres.databases:close",
    "twist_dr.postgres.databases:end_sessions",
    "twist_dr.restore.cutover:exchange",
    "twist_dr.postgres.databases:switch",
    "twist_dr.restore.hooks:Maintenance.off",
    "pathlib:Path.rename",
)


class Killer:
    """Counts steps and kills at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def step(self, name: str) -> None:
        self.count += 1
        if path := os.environ.get("KILLED_STEPS"):
            with open(path, "a") as file:
                file.write(f"{self.count} {name}\n")
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if name.startswith("pathlib") and ".replaced-" not in str(arguments[-1]):
                return call(*arguments, **options)
            self.step(f"before {name}")
            result = call(*arguments, **options)
            self.step(f"after {name}")
            return result

        return counted


def arm(at: int) -> None:
    """Put the counters around all steps."""
    killer = Killer(at)
    for step in STEPS:
        module, _, path = step.partition(":")
        owner: Any = importlib.import_module(module)
        *above, name = path.split(".")
        for each in above:
            owner = getattr(owner, each)
        setattr(owner, name, killer.around(step, getattr(owner, name)))


def main() -> None:
    """See the module's docstring."""
    at, program, *arguments = sys.argv[1:]
    arm(int(at))
    sys.argv = [program, *arguments]
    if program == "dagster":
        from dagster._cli import main as dagster_main

        dagster_main()
    else:
        from twist_dr.__main__ import main as twist_dr_main

        sys.exit(twist_dr_main(arguments))


if __name__ == "__main__":
    main()
