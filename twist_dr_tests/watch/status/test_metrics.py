"""Metrics as Prometheus reads them: printed, in a file, over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from twist_dr.watch.status.metrics import write_textfile
from twist_dr_tests.site import TWIST_DR
from twist_dr_tests.watch.status.conftest import Story


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and the labels other than the application's."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("application") == "erp", sample
            assert (sample.name, *labels.values()) not in found
            found[(sample.name, *labels.values())] = sample.value
    return found


def test_printed_metrics_tell_what_the_status_tells(story: Story) -> None:
    story.backup(2, copies={"office": "checked", "archive": "corrupt"})
    story.attempt()
    story.attempt("backup_full", "failed", age=0.5, error="no space")
    told = samples(story.site.cli("metrics").expect(0).text)
    status = story.status()
    assert told["twist_dr_up",] == 1
    assert told["twist_dr_state",] == status.exit_status == 1
    assert told["twist_dr_health_score",] == status.score
    assert told["twist_dr_last_backup_timestamp_seconds", "full"] == pytest.approx(story.now.timestamp() - 7200, abs=1)
    assert told["twist_dr_last_backup_size_bytes", "full"] == 100
    assert told["twist_dr_last_backup_duration_seconds", "full"] == 180
    assert told["twist_dr_recovery_point_age_seconds",] == pytest.approx(7200, abs=60)
    assert told["twist_dr_recovery_point_objective_seconds",] == 26 * 3600
    assert told["twist_dr_target_corrupt_copies", "archive"] == 1
    assert told["twist_dr_target_used_bytes", "office"] == 1000
    assert ("twist_dr_target_newest_copy_timestamp_seconds", "archive") not in told
    assert sum(value for name, value in told.items() if name[0] == "twist_dr_alerts") == len(status.alerts) > 0
    assert told["twist_dr_attempts", "backup_full", "failed"] == 1


def test_without_a_catalog_the_metrics_say_so(story: Story) -> None:
    (story.site.folder / "work" / "catalog.db").unlink(missing_ok=True)
    assert samples(story.site.cli("metrics").expect(0).text) == {("twist_dr_up",): 0, ("twist_dr_state",): 2}


def test_the_textfile_is_replaced_whole_and_others_may_read_it(story: Story, tmp_path: Path) -> None:
    story.backup(2)
    path = tmp_path / "collector" / "twist_dr.prom"
    path.parent.mkdir()
    story.site.set(metrics={"textfile": str(path)})
    story.site.cli("metrics", "--textfile").expect(0)
    first = path.stat()
    assert samples(path.read_text())["twist_dr_state",] == 0
    assert first.st_mode & 0o777 == 0o644
    write_textfile(story.site.app(catalog=story.catalog))
    assert path.stat().st_ino != first.st_ino
    assert [each.name for each in path.parent.iterdir()] == ["twist_dr.prom"]
    elsewhere = tmp_path / "other.prom"
    story.site.cli("metrics", "--textfile", str(elsewhere)).expect(0)
    assert samples(elsewhere.read_text())["twist_dr_up",] == 1


def test_a_textfile_that_is_nowhere_set_is_named(story: Story) -> None:
    assert "metrics.textfile" in story.site.cli("metrics", "--textfile").expect(1).text


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_served_metrics_are_reckoned_at_each_request_and_the_server_ends_cleanly(
    story: Story, stop: signal.Signals
) -> None:
    port = free_port()
    server = subprocess.Popen(
        [*TWIST_DR, "metrics", "--listen", str(port)], env={**os.environ, **story.site.environment}, cwd=story.site.folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"serving http://127.0.0.1:{port}/metrics\n"
        assert samples(fetched(port))["twist_dr_state",] == 2
        story.backup(1)
        assert samples(fetched(port))["twist_dr_state",] == 0
        server.send_signal(stop)
        text, _ = server.communicate(timeout=15)
        assert (server.returncode, text) == (0, "")
    finally:
        server.kill()
        server.wait()


def test_an_address_that_is_taken_or_is_none_is_named(story: Story) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert (
            "cannot be served"
            in story.site.cli("metrics", "--listen", f"127.0.0.1:{taken.getsockname()[1]}").expect(1).text
        )
    for wrong in ("many", "0", "70000", "host:"):
        assert wrong in story.site.cli("metrics", "--listen", wrong).expect(2).text


def fetched(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
