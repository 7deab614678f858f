"""What must not be cut in half is done before an interrupt takes effect."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from twist_dr.system.interrupts import uninterrupted


class Stopped(BaseException):
    pass


@pytest.fixture(autouse=True)
def raising() -> Iterator[None]:
    """SIGTERM raises, as it does in a run of the orchestrator."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def test_an_interrupt_waits_for_the_end_of_the_block_and_then_takes_effect() -> None:
    done = []
    with pytest.raises(Stopped):
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append("whole")
        done.append("not reached")
    assert done == ["whole"]


def test_a_block_that_fails_keeps_its_error_beside_the_interrupt() -> None:
    with pytest.raises(Stopped) as caught, uninterrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("of the block")
    assert isinstance(caught.value.__context__, ValueError)


def test_without_an_interrupt_nothing_changes_afterwards() -> None:
    with uninterrupted():
        pass
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_in_another_thread_it_lets_signals_be() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
