"""How long each file of tests takes: ``--record-durations`` writes it down, every run prints it, and the order of files comes from it.

The longest come first: what begins last keeps everybody waiting at the end, so that should be short.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parent
RECORD = ROOT / "durations.json"
#: Files that are printed: those that a bound for all of them would begin with.
_PRINTED = 15


def recorded() -> dict[str, float]:
    """Seconds by file, below this folder."""
    return {str(name): float(seconds) for name, seconds in json.loads(RECORD.read_text()).items()}


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by how long their files took; one that is not recorded counts as any other."""
    known = recorded()
    usual = mean(known.values()) if known else 0.0
    items.sort(key=lambda item: -known.get(_name(item.path), usual))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


class Durations:
    """A plugin of the process that hears of all tests, whichever worker ran them."""

    def __init__(self, config: pytest.Config) -> None:
        self._record = bool(config.getoption("--record-durations"))
        if self._record and (
            config.option.keyword or config.option.markexpr or any("::" in each for each in config.args)
        ):
            raise pytest.UsageError("--record-durations records whole files: leave out -k, -m and names of tests.")
        self._root = config.rootpath
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[_name(self._root / report.nodeid.partition("::")[0])] += report.duration  # type: ignore[assignment]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self._seconds) > 1:
            terminalreporter.section(f"slowest files, of {sum(self._seconds.values()):.0f} s in all")
            for name, seconds in self._seconds.most_common(_PRINTED):
                terminalreporter.line(f"{seconds:7.1f} s  {name}")

    def pytest_sessionfinish(self) -> None:
        if self._record:
            known = {name: seconds for name, seconds in recorded().items() if (ROOT / name).is_file()}
            known |= {name: round(seconds, 1) for name, seconds in self._seconds.items()}
            lines = sorted(known.items(), key=lambda each: (-each[1], each[0]))
            RECORD.write_text(json.dumps(dict(lines), indent=1) + "\n")
