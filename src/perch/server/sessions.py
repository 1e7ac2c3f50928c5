"""The sessions open in this process, and waiting for them to be over."""

import asyncio
from collections.abc import Iterator

from perch.server.connection import Connection


class OpenSessions:
    """A set of connections whose emptiness can be awaited."""

    def __init__(self) -> None:
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._connections))

    def add(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()

    def discard(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        await self._empty.wait()
