"""The web page's server, and launches through it: what its buttons do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twist_dr_tests.servers import free_port
from twist_dr_tests.site import Site

_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_RUN = """
query($id: ID!) {
  runOrError(runId: $id) { ... on Run { status } }
  logsForRun(runId: $id) { ... on EventConnection { events {
    __typename
    ... on ExecutionStepFailureEvent { error { message } failureMetadata { metadataEntries { label } } }
    ... on ObservationEvent { metadataEntries { label } }
    ... on ExecutionStepOutputEvent { metadataEntries { label } }
  } } }
}
"""


class Page:
    """A running web page."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures: dict[str, list[str]] = {}

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """What the page itself asks its server."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            document = json.load(answer)
        assert "errors" not in document, document
        data: dict[str, Any] = document["data"]
        return data

    def launch(self, job: str, ops: Mapping[str, Any]) -> str:
        """Launch a job; returns the run's id."""
        selector = {
            "repositoryLocationName": "twist_dr.definitions",
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        answer = self.ask(_LAUNCH, params={"selector": selector, "runConfigData": {"ops": ops}})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def has_ended(self, run: str) -> bool:
        return self.ask(_RUN, id=run)["runOrError"]["status"] in _ENDED

    def ended(self, run: str) -> tuple[str, set[str]]:
        """How a run ended, and the labels of the metadata on its page; what it failed with is in ``failures``."""
        deadline = time.monotonic() + 120
        while True:
            found = self.ask(_RUN, id=run)
            status = found["runOrError"]["status"]
            if status in _ENDED:
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        events = found["logsForRun"]["events"]
        self.failures[run] = [event["error"]["message"] for event in events if event.get("error")]
        entries = [entry for event in events for entry in event.get("metadataEntries") or []]
        entries += [
            entry for event in events for entry in (event.get("failureMetadata") or {}).get("metadataEntries", [])
        ]
        return status, {entry["label"] for entry in entries}


@contextmanager
def page(site: Site) -> Iterator[Page]:
    """Serve the page of a site while the block runs."""
    port = free_port()
    program = str(Path(sys.executable).with_name("dagster-webserver"))
    process = subprocess.Popen(
        [program, "-m", "twist_dr.definitions", "-h", "127.0.0.1", "-p", str(port)],
        env={**os.environ, **site.environment}, cwd=site.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        yield Page(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
