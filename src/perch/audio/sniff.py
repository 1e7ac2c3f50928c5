"""What a stream's first bytes say it is."""

from typing import Literal

Container = Literal["wav", "flac", "ogg"]
Streamable = Literal["wav", "flac", "ogg", "webm", "mp3", "aac"]

HEAD = 12
"""Bytes which always suffice to tell."""


def sniff(head: bytes) -> Container | None:
    """The container that ``head``, the first ``HEAD`` bytes of a stream, begins; None if it is none of them.

    A head cut short may say None where a longer one would not.
    """
    if head[:4] in {b"RIFF", b"RF64"} and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    return None


def sniff_stream(head: bytes) -> Streamable | None:
    """As ``sniff``, where a file was announced: two bytes of MP3 or AAC could be samples as well."""
    if head[:4] == b"\x1aE\xdf\xa3":
        return "webm"
    if head[:1] == b"\xff" and len(head) > 1:
        if head[1] & 0xF6 == 0xF0:
            return "aac"
        if head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
            return "mp3"
    return "mp3" if head[:3] == b"ID3" else sniff(head)
