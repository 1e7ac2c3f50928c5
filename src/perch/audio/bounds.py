"""What a client's compressed bytes may cost: a few of them must not become hours of audio or seconds of work."""

from typing import Protocol

import av
from av.packet import Packet
from av.stream import Stream

from perch.core.audio import BYTES_PER_SAMPLE, RATE
from perch.errors import BadAudio

MAX_WAITING = 1 << 20
"""Bytes that may come without completing a frame."""

MAX_SECONDS_AT_ONCE = 120
"""Audio that one message may become: it is decoded while every other session waits."""

# FLAC of digital silence at 8 kHz, the most audio an honest encoder puts into a byte, is 46 ms per byte.
_MOST_SAMPLES_PER_BYTE = 64 * RATE // 1000
_SAMPLES_AT_FIRST = 10 * RATE
_PIECE = 512  # so that what is decoded before a bound is noticed is little too


class Feedable(Protocol):
    """Decodes a file as it grows, to PCM with its channels interleaved."""

    def feed(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...


class Bounded:
    """``decoder``, refusing bytes that become more audio than any voice would be coded to.

    Args:
        decoder: What is not trusted with them.
        channels: In its PCM.
        at_once_s: Seconds of audio that one ``feed`` may become; None where a whole file may come at once.
    """

    def __init__(
        self, decoder: Feedable, channels: int, *, at_once_s: float | None = MAX_SECONDS_AT_ONCE
    ) -> None:
        self._decoder = decoder
        self._frame_bytes = BYTES_PER_SAMPLE * channels
        self._allowed = _SAMPLES_AT_FIRST
        self._at_once = None if at_once_s is None else int(at_once_s * RATE) * self._frame_bytes

    def feed(self, data: bytes) -> bytes:
        """The 16 kHz PCM that ``data`` adds.

        Raises:
            BadAudio: It is damaged, or too much for its size or for one message.
        """
        pcm = bytearray()
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            made = self._decoder.feed(piece)
            self._account(len(piece), len(made))
            pcm += made
            if self._at_once is not None and len(pcm) > self._at_once:
                raise BadAudio(
                    f"One message holds more than {MAX_SECONDS_AT_ONCE} seconds of compressed audio; "
                    "send it in smaller pieces."
                )
        return bytes(pcm)

    def flush(self) -> bytes:
        """The end of the stream."""
        return self._decoder.flush()

    def _account(self, size: int, made: int) -> None:
        self._allowed += size * _MOST_SAMPLES_PER_BYTE - made // self._frame_bytes
        if self._allowed < 0:
            raise BadAudio("The audio is damaged: so few bytes cannot hold so much audio.")


class FrameParser:
    """FFmpeg's parser for ``codec``, which by itself would gather bytes for a frame that never ends."""

    def __init__(self, codec: av.AudioCodecContext) -> None:
        self._codec = codec
        self._waiting = 0

    def parse(self, data: bytes) -> "list[Packet[Stream]]":
        """The frames that ``data`` completes; no data ends the last.

        Raises:
            BadAudio: No frame has been completed for too long.
            av.FFmpegError: The parser refuses it.
        """
        packets = self._codec.parse(data)
        self._waiting = 0 if packets else self._waiting + len(data)
        if self._waiting > MAX_WAITING:
            raise BadAudio("The audio is damaged: a mebibyte holds no whole frame.")
        return packets
