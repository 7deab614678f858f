"""``python -m twist_dr_tests.fuzz``: each reader in a child of its own, which is killed when it takes too much memory or time.

``--examples N``: that many for each reader, the same ones each time. ``--hours H``: new ones, reader after reader, until then; what
fails is shrunk, told, and tried first the next time (.hypothesis).
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from twist_dr.errors import TwistDRError
from twist_dr_tests.fuzz.readers import READERS, Reader

#: What one reader may take beside what the child has when it begins: the widest window of zstd, and some.
MOST_BYTES = 400 << 20
#: For one input; a busy machine takes its time.
MOST_SECONDS = 60
_ROUND = 2000


def run(name: str, examples: int, *, anew: bool) -> bool:
    """Whether a reader stood it all, tried in a child. What it did not is told."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _limit()
            _try(READERS[name], examples, anew=anew)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        ended = os.strerror if os.WIFEXITED(status) else signal.strsignal
        said = "failed" if os.WIFEXITED(status) else f"was ended by a signal ({ended(os.WTERMSIG(status))})"
        print(f"{name}: {said}", file=sys.stderr, flush=True)
    return status == 0


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, now + MOST_BYTES))


def _try(reader: Reader, examples: int, *, anew: bool) -> None:
    for good in reader.good:
        reader.read(good)

    @settings(
        max_examples=examples, deadline=None, derandomize=not anew, suppress_health_check=list(HealthCheck),
        phases=tuple(Phase) if anew else (Phase.generate, Phase.shrink),
        **({} if anew else {"database": None}),  # type: ignore[arg-type]
    )  # fmt: skip
    @given(reader.strategy)
    def stands(data: bytes) -> None:
        _read(reader, data)

    stands()


def _read(reader: Reader, data: bytes) -> None:
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
    try:
        reader.read(data)
    except (TwistDRError, *reader.refuses):
        pass
    finally:
        faulthandler.cancel_dump_traceback_later()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m twist_dr_tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--hours", type=float)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"all, or of these: {', '.join(READERS)}")
    options = parser.parse_args()
    names = options.readers or list(READERS)
    failed = set()
    if options.hours is None:
        failed = {name for name in names if not run(name, options.examples, anew=False)}
    else:
        end = time.monotonic() + options.hours * 3600
        while time.monotonic() < end:
            for name in (each for each in names if time.monotonic() < end):
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                if not run(name, _ROUND, anew=True):
                    failed.add(name)
    if failed:
        print(f"did not stand it: {', '.join(sorted(failed))}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
