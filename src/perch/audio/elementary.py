"""MP3 and AAC (ADTS) arriving in pieces of any size: frames one after another, without a container."""

import av

from perch.audio.bounds import FrameParser
from perch.audio.frames import FrameConverter
from perch.audio.resample import Quality
from perch.errors import BadAudio

_ID3_HEADER = 10


class ElementaryDecoder:
    """Decodes frames that FFmpeg's parser for ``codec`` finds; ``channels`` as in ``FrameConverter``."""

    def __init__(self, codec: str, quality: Quality, channels: int | None) -> None:
        self._name = codec.upper()
        self._codec = _decoder(codec)
        self._parser = FrameParser(self._codec)
        self._converter = FrameConverter(quality, channels)
        self._head: bytearray | None = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz PCM that ``data`` adds.

        Raises:
            BadAudio: It is damaged, or has other channels.
        """
        data = self._without_tag(data)
        return self._parse(data) if data else b""

    def flush(self) -> bytes:
        """The end of the stream."""
        return self._parse(b"") + self._converter.flush()

    def _without_tag(self, data: bytes) -> bytes:
        """``data`` behind an ID3v2 tag at the start, which may hold a picture that looks like frames."""
        if self._head is not None:
            self._head += data
            if len(self._head) < _ID3_HEADER:
                return b""
            data, self._head = bytes(self._head), None
            if data.startswith(b"ID3"):
                self._skip = _ID3_HEADER + _syncsafe(data[6:10])
        here = min(self._skip, len(data))
        self._skip -= here
        return data[here:]

    def _parse(self, data: bytes) -> bytes:
        try:
            frames = [frame for packet in self._parser.parse(data) for frame in self._codec.decode(packet)]
        except av.FFmpegError as error:
            raise BadAudio(f"The {self._name} audio is damaged.") from error
        return b"".join(self._converter.convert(frame) for frame in frames)


def _decoder(codec: str) -> av.AudioCodecContext:
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.AudioCodecContext)
    return context


def _syncsafe(data: bytes) -> int:
    """A number of which each byte holds seven bits (ID3v2.4, section 6.2)."""
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value
