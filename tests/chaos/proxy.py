"""A TCP proxy that treats its connections as badly as networks do, on command and per direction."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
"""up: from the client to the target; down: back."""

_CHUNK = 64 * 1024
_TICK_S = 0.02
_CONNECT_S = 5.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on, 0 seconds: closing sends RST instead of FIN."""


@dataclass
class Way:
    """How one direction of every connection is treated, from the next chunk on."""

    latency_s: float = 0.0
    """Each chunk is held up for at least this long."""
    jitter_s: float = 0.0
    """And for at most this much longer, at random."""
    bytes_per_s: float | None = None
    """Trickle: no faster than this."""
    passes: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.passes.set()

    def black_hole(self) -> None:
        """Nothing arrives any more, not even the end of the connection, until ``clear``."""
        self.passes.clear()

    def clear(self) -> None:
        """Treat it well again; what a black hole held back arrives late, as TCP would have it."""
        self.latency_s, self.jitter_s, self.bytes_per_s = 0.0, 0.0, None
        self.passes.set()


class _Link:
    """One connection of a client and its counterpart to the target."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.writers = {"up": target, "down": client}
        self.severed: set[Direction] = set()

    def reset(self) -> None:
        for writer in self.writers.values():
            raw = writer.get_extra_info("socket")
            with suppress(OSError):  # the other end may have closed it already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def half_close(self, direction: Direction) -> None:
        """Send FIN; what comes that way from now on is dropped."""
        self.severed.add(direction)
        with suppress(OSError, RuntimeError):
            self.writers[direction].write_eof()


class ChaosProxy:
    """Forwards ``address`` to ``target``. Use it as an asynchronous context manager: ``chaos_proxy``."""

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self.up, self.down = Way(), Way()
        self.accepted = 0
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._dice = random.Random(seed)
        self._listening_on = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening_on}"

    @property
    def links(self) -> int:
        """Connections open now."""
        return len(self._links)

    async def accept(self) -> None:
        """Listen, always on the same port."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._listening_on)
            self._listening_on = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse new connections until ``accept``; those open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset(self) -> None:
        """Break every open connection with RST, both ends."""
        for link in tuple(self._links):
            link.reset()

    def half_close(self, direction: Direction) -> None:
        """End one direction of every open connection with FIN; the other goes on."""
        for link in tuple(self._links):
            link.half_close(direction)

    def clear(self) -> None:
        self.up.clear()
        self.down.clear()

    async def aclose(self) -> None:
        self.refuse()
        self.reset()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                back, out = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return
        link = _Link(writer, out)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, link, "up"))
                tasks.create_task(self._pump(back, link, "down"))
        finally:
            self._links.discard(link)
            for end in link.writers.values():
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, link: _Link, direction: Direction) -> None:
        way = self.up if direction == "up" else self.down
        with suppress(OSError):  # one end broke off: the other is told below
            while chunk := await reader.read(_CHUNK):
                await self._carry(chunk, link, direction, way)
            await way.passes.wait()
            if direction not in link.severed:
                link.half_close(direction)
            return
        link.reset()

    async def _carry(self, chunk: bytes, link: _Link, direction: Direction, way: Way) -> None:
        if delay := way.latency_s + self._dice.random() * way.jitter_s:
            await asyncio.sleep(delay)
        writer = link.writers[direction]
        while chunk:
            await way.passes.wait()
            if direction in link.severed:
                return
            rate = way.bytes_per_s
            size = len(chunk) if rate is None else max(1, round(rate * _TICK_S))
            writer.write(chunk[:size])
            await writer.drain()
            chunk = chunk[size:]
            if rate is not None:
                await asyncio.sleep(_TICK_S)


@asynccontextmanager
async def chaos_proxy(target: str, *, seed: int = 0) -> AsyncIterator[ChaosProxy]:
    """A proxy to ``target`` (``host:port``) on a free port, closed with all its connections at the end."""
    proxy = ChaosProxy(target, seed=seed)
    await proxy.accept()
    try:
        yield proxy
    finally:
        await proxy.aclose()
