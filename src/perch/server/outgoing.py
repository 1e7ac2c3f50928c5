"""Events of one session → frames on its socket.

Events are written straight to the transport while it takes them: a task switch and an await per event is
the second largest cost of a gateway like this. When the transport's buffer fills because the client reads
slowly, one task takes over and waits for it, and the outbox merges what can be merged meanwhile.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence

from aiohttp import ClientConnectionResetError, web

from perch.core.messages import Event
from perch.core.outbox import Outbox
from perch.protocols.base import WireProtocol

_HIGH_WATER = 16 * 1024
_TEXT = 0x81  # FIN and opcode 1, RFC 6455 section 5.2; a server's frames are not masked
_SHORT, _MEDIUM, _LONG = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")


def text_frame(payload: bytes) -> bytes:
    """One unmasked WebSocket text frame (RFC 6455 section 5.2)."""
    length = len(payload)
    if length < 126:
        return _SHORT.pack(_TEXT, length) + payload
    if length < 1 << 16:
        return _MEDIUM.pack(_TEXT, 126, length) + payload
    return _LONG.pack(_TEXT, 127, length) + payload


class ClientWriter:
    """Sends what an outbox holds. ``flush`` never waits; ``drained`` does."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport,
        outbox: Outbox,
        protocol: WireProtocol,
        on_sent: Callable[[int, Event], None],
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._outbox = outbox
        self._protocol = protocol
        self._on_sent = on_sent
        self._waiting: asyncio.Task[None] | None = None

    def switch(self, outbox: Outbox, on_sent: Callable[[int, Event], None]) -> None:
        """Send from ``outbox`` from now on."""
        self._outbox, self._on_sent = outbox, on_sent

    def flush(self) -> None:
        """Send now what the transport takes; leave the rest to a task that waits for it."""
        if self._waiting is not None:
            return
        transport, outbox = self._transport, self._outbox
        while outbox:
            if transport.is_closing():
                return
            if transport.get_write_buffer_size() > _HIGH_WATER:
                self._waiting = asyncio.create_task(self._wait_and_send())
                self._waiting.add_done_callback(self._caught_up)
                return
            for text in self._next_frames():
                transport.write(text_frame(text.encode()))

    async def drained(self) -> None:
        """Wait until everything queued has been handed to the transport."""
        self.flush()
        while self._waiting is not None:
            await asyncio.wait([self._waiting])

    def cancel(self) -> None:
        """Stop waiting for the client."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def _wait_and_send(self) -> None:
        """``send_str`` of a socket made with ``writer_limit=0`` waits while the transport is paused."""
        while self._outbox:
            for text in self._next_frames():
                try:
                    await self._socket.send_str(text)
                except (ClientConnectionResetError, ConnectionError, RuntimeError):
                    return  # the client is gone; the socket's reader tells the connection

    def _next_frames(self) -> Sequence[str]:
        item = self._outbox.pop()
        if item is None:
            return ()
        seq, event = item
        self._on_sent(seq, event)
        return self._protocol.encode(seq, event)

    def _caught_up(self, task: asyncio.Task[None]) -> None:
        self._waiting = None
        if not task.cancelled() and task.exception() is None:
            self.flush()
