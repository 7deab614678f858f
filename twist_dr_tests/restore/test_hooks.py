"""How the application is told of a cutover, and asked afterwards: nothing that goes wrong there stops in the middle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from twist_dr.errors import CutoverFailed
from twist_dr.postgres.cluster import Cluster
from twist_dr.restore.hooks import Health, Maintenance

#: Nobody listens there.
NOWHERE = Cluster("postgresql://nobody@127.0.0.1:1/nothing")


@pytest.fixture
def babbling() -> Iterator[str]:
    """The URL of something that answers, and not in HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def babble() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client:
                        client.recv(1000)
                        client.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=babble, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        listening.shutdown(socket.SHUT_RDWR)


def test_what_speaks_no_http_is_a_complaint_and_not_a_crash(babbling: str) -> None:
    complaint = Health(url=babbling, timeout_seconds=0.1).complaint()
    assert complaint is not None and "does not answer" in complaint


def test_a_health_check_that_hangs_is_ended() -> None:
    complaint = Health(command=["sleep", "60"], timeout_seconds=0.3).complaint()
    assert complaint is not None and "was not done after" in complaint


def test_maintenance_ends_in_every_way_though_the_server_does_not_answer(tmp_path: Path) -> None:
    flag, told = tmp_path / "flag", tmp_path / "told"
    flag.touch()
    maintenance = Maintenance(file=flag, command_on=["true"], command_off=["touch", str(told)], sql_off="SELECT 1")
    with pytest.raises(CutoverFailed, match="could not be switched off: Cannot connect"):
        maintenance.off(NOWHERE)
    assert told.exists() and not flag.exists()


def test_maintenance_that_cannot_be_told_to_the_database_is_a_failed_cutover(tmp_path: Path) -> None:
    with pytest.raises(CutoverFailed, match="could not be switched on: Cannot connect"):
        Maintenance(sql_on="SELECT 1").on(NOWHERE)
