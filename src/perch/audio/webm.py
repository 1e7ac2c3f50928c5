"""WebM with Opus arriving in pieces of any size, as a browser's MediaRecorder writes it (RFC 8794, RFC 9559).

The elements are read in the order they come. Those that only hold others (the segment, its clusters) are
entered by reading on behind their header, so their size, which a live writer does not know, does not matter.
"""

from collections.abc import Iterator

from perch.audio.opus import OpusPackets, head_of
from perch.audio.resample import Quality
from perch.errors import BadAudio

_SEGMENT, _CLUSTER, _TRACKS, _BLOCK_GROUP = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xA0
_ENTERED = {_SEGMENT, _CLUSTER, _TRACKS, _BLOCK_GROUP}
_TRACK_ENTRY, _SIMPLE_BLOCK, _BLOCK, _DISCARD_PADDING = 0xAE, 0xA3, 0xA1, 0x75A2
_READ = {_TRACK_ENTRY, _SIMPLE_BLOCK, _BLOCK, _DISCARD_PADDING}
_NUMBER, _TYPE, _CODEC, _PRIVATE, _AUDIO, _CHANNELS, _ENCODINGS = 0xD7, 0x83, 0x86, 0x63A2, 0xE1, 0x9F, 0x6D80
_AUDIO_TYPE = 2
_LACING = 0x06
_LARGEST = 1 << 20
"""Bytes of an element that is read whole: a track's description or a block."""


class WebmDecoder:
    """Decodes the first track of Opus in a WebM or Matroska file; ``channels`` as in ``FrameConverter``."""

    def __init__(self, quality: Quality = Quality.LIVE, channels: int | None = None) -> None:
        self._quality = quality
        self._channels = channels
        self._buffer = bytearray()
        self._skip = 0
        self._track = -1
        self._opus: OpusPackets | None = None

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz PCM that ``data`` adds.

        Raises:
            BadAudio: It is damaged, or holds no Opus.
        """
        self._buffer += data
        pcm = bytearray()
        position = 0
        while (taken := self._element(position)) is not None:
            position, made = taken
            pcm += made
        del self._buffer[:position]
        return bytes(pcm)

    def flush(self) -> bytes:
        """The end of the stream."""
        return b"" if self._opus is None else self._opus.flush()

    def _element(self, position: int) -> tuple[int, bytes] | None:
        """Take one element at ``position`` of the buffer: where the next begins, and the PCM it adds."""
        if self._skip:
            here = min(self._skip, len(self._buffer) - position)
            self._skip -= here
            return (position + here, b"") if here else None
        found = _header(self._buffer, position)
        if found is None:
            return None
        kind, size, start = found
        if kind in _ENTERED:
            return start, b""
        if size is None:
            raise BadAudio("The WebM stream is damaged: an element that holds data has no size.")
        if kind not in _READ:
            self._skip = size
            return start, b""
        if size > _LARGEST:
            raise BadAudio("The WebM stream is damaged: a block has more than a mebibyte.")
        if len(self._buffer) < start + size:
            return None
        return start + size, self._understand(kind, bytes(self._buffer[start : start + size]))

    def _understand(self, kind: int, body: bytes) -> bytes:
        if kind == _TRACK_ENTRY:
            self._consider(dict(_children(body)))
            return b""
        if kind == _DISCARD_PADDING:
            return b""  # at most one packet of padding; a voice does not end there
        if self._opus is None:
            raise BadAudio(
                "The WebM file holds no Opus audio; send WebM with Opus, as MediaRecorder makes it."
            )
        return self._block(body, self._opus)

    def _consider(self, track: dict[int, bytes]) -> None:
        """Decode this track, if it is the first that can be."""
        if self._opus is not None or _number(track.get(_TYPE, b"")) != _AUDIO_TYPE:
            return
        if track.get(_CODEC, b"").rstrip(b"\0") != b"A_OPUS" or _ENCODINGS in track:
            return
        self._track = _number(track.get(_NUMBER, b""))
        head = track.get(_PRIVATE, b"")
        if len(head) < 19 or not head.startswith(b"OpusHead"):
            channels = _number(dict(_children(track.get(_AUDIO, b""))).get(_CHANNELS, b"\x01"))
            if channels not in {1, 2}:
                raise BadAudio("The WebM stream is damaged: its Opus track has no header.")
            head = head_of(channels)
        self._opus = OpusPackets(head, self._quality, self._channels)

    def _block(self, body: bytes, opus: OpusPackets) -> bytes:
        number, start = _sized(body, 0)
        if number is None or len(body) < start + 3:
            raise BadAudio("The WebM stream is damaged: a block is too short.")
        if number != self._track:
            return b""
        if body[start + 2] & _LACING:
            raise BadAudio("The WebM stream has laced blocks, which are not supported for Opus.")
        return opus.packet(body[start + 3 :])


def _header(data: bytes | bytearray, position: int) -> tuple[int, int | None, int] | None:
    """An element's id, its size (None if unknown) and where its body begins; None if more bytes are needed."""
    if position >= len(data):
        return None
    width = _width(data[position])
    if width > 4:
        raise BadAudio("The WebM stream is damaged: an element has no valid identifier.")
    after = position + width
    if after >= len(data):
        return None
    size_width = _width(data[after])
    if size_width > 8:
        raise BadAudio("The WebM stream is damaged: an element has no valid size.")
    if len(data) < after + size_width:
        return None
    size, body = _sized(data, after)
    return int.from_bytes(data[position:after], "big"), size, body


def _sized(data: bytes | bytearray, position: int) -> tuple[int | None, int]:
    """A number of variable length (RFC 8794, section 4) and where it ends; None if all its bits are set."""
    if position >= len(data):
        return None, position
    width = _width(data[position])
    value = int.from_bytes(data[position : position + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), position + width


def _width(first: int) -> int:
    """Bytes of a number by its first: one more than the zeros it begins with; 9 is none."""
    return 9 - first.bit_length()


def _children(body: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while (found := _header(body, position)) is not None:
        kind, size, start = found
        if size is None:
            return
        yield kind, body[start : start + size]
        position = start + size


def _number(body: bytes) -> int:
    return int.from_bytes(body[:8], "big")
