"""A stream that may be a file, in pieces of any size, recognised by its first bytes."""

from collections.abc import Callable

from perch.audio.bounds import Bounded, Feedable
from perch.audio.decode import StreamDecoder
from perch.audio.flac import FlacDecoder
from perch.audio.ogg import OggDecoder
from perch.audio.resample import Quality
from perch.audio.riff import RiffDecoder
from perch.audio.sniff import HEAD, Container, sniff
from perch.core.audio import AudioFormat
from perch.errors import BadAudio

_DECODERS: dict[Container, Callable[[Quality], Feedable]] = {
    "wav": RiffDecoder,
    "flac": FlacDecoder,
    "ogg": OggDecoder,
}


class ContainerDecoder:
    """Decodes a stream whose client sends a file as it is, header and all.

    What is no known container is taken for headerless samples in the format ``raw``, if one is
    given; then every piece after the first ``sniff.HEAD`` bytes must hold whole samples.
    """

    def __init__(self, raw: AudioFormat | None = None, *, quality: Quality = Quality.LIVE) -> None:
        self._raw = raw
        self._quality = quality
        self._head = bytearray()
        self._decoder: Feedable | None = None

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz mono PCM that ``data`` adds; it may be empty.

        Raises:
            BadAudio: It is damaged, of several channels, or nothing known.
            BadConfig: ``raw`` is needed, and is not a format that can be decoded.
        """
        if self._decoder is not None:
            return self._decoder.feed(data)
        self._head += data
        return self._begin() if len(self._head) >= HEAD else b""

    def flush(self) -> bytes:
        """The end of the stream."""
        first = self._begin() if self._decoder is None and self._head else b""
        return first if self._decoder is None else first + self._decoder.flush()

    def _begin(self) -> bytes:
        head = bytes(self._head)
        self._head.clear()
        container = sniff(head[:HEAD])
        self._decoder = self._file_decoder(container) if container else self._raw_decoder()
        return self._decoder.feed(head)

    def _file_decoder(self, container: Container) -> Feedable:
        decoder = _DECODERS[container](self._quality)
        return decoder if container == "wav" else Bounded(decoder, 1, at_once_s=None)

    def _raw_decoder(self) -> Feedable:
        if self._raw is None:
            raise BadAudio("The audio is neither WAV, FLAC nor Ogg, and no format was declared for it.")
        return _RawDecoder(self._raw, self._quality)


class _RawDecoder:
    def __init__(self, audio_format: AudioFormat, quality: Quality) -> None:
        self._decoder = StreamDecoder(audio_format, quality=quality)

    def feed(self, data: bytes) -> bytes:
        return self._decoder.decode(data)

    def flush(self) -> bytes:
        return self._decoder.flush()
