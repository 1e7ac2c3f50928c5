"""What a stream's first bytes say it is."""

from typing import Literal

Container = Literal["wav", "flac", "ogg"]

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
