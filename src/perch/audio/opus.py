"""Opus packets, from whatever container or none (RFC 6716, RFC 7845)."""

import struct

import av

from perch.audio.frames import FrameConverter
from perch.audio.resample import Quality
from perch.core.audio import BYTES_PER_SAMPLE, RATE
from perch.errors import BadAudio

OPUS_RATE = 48_000
"""Samples per second that positions in Opus containers count, whatever the rate of the sound."""


class OpusPackets:
    """Decodes one stream of packets.

    Args:
        head: The identification header, ``OpusHead``.
        quality: How to convert the sample rate.
        channels: How many channels come out, interleaved. None mixes them: of a voice they are a matter of
            coding only.
    """

    def __init__(self, head: bytes, quality: Quality, channels: int | None) -> None:
        self._codec = av.AudioCodecContext.create("opus", "r")
        self._codec.extradata = head
        self._converter = FrameConverter(quality, channels)
        self._frame_bytes = BYTES_PER_SAMPLE * (channels or 1)
        self._pre_skip = int.from_bytes(head[10:12], "little")
        self._samples = 0
        self._end: int | None = None

    def packet(self, data: bytes) -> bytes:
        """The PCM of one packet, at most 120 ms."""
        if data.startswith(b"OpusTags") or not data:
            return b""
        try:
            frames = self._codec.decode(av.Packet(data))
        except av.FFmpegError as error:
            raise BadAudio("The Opus audio is damaged.") from error
        return self._within(b"".join(self._converter.convert(frame) for frame in frames))

    def end_at(self, position: int) -> None:
        """The container says how much of the last packet counts."""
        self._end = -(-max(0, position - self._pre_skip) * RATE // OPUS_RATE)

    def flush(self) -> bytes:
        """The end of the stream."""
        return self._within(self._converter.flush())

    def _within(self, pcm: bytes) -> bytes:
        """``pcm`` without the padding at the end; the decoder itself skips the start."""
        if self._end is not None:
            pcm = pcm[: max(0, self._end - self._samples) * self._frame_bytes]
        self._samples += len(pcm) // self._frame_bytes
        return pcm


def head_of(channels: int, pre_skip: int = 0) -> bytes:
    """An identification header for packets that come without one."""
    return b"OpusHead" + struct.pack("<BBHIhB", 1, channels, pre_skip, OPUS_RATE, 0, 0)
