"""FLAC arriving in pieces of any size."""

import av
from av.stream import Stream

from perch.audio.bounds import FrameParser
from perch.audio.frames import FrameConverter, require_channels
from perch.audio.resample import Quality
from perch.errors import BadAudio

_STREAM_INFO = 34
_MAGIC = b"fLaC"


class FlacPackets:
    """Decodes FLAC frames, whole or in pieces, by the description at the start of their stream."""

    def __init__(self, stream_info: bytes, quality: Quality, channels: int | None) -> None:
        require_channels((stream_info[12] >> 1 & 0x07) + 1, channels)
        self._codec = av.AudioCodecContext.create("flac", "r")
        self._codec.extradata = stream_info
        self._parser = FrameParser(self._codec)
        self._converter = FrameConverter(quality, channels)

    def parse(self, data: bytes) -> bytes:
        """The PCM of the frames that ``data`` completes.

        The parser looks several frames ahead, to be sure where one ends: at 16 kHz and the usual
        4,096 samples per frame that is 2.5 seconds.
        """
        try:
            return b"".join(self._frames(packet) for packet in self._parser.parse(data))
        except av.FFmpegError as error:
            raise BadAudio("The FLAC audio is damaged.") from error

    def decode(self, frame: bytes) -> bytes:
        """The PCM of one whole frame."""
        try:
            return self._frames(av.Packet(frame))
        except av.FFmpegError as error:
            raise BadAudio("The FLAC audio is damaged.") from error

    def finish_parsing(self) -> bytes:
        """The PCM of the frames the parser still held back."""
        pcm = bytearray()
        while piece := self.parse(b""):  # it gives them one by one
            pcm += piece
        return bytes(pcm)

    def flush(self) -> bytes:
        """The end of the stream."""
        return self._converter.flush()

    def _frames(self, packet: "av.Packet[Stream]") -> bytes:
        return b"".join(self._converter.convert(frame) for frame in self._codec.decode(packet))


class FlacDecoder:
    """Decodes a FLAC file; ``channels`` as in ``FrameConverter``."""

    def __init__(self, quality: Quality = Quality.LIVE, channels: int | None = 1) -> None:
        self._quality = quality
        self._channels = channels
        self._buffer = bytearray()
        self._skip = 0
        self._magic_seen = False
        self._is_last_block = False
        self._packets: FlacPackets | None = None

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz PCM that ``data`` adds.

        Raises:
            BadAudio: It is damaged, or has other channels.
        """
        self._buffer += data
        while self._skip or not self._is_last_block:
            if not self._header_step():
                return b""
        assert self._packets is not None
        audio = bytes(self._buffer)
        self._buffer.clear()
        return self._packets.parse(audio) if audio else b""

    def flush(self) -> bytes:
        """The end of the stream."""
        if self._packets is None:
            return b""
        return self._packets.finish_parsing() + self._packets.flush()

    def _header_step(self) -> bool:
        """Take one part of the header; False if more bytes are needed for it."""
        if self._skip:
            here = min(self._skip, len(self._buffer))
            del self._buffer[:here]
            self._skip -= here
            return not self._skip
        start = 0 if self._magic_seen else len(_MAGIC)
        if len(self._buffer) < start + 4:
            return False
        flags = self._buffer[start]
        size = int.from_bytes(self._buffer[start + 1 : start + 4], "big")
        if self._packets is None:
            if len(self._buffer) < start + 4 + _STREAM_INFO:
                return False
            self._begin(
                bytes(self._buffer[start + 4 : start + 4 + _STREAM_INFO]), kind=flags & 0x7F, size=size
            )
        self._magic_seen = True
        self._is_last_block = bool(flags & 0x80)
        self._skip = start + 4 + size
        return True

    def _begin(self, stream_info: bytes, *, kind: int, size: int) -> None:
        if kind != 0 or size != _STREAM_INFO:
            raise BadAudio("The FLAC header is damaged: it does not begin with the stream's description.")
        self._packets = FlacPackets(stream_info, self._quality, self._channels)
