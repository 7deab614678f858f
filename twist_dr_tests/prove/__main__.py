"""See the package. What the README's walk makes lies in ``.prove``, but for the server's data when root starts it; what is installed there stays for the next time."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from twist_dr_tests.prove.shell import CommandFailed, Shell
from twist_dr_tests.prove.site import wagtail_site
from twist_dr_tests.prove.walk import ROOT, Walk

PROVE = ROOT / ".prove"
_HERE = ROOT / "twist_dr_tests" / "prove"


def readme(rounds: int) -> bool:
    """Whether the README holds, word for word, on Wagtail with its demo site."""
    for name in ("home", "opt", "site"):
        shutil.rmtree(PROVE / name, ignore_errors=True)
    (PROVE / "home").mkdir(parents=True, mode=0o700)
    # Where packages come from is the machine's to say.
    passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    with wagtail_site(PROVE) as site, Shell(PROVE / "home", ROOT, passed) as shell:
        try:
            Walk(PROVE, site, shell).whole()
        except (CommandFailed, AssertionError) as error:
            print(f"\nThe README does not hold: {error}", file=sys.stderr)
            return False
    return True


def sweeps(rounds: int) -> bool:
    """Whether every test that sweeps over instants passes with all of them, and with random ones in so many rounds."""
    os.environ["TWIST_DR_TESTS_SWEEP"] = str(rounds)
    return _pytest("-m", "sweep", "--timeout", "1500", str(ROOT / "twist_dr_tests"), str(_HERE / "sweeps.py"))


def week(rounds: int) -> bool:
    """Whether the week goes as it should under the real daemon."""
    return _pytest(str(_HERE / "week.py"))


def _pytest(*arguments: str) -> bool:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT).returncode == 0


#: In this order: the quickest first.
PARTS: dict[str, Callable[[int], bool]] = {"readme": readme, "week": week, "sweeps": sweeps}


def main() -> int:
    """0 when all parts hold, else 1."""
    parser = argparse.ArgumentParser(prog="python -m twist_dr_tests.prove", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--rounds", type=int, default=3, help="of random instants in the sweeps (3)")
    options = parser.parse_args()
    held = True
    for name in [options.only] if options.only else PARTS:
        begun = time.monotonic()
        ok = PARTS[name](options.rounds)
        print(f"\n{name}: {'holds' if ok else 'DOES NOT HOLD'}, in {time.monotonic() - begun:.0f} s", flush=True)
        held = held and ok
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
