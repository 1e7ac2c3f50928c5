"""Whatever a client streams, to 16 kHz mono PCM16 for each channel."""

from collections.abc import Sequence
from typing import Protocol

from perch.audio.decode import StreamDecoder
from perch.audio.resample import Quality
from perch.core.audio import AudioFormat


class Decoder(Protocol):
    """Decodes one stream, frame by frame."""

    channels: int

    def decode(self, payload: bytes) -> Sequence[bytes]:
        """The PCM that ``payload`` adds to each channel."""
        ...

    def flush(self) -> Sequence[bytes]:
        """What was held back, at the end of the stream."""
        ...


class _Mono:
    channels = 1

    def __init__(self, audio_format: AudioFormat, quality: Quality) -> None:
        self._decoder = StreamDecoder(audio_format, quality=quality)

    def decode(self, payload: bytes) -> Sequence[bytes]:
        return (self._decoder.decode(payload),)

    def flush(self) -> Sequence[bytes]:
        return (self._decoder.flush(),)


def open_decoder(audio_format: AudioFormat, *, quality: Quality = Quality.LIVE) -> Decoder:
    """A decoder for ``audio_format``."""
    return _Mono(audio_format, quality)
