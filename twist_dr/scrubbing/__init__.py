"""The scrub: what every storage target holds is read again in a rotation, and what went bad is mended from a good copy."""

from twist_dr.scrubbing.found import ScrubFinding, ScrubOrder, ScrubResult, raise_failures
from twist_dr.scrubbing.scrub import SCRUB_MARK, Scrub
from twist_dr.scrubbing.trace import REPAIRS_MARK, Repair, repairs

__all__ = [
    "REPAIRS_MARK",
    "SCRUB_MARK",
    "Repair",
    "Scrub",
    "ScrubFinding",
    "ScrubOrder",
    "ScrubResult",
    "raise_failures",
    "repairs",
]
