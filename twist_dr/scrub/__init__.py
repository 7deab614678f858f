"""The scrub: what every storage target holds is read again in a rotation, and what went bad is mended from a good copy."""

from twist_dr.scrub.found import ScrubFinding, ScrubOrder, ScrubResult, raise_failures
from twist_dr.scrub.scrub import Scrub
from twist_dr.scrub.trace import repairs

__all__ = [
    "Scrub",
    "ScrubFinding",
    "ScrubOrder",
    "ScrubResult",
    "raise_failures",
    "repairs",
]
