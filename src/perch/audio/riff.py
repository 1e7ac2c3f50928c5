"""WAV arriving in pieces of any size."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perch.audio.decode import StreamDecoder
from perch.audio.frames import require_channels
from perch.audio.resample import Quality
from perch.core.audio import AudioFormat, Encoding
from perch.errors import BadAudio, BadConfig

_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE
_SUBFORMAT = 24  # where the extensible form keeps the code of its samples
_LONGEST_FORMAT = 1_024
_UNTIL_THE_END = frozenset({0, 0xFFFFFFFF})  # data sizes of writers who could not know


@dataclass(frozen=True, slots=True)
class _Samples:
    """How a kind of sample is written, and how it becomes one that a ``StreamDecoder`` takes."""

    width: int
    encoding: Encoding
    convert: Callable[[bytes], bytes] = bytes


def _unsigned_8(data: bytes) -> bytes:
    return ((np.frombuffer(data, np.uint8).astype("<i2") - 128) * 256).astype("<i2").tobytes()


def _signed_24(data: bytes) -> bytes:
    spread = np.zeros((len(data) // 3, 4), dtype=np.uint8)
    spread[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _signed_32(spread.tobytes())


def _signed_32(data: bytes) -> bytes:
    floats: bytes = (np.frombuffer(data, "<i4") / 2**31).astype("<f4").tobytes()
    return floats


def _float_64(data: bytes) -> bytes:
    floats: bytes = np.clip(np.frombuffer(data, "<f8"), -2.0, 2.0).astype("<f4").tobytes()
    return floats


_KINDS = {
    (_PCM, 8): _Samples(1, Encoding.PCM16, _unsigned_8),
    (_PCM, 16): _Samples(2, Encoding.PCM16),
    (_PCM, 24): _Samples(3, Encoding.FLOAT32, _signed_24),
    (_PCM, 32): _Samples(4, Encoding.FLOAT32, _signed_32),
    (_FLOAT, 32): _Samples(4, Encoding.FLOAT32),
    (_FLOAT, 64): _Samples(8, Encoding.FLOAT32, _float_64),
    (_ALAW, 8): _Samples(1, Encoding.ALAW),
    (_MULAW, 8): _Samples(1, Encoding.MULAW),
}


class RiffDecoder:
    """Decodes a WAV of any common kind of sample; ``channels`` as in ``FrameConverter``.

    Chunks before the audio are skipped whatever their size and number, those after it ignored. A
    data size of 0 or 0xFFFFFFFF, as live writers leave it, means that the audio lasts to the end.
    """

    def __init__(self, quality: Quality = Quality.LIVE, channels: int | None = 1) -> None:
        self._quality = quality
        self._channels = channels
        self._frame_bytes = 1
        self._buffer = bytearray()
        self._skip = 0
        self._in_header = True
        self._remaining: int | None = None
        self._samples: _Samples | None = None
        self._decoder: StreamDecoder | None = None

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz PCM that ``data`` adds.

        Raises:
            BadAudio: The header is damaged, or tells of audio that is not supported.
        """
        self._buffer += data
        while self._in_header:
            if not self._header_step():
                return b""
        return self._audio()

    def flush(self) -> bytes:
        """The end of the stream. A last sample cut short is dropped."""
        return b"" if self._decoder is None else self._decoder.flush()

    def _header_step(self) -> bool:
        """Take one part of the header; False if more bytes are needed for it."""
        if self._skip:
            return self._skip_some()
        if bytes(self._buffer[:4]) in {b"RIFF", b"RF64"}:
            return self._take(12)
        if len(self._buffer) < 8:
            return False
        name, size = struct.unpack("<4sI", self._buffer[:8])
        if name == b"fmt ":
            return self._take_format(size)
        self._take(8)
        if name == b"data":
            self._begin_audio(size)
        else:
            self._skip = size + size % 2
        return True

    def _take(self, count: int) -> bool:
        if len(self._buffer) < count:
            return False
        del self._buffer[:count]
        return True

    def _skip_some(self) -> bool:
        here = min(self._skip, len(self._buffer))
        del self._buffer[:here]
        self._skip -= here
        return not self._skip

    def _take_format(self, size: int) -> bool:
        if self._samples is not None:
            raise BadAudio("The WAV header is damaged: it describes its format twice.")
        if not 16 <= size <= _LONGEST_FORMAT:
            raise BadAudio(f"The WAV header is damaged: its format description has {size} bytes.")
        if len(self._buffer) < 8 + size:
            return False
        self._understand(bytes(self._buffer[8 : 8 + size]))
        self._skip = 8 + size + size % 2
        return True

    def _understand(self, description: bytes) -> None:
        code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", description[:16])
        if code == _EXTENSIBLE and len(description) >= _SUBFORMAT + 2:
            (code,) = struct.unpack_from("<H", description, _SUBFORMAT)
        samples = _KINDS.get((code, bits))
        if samples is None:
            raise BadAudio(
                f"A WAV with format code {code:#06x} and {bits} bits per sample is not supported; "
                "send PCM of 8 to 32 bits, float, A-law or µ-law."
            )
        require_channels(channels, self._channels)
        self._samples = samples
        self._frame_bytes = samples.width * channels
        wanted = AudioFormat(samples.encoding, rate, channels, mix=self._channels is None)
        try:
            self._decoder = StreamDecoder(wanted, quality=self._quality)
        except BadConfig as refusal:
            raise BadAudio(f"The WAV cannot be streamed. {refusal.message}") from refusal

    def _begin_audio(self, size: int) -> None:
        if self._samples is None:
            raise BadAudio("The WAV header is damaged: its audio comes before the description of its format.")
        self._in_header = False
        self._remaining = None if size in _UNTIL_THE_END else size

    def _audio(self) -> bytes:
        assert self._samples is not None
        assert self._decoder is not None
        here = len(self._buffer) if self._remaining is None else min(self._remaining, len(self._buffer))
        here -= here % self._frame_bytes
        data = bytes(self._buffer[:here])
        del self._buffer[:here]
        if self._remaining is not None:
            self._remaining -= here
            if self._remaining < self._frame_bytes:
                self._buffer.clear()
        return self._decoder.decode(self._samples.convert(data))
