"""FFmpeg's frames, in any layout and sample format, to 16 kHz mono PCM."""

import av
import numpy as np

from perch.audio.decode import to_pcm16
from perch.audio.resample import Quality, Resampler
from perch.core.audio import RATE
from perch.errors import BadAudio


class FrameConverter:
    """Mixes the frames of one stream down to mono and to 16 kHz, keeping state over frames."""

    def __init__(self, quality: Quality) -> None:
        self._quality = quality
        self._floats = av.AudioResampler(format="fltp")
        self._rate = 0
        self._resampler: Resampler | None = None

    def convert(self, frame: av.AudioFrame) -> bytes:
        """The PCM that ``frame`` adds.

        Raises:
            BadAudio: The stream changed its sample rate on the way.
        """
        if not self._rate:
            self._begin(frame.sample_rate)
        if frame.sample_rate != self._rate:
            raise BadAudio(f"The audio changes from {self._rate} to {frame.sample_rate} Hz on the way.")
        frame.pts = None  # gaps in the timestamps would be refused by the resampler
        return b"".join(self._pcm(planes) for planes in self._floats.resample(frame))

    def flush(self) -> bytes:
        """The end of the stream."""
        return b"" if self._resampler is None else to_pcm16(self._resampler.flush())

    def _begin(self, rate: int) -> None:
        self._rate = rate
        if rate != RATE:
            self._resampler = Resampler(rate, quality=self._quality)

    def _pcm(self, planes: av.AudioFrame) -> bytes:
        # The mean, not FFmpeg's own mixdown: that adds 3 dB to what both channels share, and clips.
        signal = planes.to_ndarray().mean(axis=0, dtype=np.float32)
        return to_pcm16(signal if self._resampler is None else self._resampler.resample(signal))
