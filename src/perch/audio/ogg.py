"""Ogg Opus and Ogg FLAC arriving in pieces of any size (RFC 3533, RFC 7845)."""

from dataclasses import dataclass
from typing import Protocol

from perch.audio.flac import FlacPackets
from perch.audio.opus import OpusPackets
from perch.audio.resample import Quality
from perch.errors import BadAudio

_HEADER = 27
_LONGEST_PACKET = 1 << 20  # tags may hold a cover picture; nothing holds more
_NO_POSITION = 2**64 - 1


@dataclass(frozen=True, slots=True)
class _Page:
    """One page: whole and unfinished packets of the logical stream ``serial``."""

    continues: bool
    is_last: bool
    position: int
    serial: int
    lacing: bytes
    body: bytes


class _Codec(Protocol):
    def packet(self, data: bytes) -> bytes: ...
    def end_at(self, position: int) -> None: ...
    def flush(self) -> bytes: ...


class OggDecoder:
    """Decodes the first stream of Opus or FLAC in an Ogg file; other streams beside it are ignored.

    ``channels`` as in ``FrameConverter``.
    """

    def __init__(self, quality: Quality = Quality.LIVE, channels: int | None = 1) -> None:
        self._quality = quality
        self._channels = channels
        self._buffer = bytearray()
        self._packet = bytearray()
        self._serial: int | None = None
        self._codec: _Codec | None = None

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz PCM that ``data`` adds.

        Raises:
            BadAudio: It is damaged, or holds another codec.
        """
        self._buffer += data
        pcm = bytearray()
        while (page := self._page()) is not None:
            pcm += self._take(page)
        return bytes(pcm)

    def flush(self) -> bytes:
        """The end of the stream."""
        return b"" if self._codec is None else self._codec.flush()

    def _page(self) -> _Page | None:
        head = bytes(self._buffer[:_HEADER])
        if not b"OggS".startswith(head[:4]):
            raise BadAudio("The Ogg stream is damaged: a page does not begin where it should.")
        if len(head) < _HEADER:
            return None
        lacing = bytes(self._buffer[_HEADER : _HEADER + head[26]])
        end = _HEADER + head[26] + sum(lacing)
        if len(lacing) < head[26] or len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER + head[26] : end])
        del self._buffer[:end]
        return _Page(
            continues=bool(head[5] & 1),
            is_last=bool(head[5] & 4),
            position=int.from_bytes(head[6:14], "little"),
            serial=int.from_bytes(head[14:18], "little"),
            lacing=lacing,
            body=body,
        )

    def _take(self, page: _Page) -> bytes:
        if self._serial is None:
            self._serial = page.serial
        if page.serial != self._serial:
            return b""
        if not page.continues:
            self._packet.clear()
        packets = self._packets(page)
        if page.is_last and self._codec is not None and page.position != _NO_POSITION:
            self._codec.end_at(page.position)
        return b"".join(self._decode(packet) for packet in packets)

    def _packets(self, page: _Page) -> list[bytes]:
        """The packets that the page completes: a segment below 255 bytes ends one."""
        packets = []
        position = 0
        for size in page.lacing:
            self._packet += page.body[position : position + size]
            position += size
            if len(self._packet) > _LONGEST_PACKET:
                raise BadAudio("The Ogg stream is damaged: a packet has no end.")
            if size < 255:
                packets.append(bytes(self._packet))
                self._packet.clear()
        return packets

    def _decode(self, packet: bytes) -> bytes:
        if self._codec is None:
            self._codec = _codec(packet, self._quality, self._channels)
            return b""
        return self._codec.packet(packet)


def _codec(first: bytes, quality: Quality, channels: int | None) -> _Codec:
    if first.startswith(b"OpusHead") and len(first) >= 19:
        # Of a voice in Opus, channels are a matter of coding: they need not be refused to be made one.
        return OpusPackets(first, quality, None if channels == 1 else channels)
    if first.startswith(b"\x7fFLAC") and len(first) >= 51:
        return _Flac(first[17:51], quality, channels)
    raise BadAudio("The Ogg stream holds neither Opus nor FLAC; send one of these, or a WAV.")


class _Flac:
    """FLAC frames, one per packet, after packets of metadata."""

    def __init__(self, stream_info: bytes, quality: Quality, channels: int | None) -> None:
        self._frames = FlacPackets(stream_info, quality, channels)

    def packet(self, data: bytes) -> bytes:
        return self._frames.decode(data) if data[:1] == b"\xff" else b""

    def end_at(self, position: int) -> None:
        """Frames have their exact length."""

    def flush(self) -> bytes:
        return self._frames.flush()
