"""FFmpeg's frames, in any layout and sample format, to 16 kHz PCM."""

import av
import numpy as np

from perch.audio.decode import to_pcm16
from perch.audio.resample import Quality, Resampler, Signal
from perch.core.audio import RATE
from perch.errors import BadAudio

_MOST_CHANNELS = 8  # PyAV reads beyond the planes of frames with more, and crashes
_MOST_CHANGES = 1_000  # each makes a new resampler, which is dear beside the few bytes that ask for it
_RATES = range(4_000, 384_001)  # a header that claims 1 Hz would turn a kilobyte into a gigabyte


class FrameConverter:
    """Converts the frames of one stream to 16 kHz PCM, keeping state over frames.

    A stream may change its rate and layout on the way, as damaged and joined recordings do.

    Args:
        quality: How to convert the sample rate.
        channels: How many channels there must be, to come out interleaved; None mixes whatever there are.
    """

    def __init__(self, quality: Quality, channels: int | None = None) -> None:
        self._quality = quality
        self._channels = channels
        self._shape: tuple[int, str, str] | None = None
        self._changes = 0
        self._floats = av.AudioResampler(format="flt")
        self._resampler: Resampler | None = None

    def convert(self, frame: av.AudioFrame) -> bytes:
        """The PCM that ``frame`` adds.

        Raises:
            BadAudio: It has too many or other channels, a rate no recording has, or yet another of either.
        """
        before = self._adapt(frame)
        frame.pts = None  # gaps in the timestamps would be refused by the resampler
        return before + b"".join(self._pcm(floats) for floats in self._floats.resample(frame))

    def flush(self) -> bytes:
        """The end of the stream."""
        return b"" if self._resampler is None else to_pcm16(self._resampler.flush())

    def _adapt(self, frame: av.AudioFrame) -> bytes:
        """Prepare for frames like this one; return the end of those before it."""
        shape = (frame.sample_rate, frame.format.name, frame.layout.name)
        if shape == self._shape:
            return b""
        _check(frame)
        require_channels(frame.layout.nb_channels, self._channels)
        tail = self.flush()
        self._shape = shape
        self._changes += 1
        if self._changes > _MOST_CHANGES:
            raise BadAudio("The audio is damaged: it changes its rate or its channels all the time.")
        self._floats = av.AudioResampler(format="flt")
        rate = frame.sample_rate
        kept = self._channels or 1
        self._resampler = None if rate == RATE else Resampler(rate, channels=kept, quality=self._quality)
        return tail

    def _pcm(self, floats: av.AudioFrame) -> bytes:
        # The mean, not FFmpeg's own mixdown: that adds 3 dB to what both channels share, and clips.
        channels = floats.layout.nb_channels
        signal: Signal = floats.to_ndarray().reshape(-1, channels).astype(np.float32, copy=False)
        if self._channels is None or channels == 1:
            signal = signal.mean(axis=1, dtype=np.float32)
        return to_pcm16(signal if self._resampler is None else self._resampler.resample(signal))


def require_channels(found: int, wanted: int | None) -> None:
    """Refuse, with ``BadAudio``, another number of channels than was declared."""
    if wanted == 1 and found != 1:
        raise BadAudio(
            f"Streams are mono here, and this one has {found} channels. "
            "Send one stream per channel, or mix them down first."
        )
    if wanted is not None and found != wanted:
        raise BadAudio(f"The audio has {found} channels, and {wanted} were declared.")


def _check(frame: av.AudioFrame) -> None:
    if frame.layout.nb_channels > _MOST_CHANNELS:
        raise BadAudio(f"The audio has {frame.layout.nb_channels} channels; send up to {_MOST_CHANNELS}.")
    if frame.sample_rate not in _RATES:
        raise BadAudio(f"The audio claims {frame.sample_rate} samples per second; that cannot be.")
