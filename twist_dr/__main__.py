"""The command ``twist-dr``: the terminal, and behind it the orchestrator, which is loaded by what is launched there and by nothing else."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from twist_dr.cli import main as run
from twist_dr.cli.launching import Launched
from twist_dr.system.events import Listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    return run(arguments, _launch)


def _launch(job: str, told: Mapping[str, Any], watching: Listener) -> Launched:
    # Not above: importing Dagster takes half a second, a sixth more where garbage is looked for meanwhile. ``launch`` lets it be again.
    gc.disable()
    try:
        from twist_dr.orchestrator.launch import launch

        return launch(job, told, watching)
    finally:
        gc.enable()  # also where there was no such job to launch


if __name__ == "__main__":
    sys.exit(main())
