"""Whatever a client streams, to 16 kHz mono PCM16 for each channel: at once, in pieces of any size."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from perch.audio.bounds import Bounded, Feedable
from perch.audio.decode import StreamDecoder
from perch.audio.elementary import ElementaryDecoder
from perch.audio.flac import FlacDecoder
from perch.audio.ogg import OggDecoder
from perch.audio.opus import OpusPackets, head_of
from perch.audio.resample import Quality
from perch.audio.riff import RiffDecoder
from perch.audio.sniff import HEAD, Streamable, sniff_stream
from perch.audio.webm import WebmDecoder
from perch.core.audio import MAX_CHANNELS, AudioFormat, Encoding
from perch.errors import BadAudio, BadConfig

_MOST_OPUS_CHANNELS = 2


class Decoder(Protocol):
    """Decodes one stream, frame by frame, into as many mono signals of the same length as it has channels."""

    channels: int

    def decode(self, payload: bytes) -> Sequence[bytes]:
        """The PCM that ``payload`` adds to each channel; it may be empty.

        Raises:
            BadAudio: The bytes are not what was declared.
        """
        ...

    def flush(self) -> Sequence[bytes]:
        """What was held back, at the end of the stream."""
        ...


def open_decoder(audio_format: AudioFormat, *, quality: Quality = Quality.LIVE) -> Decoder:
    """A decoder for what ``audio_format`` declares.

    Raises:
        BadConfig: It cannot be: too many channels, or a rate that is not supported.
    """
    if not 1 <= audio_format.channels <= MAX_CHANNELS:
        raise BadConfig(f"{audio_format.channels} channels are too many; send up to {MAX_CHANNELS}.")
    if audio_format.encoding.is_samples:
        samples = StreamDecoder(audio_format, quality=quality)
        return _Split(samples.decode, samples.flush, audio_format.streams)
    kept = None if audio_format.streams == 1 else audio_format.channels
    if audio_format.encoding is Encoding.OPUS:
        if audio_format.channels > _MOST_OPUS_CHANNELS:
            raise BadConfig("Opus packets have one channel or two; send more in several streams.")
        opus = OpusPackets(head_of(audio_format.channels), quality, kept)
        return _Split(opus.packet, opus.flush, audio_format.streams)
    file = _File(quality, kept)
    return _Split(file.feed, file.flush, audio_format.streams)


class _Split:
    """Interleaved channels, taken apart."""

    def __init__(self, decode: Callable[[bytes], bytes], flush: Callable[[], bytes], channels: int) -> None:
        self.channels = channels
        self._decode = decode
        self._flush = flush

    def decode(self, payload: bytes) -> Sequence[bytes]:
        pcm = self._decode(payload)
        return (pcm,) if self.channels == 1 else _apart(pcm, self.channels)

    def flush(self) -> Sequence[bytes]:
        pcm = self._flush()
        return (pcm,) if self.channels == 1 else _apart(pcm, self.channels)


def _apart(pcm: bytes, channels: int) -> list[bytes]:
    samples = np.frombuffer(pcm, dtype="<i2").reshape(-1, channels)
    return [samples[:, channel].tobytes() for channel in range(channels)]


_CONTAINERS: dict[Streamable, Callable[[Quality, int | None], Feedable]] = {
    "wav": RiffDecoder,
    "flac": FlacDecoder,
    "ogg": OggDecoder,
    "webm": WebmDecoder,
    "mp3": partial(ElementaryDecoder, "mp3"),
    "aac": partial(ElementaryDecoder, "aac"),
}


class _File:
    """A file as it grows, of a kind that its first bytes tell."""

    def __init__(self, quality: Quality, channels: int | None) -> None:
        self._quality = quality
        self._channels = channels
        self._head = bytearray()
        self._decoder: Feedable | None = None

    def feed(self, data: bytes) -> bytes:
        if self._decoder is not None:
            return self._decoder.feed(data)
        self._head += data
        return self._begin() if len(self._head) >= HEAD else b""

    def flush(self) -> bytes:
        first = self._begin() if self._decoder is None and self._head else b""
        return first if self._decoder is None else first + self._decoder.flush()

    def _begin(self) -> bytes:
        head = bytes(self._head)
        self._head.clear()
        kind = sniff_stream(head[:HEAD])
        if kind is None:
            raise BadAudio(
                "The audio is no file that can be streamed (WAV, FLAC, Ogg with Opus or FLAC, WebM with Opus, "
                "MP3, AAC); declare its encoding if it is headerless samples."
            )
        decoder = _CONTAINERS[kind](self._quality, self._channels)
        # The samples of a WAV are as long as its bytes: nothing to bound.
        self._decoder = decoder if kind == "wav" else Bounded(decoder, self._channels or 1)
        return self._decoder.feed(head)
