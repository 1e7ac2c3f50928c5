"""HTTP/2 frames as bytes, the impossible ones included."""

import struct


def raw(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of any type and flags."""
    return struct.pack(">L", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">L", stream) + payload
