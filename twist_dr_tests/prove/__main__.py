"""See the package. Everything lies in ``.prove``, but for the server's data when root starts it; what is installed there stays for the next time."""

from __future__ import annotations

import os
import shutil
import sys
import time

from twist_dr_tests.prove.shell import CommandFailed, Shell
from twist_dr_tests.prove.site import wagtail_site
from twist_dr_tests.prove.walk import ROOT, Walk

PROVE = ROOT / ".prove"


def main() -> int:
    """0 when the README holds, 1 with what does not."""
    begun = time.monotonic()
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
            return 1
    print(
        f"\nThe README holds: every block and every command, on Wagtail with its demo site, in {time.monotonic() - begun:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
