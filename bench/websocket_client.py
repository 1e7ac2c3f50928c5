"""The lightest WebSocket client that speaks ``perch.v1``, so that the load costs less than what it loads.

Frames are built and masked once and shared by all streams; what comes back is kept as bytes with the time
of its arrival, and read when the measurement is over (RFC 6455 is implemented as far as that needs).
"""

import asyncio
import base64
import os
import struct
from time import perf_counter
from typing import cast

import orjson

PATH = "/v1/audio/transcriptions/stream"

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_KEY = b"\x5a\xa5\x3c\xc3"
_SHORT, _MEDIUM, _LONG = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")
_NORMAL = 1000
_OPEN_S = 30.0
_END_S = 30.0


class StreamFailed(Exception):
    """A stream ended otherwise than it should."""


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One masked WebSocket frame."""
    length = len(payload)
    mask = int.from_bytes((_KEY * (length // 4 + 1))[:length], "big")
    masked = (int.from_bytes(payload, "big") ^ mask).to_bytes(length, "big")
    if length < 126:
        return _SHORT.pack(0x80 | opcode, 0x80 | length) + _KEY + masked
    if length < 1 << 16:
        return _MEDIUM.pack(0x80 | opcode, 0x80 | 126, length) + _KEY + masked
    return _LONG.pack(0x80 | opcode, 0x80 | 127, length) + _KEY + masked


def audio_frame(pcm: bytes) -> bytes:
    """A WebSocket frame that carries ``pcm``, ready to be written."""
    return client_frame(_BINARY, pcm)


_STOP = client_frame(_TEXT, orjson.dumps({"type": "stop"}))


class WebSocketStream(asyncio.Protocol):
    """One session. ``heard`` grows by every text message: when it came, and what it was."""

    def __init__(self, host: str, *, partials: bool) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self._host = host
        self._start = {"sample_rate": 16_000, "encoding": "pcm16", "partials": partials}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._upgraded = False
        self._first = self._loop.create_future()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        """The close code, or 0 for a connection that just broke off."""

    async def open(self) -> None:
        """Start a session and wait until it is ready.

        Raises:
            StreamFailed: The gateway refused it.
        """
        async with asyncio.timeout(_OPEN_S):
            await self._first

    async def send(self, frame: bytes) -> None:
        """Send an ``audio_frame``.

        Raises:
            StreamFailed: The session is over.
        """
        if self._ended.done():
            raise StreamFailed(self._reason())
        assert self._transport is not None
        self._transport.write(frame)

    async def finish(self) -> None:
        """Stop, and wait for the end.

        Raises:
            StreamFailed: It ended with anything but 1000.
        """
        await self.send(_STOP)
        async with asyncio.timeout(_END_S):
            if await self._ended != _NORMAL:
                raise StreamFailed(self._reason())
        self.abort()

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _reason(self) -> str:
        last = self.heard[-1][1].decode() if self.heard else "nothing"
        code = self._ended.result() if self._ended.done() else None
        return f"closed with {code} after {last[:200]}"

    # --- asyncio.Protocol ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio's
        nonce = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {PATH} HTTP/1.1\r\nHost: {self._host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self._buffer = self._buffer + data if self._buffer else data
        if not self._upgraded and not self._upgrade():
            return
        while (message := self._next()) is not None:
            self._receive(now, *message)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self._ended.done():
            self._ended.set_result(0)
        self._fail_opening("the gateway closed the connection")

    # --- reading -------------------------------------------------------------------------------------

    def _upgrade(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            self._fail_opening(head.split(b"\r\n", 1)[0].decode())
            self.abort()
            return False
        self._upgraded = True
        self._buffer = rest
        assert self._transport is not None
        self._transport.write(client_frame(_TEXT, orjson.dumps({"type": "start", "config": self._start})))
        return True

    def _next(self) -> tuple[int, bytes] | None:
        """The next whole message of the buffer: opcode and payload. The gateway never fragments."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + length:
            return None
        self._buffer = buffer[start + length :]
        return buffer[0] & 0x0F, buffer[start : start + length]

    def _receive(self, now: float, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self.heard.append((now, payload))
            if not self._first.done():
                self._first.set_result(None)
        elif opcode == _PING:
            assert self._transport is not None
            self._transport.write(client_frame(_PONG, payload))
        elif opcode == _CLOSE and not self._ended.done():
            self._ended.set_result(int.from_bytes(payload[:2], "big"))

    def _fail_opening(self, reason: str) -> None:
        if not self._first.done():
            self._first.set_exception(StreamFailed(reason))


async def connect(address: str, *, partials: bool = True) -> WebSocketStream:
    """A session at ``host:port``, ready for audio.

    Raises:
        StreamFailed: The gateway refused it.
        OSError: Nothing listens there.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(
        lambda: WebSocketStream(address, partials=partials), host, int(port)
    )
    await stream.open()
    return stream
