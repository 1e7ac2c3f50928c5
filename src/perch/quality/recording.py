"""The samples of a clip, as they are sent."""

import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from perch.audio import g711
from perch.audio.decode import to_pcm16
from perch.audio.files import decode_file
from perch.core.audio import RATE
from perch.errors import BadAudio
from perch.quality.manifest import Clip

FRAMES_PER_SECOND = 10

Samples = npt.NDArray[np.int16]

_WINDOW_S = 0.02
_AUDIBLE = 0.06  # of the loud parts of a recording: about -24 dB
_SILENT_RMS = 60.0  # of 32,768; a recording that is nowhere louder holds no speech


@dataclass(frozen=True, slots=True)
class Recording:
    """Encoded samples, where speech begins and ends in them, and what to call them in the start message."""

    data: bytes
    sample_rate: int
    encoding: str
    speech_start_s: float
    speech_end_s: float

    @property
    def duration_s(self) -> float:
        return len(self.data) / (self.sample_rate * self._width)

    def frames(self) -> Iterator[bytes]:
        """Pieces of 100 ms; the last may be shorter."""
        size = self.sample_rate // FRAMES_PER_SECOND * self._width
        return (self.data[at : at + size] for at in range(0, len(self.data), size))

    @property
    def _width(self) -> int:
        return 1 if self.encoding == "mulaw" else 2


def record(clip: Clip) -> Recording:
    """Read, join, resample and encode what ``clip`` says.

    Raises:
        BadAudio: A file is no audio.
        OSError: A file cannot be read.
    """
    samples, rate = _joined(clip)
    samples, rate = _resampled(samples, rate, clip.sample_rate or rate)
    found = speech_bounds(samples, rate)
    return Recording(
        data=_encoded(samples, clip.encoding),
        sample_rate=rate,
        encoding=clip.encoding,
        speech_start_s=found[0] if clip.speech_start_s is None else clip.speech_start_s,
        speech_end_s=found[1] if clip.speech_end_s is None else clip.speech_end_s,
    )


def speech_bounds(samples: Samples, rate: int) -> tuple[float, float]:
    """Seconds at which the first audible window begins and the last one ends, by loudness.

    Right to a few tens of milliseconds where the voice is well above everything else. A recording with
    noise or music needs the figures of the voice alone, in its manifest. A silent one ends where it ends.
    """
    size = max(1, round(rate * _WINDOW_S))
    whole = len(samples) // size
    windows = samples[: whole * size].reshape(whole, size).astype(np.float64)
    loudness = np.sqrt(np.mean(windows**2, axis=1)) if whole else np.zeros(0)
    loud = float(np.percentile(loudness, 95)) if whole else 0.0
    audible = np.flatnonzero(loudness > max(_AUDIBLE * loud, _SILENT_RMS))
    if not len(audible):
        return 0.0, len(samples) / rate
    return audible[0] * size / rate, (audible[-1] + 1) * size / rate


def _joined(clip: Clip) -> tuple[Samples, int]:
    if len(clip.files) == 1:
        return _as_it_is(clip.files[0])
    gap = np.zeros(round(clip.gap_s * RATE), dtype=np.int16)
    pieces = [piece for file in clip.files for piece in (_decoded(file), gap)]
    return np.concatenate(pieces[:-1]), RATE


def _as_it_is(path: Path) -> tuple[Samples, int]:
    """A mono 16-bit WAV at its own rate; anything else is decoded, to 16 kHz."""
    try:
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth()) == (1, 2):
                data = file.readframes(file.getnframes())
                return np.frombuffer(data, dtype="<i2"), file.getframerate()
    except (wave.Error, EOFError):
        pass  # another container: FFmpeg says what is wrong with it, if anything is
    return _decoded(path), RATE


def _decoded(path: Path) -> Samples:
    try:
        return np.frombuffer(b"".join(decode_file(path)), dtype="<i2")
    except BadAudio as error:
        raise BadAudio(f"{path}: {error.message}") from error


def _resampled(samples: Samples, rate: int, wanted: int) -> tuple[Samples, int]:
    if rate == wanted:
        return samples, rate
    import soxr  # noqa: PLC0415 most clips need none

    converted = soxr.resample(samples.astype(np.float32) / 32_768, rate, wanted, "HQ")
    return np.frombuffer(to_pcm16(converted), dtype="<i2"), wanted


def _encoded(samples: Samples, encoding: str) -> bytes:
    if encoding == "mulaw":
        return g711.compress(samples, g711.MULAW).tobytes()
    return samples.astype("<i2").tobytes()


def frame_of(seconds: float) -> int:
    """The number, from 0, of the frame that holds the audio just before ``seconds``."""
    return max(0, math.ceil(round(seconds * FRAMES_PER_SECOND, 3)) - 1)
