"""Audio formats, and the only arithmetic between samples, bytes and time.

Inside Perch a position in a stream is a count of samples at ``RATE``, from the first sample of the
session. Seconds and milliseconds exist only where a wire format wants them.
"""

from dataclasses import dataclass
from enum import StrEnum

RATE = 16_000
"""Samples per second of all audio inside Perch: 16-bit little-endian mono PCM."""

BYTES_PER_SAMPLE = 2

MIN_RATE = 8_000
MAX_RATE = 48_000
MAX_CHANNELS = 8


class Encoding(StrEnum):
    """How a client's samples are written."""

    PCM16 = "pcm16"
    FLOAT32 = "float32"
    MULAW = "mulaw"
    ALAW = "alaw"
    OPUS = "opus"
    """One Opus packet per frame, without a container (RFC 6716)."""
    CONTAINER = "container"
    """A file as it grows: WAV, Ogg, WebM, FLAC, MP3; found out from its first bytes."""

    @property
    def is_samples(self) -> bool:
        """True where bytes are samples, so that a position in one is a position in the other."""
        return self in _WIDTHS

    @property
    def width(self) -> int:
        """Bytes per sample, where ``is_samples``."""
        return _WIDTHS[self]


_WIDTHS = {Encoding.PCM16: 2, Encoding.FLOAT32: 4, Encoding.MULAW: 1, Encoding.ALAW: 1}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What a client sends: encoding, samples per second (8,000 to 48,000) and channels.

    Each channel is recognised by itself, unless ``mix`` says to make one of them first. A container says
    itself what its rate is; its channels are mixed unless ``channels`` says how many there are.
    """

    encoding: Encoding = Encoding.PCM16
    sample_rate: int = RATE
    channels: int = 1
    mix: bool = False

    @property
    def is_native(self) -> bool:
        """True when the bytes are what the inside of Perch uses, so nothing needs converting."""
        return self.encoding is Encoding.PCM16 and self.sample_rate == RATE and self.channels == 1

    @property
    def streams(self) -> int:
        """Channels that are recognised by themselves."""
        return 1 if self.mix else self.channels

    @property
    def bytes_per_second(self) -> int:
        return self.encoding.width * self.channels * self.sample_rate


def samples_to_seconds(samples: int) -> float:
    return samples / RATE


def seconds_to_samples(seconds: float) -> int:
    return round(seconds * RATE)


def samples_to_ms(samples: int) -> int:
    return round(samples * 1000 / RATE)


def ms_to_samples(milliseconds: float) -> int:
    return round(milliseconds * RATE / 1000)


def bytes_to_samples(count: int) -> int:
    """Samples in ``count`` bytes of 16-bit mono PCM."""
    return count // BYTES_PER_SAMPLE


def samples_to_bytes(samples: int) -> int:
    return samples * BYTES_PER_SAMPLE
