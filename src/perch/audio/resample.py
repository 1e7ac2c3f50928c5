"""Sample rate conversion to ``core.audio.RATE`` which carries its state over chunks."""

from enum import StrEnum

import numpy as np
import numpy.typing as npt
import soxr

from perch.core.audio import RATE

Signal = npt.NDArray[np.float32]


class Quality(StrEnum):
    """SoX resampler recipes, by what they cost in delay before the first output.

    The quicker ``QQ`` is not offered: it does not filter, so speech from 8 kHz comes out with
    images at -10 dB and speech from 48 kHz folds everything above 8 kHz into the band.
    """

    LIVE = "LQ"
    """40 ms from 48 kHz and 80 ms from 8 kHz; flat to three quarters of the narrower band."""
    FILE = "HQ"
    """40 to 120 ms; flat to nine tenths of the narrower band."""


class Resampler:
    """Converts one signal, fed in chunks of any length, from ``in_rate`` to 16 kHz.

    A mono signal is an array of samples, one of several channels of shape ``(samples, channels)``. The
    output does not depend on how the input was cut, and is as long as the input to the sample once
    ``flush`` was called.
    """

    def __init__(self, in_rate: int, *, channels: int = 1, quality: Quality = Quality.LIVE) -> None:
        self._stream = soxr.ResampleStream(in_rate, RATE, channels, dtype="float32", quality=quality.value)
        self._nothing = np.zeros(0 if channels == 1 else (0, channels), dtype=np.float32)

    def resample(self, signal: Signal) -> Signal:
        """What can be said of the signal so far; the rest follows with later calls."""
        if signal.size == 0:
            return signal
        resampled: Signal = self._stream.resample_chunk(np.ascontiguousarray(signal, dtype=np.float32))
        return resampled

    def flush(self) -> Signal:
        """The end of the signal. The next call begins another signal."""
        tail: Signal = self._stream.resample_chunk(self._nothing, last=True)
        self._stream.clear()
        return tail
