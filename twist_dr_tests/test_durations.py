"""The order of the tests' files comes from how long they took."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twist_dr_tests import durations


def test_the_longest_files_come_first_and_one_that_is_not_recorded_comes_where_most_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "durations.json"
    record.write_text(json.dumps({"test_short.py": 1, "jobs/test_long.py": 200, "test_other.py": 30}))
    monkeypatch.setattr(durations, "RECORD", record)
    names = ("test_short.py", "test_new.py", "test_other.py", "jobs/test_long.py", "test_new.py")
    items: list[Any] = [SimpleNamespace(path=durations.ROOT / name, at=at) for at, name in enumerate(names)]
    durations.longest_first(items)
    # Tests of one file stay in their order.
    assert [each.at for each in items] == [3, 1, 4, 2, 0]
