"""ITU-T G.711: the two 8-bit logarithmic codes of telephony, as tables of 256 samples."""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]


def _mulaw_sample(code: int) -> int:
    inverted = ~code & 0xFF
    magnitude = (((inverted & 0x0F) << 3) + 0x84 << (inverted >> 4 & 0x07)) - 0x84
    return -magnitude if inverted & 0x80 else magnitude


def _alaw_sample(code: int) -> int:
    toggled = code ^ 0x55
    exponent = toggled >> 4 & 0x07
    mantissa = (toggled & 0x0F) << 4
    magnitude = mantissa + 0x108 << exponent - 1 if exponent else mantissa + 0x08
    return magnitude if toggled & 0x80 else -magnitude


MULAW: Samples = np.array([_mulaw_sample(code) for code in range(256)], dtype=np.int16)
ALAW: Samples = np.array([_alaw_sample(code) for code in range(256)], dtype=np.int16)


def expand(codes: npt.NDArray[np.uint8], table: Samples) -> Samples:
    """The linear samples of ``codes`` by ``table`` (``MULAW`` or ``ALAW``)."""
    return table[codes]


def compress(samples: Samples, table: Samples) -> npt.NDArray[np.uint8]:
    """The code of ``table`` nearest to each sample."""
    order = np.argsort(table, kind="stable")
    levels = table[order].astype(np.int32)
    boundaries = (levels[:-1] + levels[1:]) / 2
    return order[np.searchsorted(boundaries, samples)].astype(np.uint8)
