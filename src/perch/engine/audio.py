"""Audio as Riva clients send it: declared, half declared or not at all, and cut anywhere.

NVIDIA's own scripts send a WAV file from its first byte on, declare no encoding and a rate of 0. So the
first bytes are looked at whatever is declared, and a known container is believed rather than the
declaration.
"""

import numpy as np

from perch.audio.containers import ContainerDecoder
from perch.audio.decode import StreamDecoder, to_pcm16
from perch.audio.resample import Quality, Resampler
from perch.audio.sniff import HEAD, sniff
from perch.core.audio import MAX_RATE, RATE, AudioFormat, Encoding
from perch.errors import BadAudio, BadConfig
from perch.riva.convert import DeclaredAudio

LOWEST_RATE = 8_000
HIGHEST_RATE = 96_000

_RAW = {
    "unspecified": Encoding.PCM16,
    "linear_pcm": Encoding.PCM16,
    "mulaw": Encoding.MULAW,
    "alaw": Encoding.ALAW,
}
_CONTAINERS = {"flac", "oggopus"}


class RivaDecoder:
    """Turns one stream's messages into 16 kHz mono PCM.

    A message may end inside a sample: nothing is lost between gRPC messages, so the rest of the sample
    is the beginning of the next.
    """

    def __init__(self, declared: DeclaredAudio) -> None:
        """Prepare for what a client declared.

        Raises:
            BadConfig: It is several channels, an impossible rate or an encoding that is not served.
        """
        _check(declared)
        self._declared = declared
        self._head = b""
        self._decoder: ContainerDecoder | _RawDecoder | None = None

    def decode(self, payload: bytes) -> bytes:
        """The PCM that ``payload`` adds; it may be empty.

        Raises:
            BadAudio: The bytes are damaged, of several channels, or not in a known format.
        """
        if self._decoder is not None:
            return self._decoder.feed(payload)
        self._head += payload
        return self._begin() if len(self._head) >= HEAD else b""

    def flush(self) -> bytes:
        """What is left at the end of the stream."""
        first = self._begin() if self._decoder is None else b""
        return first if self._decoder is None else first + self._decoder.flush()

    def _begin(self) -> bytes:
        head, self._head = self._head, b""
        if not head:
            return b""
        if sniff(head[:HEAD]) is not None:
            self._decoder = ContainerDecoder()
        elif self._declared.encoding in _CONTAINERS:
            raise BadAudio(f"The audio was declared as {self._declared.encoding} and is not FLAC or Ogg.")
        else:
            self._decoder = _RawDecoder(_RAW[self._declared.encoding], self._declared.sample_rate or RATE)
        return self._decoder.feed(head)


class _RawDecoder:
    """Headerless samples at any rate Riva takes; ``StreamDecoder`` alone stops at 48 kHz."""

    def __init__(self, encoding: Encoding, rate: int) -> None:
        is_high = rate > MAX_RATE
        self._width = encoding.width
        self._decoder = StreamDecoder(AudioFormat(encoding, RATE if is_high else rate))
        self._resampler = Resampler(rate, quality=Quality.LIVE) if is_high else None
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % self._width
        self._rest = data[whole:]
        pcm = self._decoder.decode(data[:whole])
        if self._resampler is None:
            return pcm
        signal = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32_768)
        return to_pcm16(self._resampler.resample(signal))

    def flush(self) -> bytes:
        return self._decoder.flush() if self._resampler is None else to_pcm16(self._resampler.flush())


def _check(declared: DeclaredAudio) -> None:
    if declared.channels != 1:
        raise BadConfig(
            f"audio_channel_count is {declared.channels}; streams are mono. "
            "Send one stream per channel, or mix them down first."
        )
    rate = declared.sample_rate
    if rate and not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise BadConfig(
            f"sample_rate_hertz is {rate}; send from {LOWEST_RATE} to {HIGHEST_RATE}, "
            "or 0 for 16000 or what the file's header says."
        )
    if declared.encoding not in _RAW and declared.encoding not in _CONTAINERS:
        raise BadConfig("encoding is not one of LINEAR_PCM, FLAC, MULAW, ALAW, OGGOPUS or unspecified.")
