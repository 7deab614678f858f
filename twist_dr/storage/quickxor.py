"""The hash that Microsoft 365 computes over what it stores: QuickXorHash (learn.microsoft.com, "Code Snippets: QuickXorHash Algorithm").

Byte ``i`` is XORed into a register of 160 bits at bit ``11 * i``, circularly; at last, the length into its last 64 bits. It finds accidents, and no
forgeries: what is read back is compared by SHA-256, as everywhere.
"""

from __future__ import annotations

_BITS, _STEP = 160, 11
#: Bytes that far apart fall on the same bits, because 11 and 160 have no common divisor.
_PERIOD = _BITS
_MASK = (1 << _BITS) - 1


class QuickXor:
    """Over bytes given in pieces. Whole pieces are XORed as one large number, which Python does at hundreds of MiB a second; their bytes fall into place at the end."""

    def __init__(self) -> None:
        self._sum = 0
        self._size = 0

    def update(self, data: bytes) -> None:
        self._sum ^= int.from_bytes(data, "little") << 8 * (self._size % _PERIOD)
        self._size += len(data)

    def hexdigest(self) -> str:
        """As rclone writes it; Microsoft writes the same 20 bytes in base64."""
        rest, period = self._sum.to_bytes((self._sum.bit_length() + 7) // 8, "little"), 0
        for begin in range(0, len(rest), _PERIOD):
            period ^= int.from_bytes(rest[begin : begin + _PERIOD], "little")
        register = 0
        for place, byte in enumerate(period.to_bytes(_PERIOD, "little")):
            moved = byte << (_STEP * place % _BITS)
            register ^= (moved & _MASK) ^ (moved >> _BITS)
        register ^= (self._size & (1 << 64) - 1) << (_BITS - 64)
        return register.to_bytes(_BITS // 8, "little").hex()
