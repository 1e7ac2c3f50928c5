"""As much of WebSocket (RFC 6455) as a load generator needs, at the least cost for each frame.

A masked frame may be sent as often as one likes: the mask hides nothing from a gateway under test, so each
piece of audio is masked once, and every session writes the same bytes.
"""

import base64
import json
import os
import struct

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LONGEST = 1 << 20
"""Bytes in one message from the gateway; more is no event."""

_KEY = b"\x5a\xa5\x3c\xc3"
_SHORT, _MEDIUM, _LONG = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")


class BadFrame(Exception):
    """The gateway sent something that is no message of ``perch.v1``."""


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One masked frame."""
    length = len(payload)
    mask = int.from_bytes((_KEY * (length // 4 + 1))[:length], "big")
    masked = (int.from_bytes(payload, "big") ^ mask).to_bytes(length, "big")
    if length < 126:
        return _SHORT.pack(0x80 | opcode, 0x80 | length) + _KEY + masked
    if length < 1 << 16:
        return _MEDIUM.pack(0x80 | opcode, 0x80 | 126, length) + _KEY + masked
    return _LONG.pack(0x80 | opcode, 0x80 | 127, length) + _KEY + masked


def upgrade_request(host: str, path: str, api_key: str) -> bytes:
    """The HTTP request that opens a WebSocket."""
    nonce = base64.b64encode(os.urandom(16)).decode()
    key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n{key}\r\n"
    ).encode()


class Answer:
    """The HTTP answer to the upgrade request; ``body`` is empty where it was accepted."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self) -> str:
        """The gateway's error code, or the status of somebody else's answer."""
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, LookupError, TypeError):
            return f"http_{self.status}"


class ServerFrames:
    """Bytes in, messages out. The gateway never fragments its messages."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data

    def answer(self) -> Answer | None:
        """The HTTP answer, once it is there; what follows an accepted upgrade stays for ``next``.

        Raises:
            BadFrame: It is no HTTP.
        """
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            if len(self._buffer) > LONGEST:
                raise BadFrame("an answer without an end")
            return None
        status, headers = _head(head)
        if status == 101:
            self._buffer = rest
            return Answer(status, headers, b"")
        length = headers.get("content-length", "0")
        if not length.isdigit() or len(rest) < int(length) <= LONGEST:
            return None
        return Answer(status, headers, rest)

    def next(self) -> tuple[int, bytes] | None:
        """The next whole message: opcode and payload.

        Raises:
            BadFrame: It is longer than any event.
        """
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
            if length > LONGEST:
                raise BadFrame("a message longer than any event")
        if len(buffer) < start + length:
            return None
        self._buffer = buffer[start + length :]
        return buffer[0] & 0x0F, buffer[start : start + length]


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/") or not parts[1].isdigit():
        raise BadFrame("an answer that is no HTTP")
    pairs = (line.partition(":") for line in lines)
    return int(parts[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
