"""A TCP relay that cuts connections when a chosen number of bytes has passed through it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Relay:
    """Forwards to ``port``; ``budget()`` says after how many bytes, of both directions, to cut each connection."""

    def __init__(self, port: int, budget: Callable[[], int | None]) -> None:
        self.cuts = 0
        self.port = port
        self.url = ""
        self._budget = budget
        self._tasks: set[asyncio.Task[None]] = set()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:  # nobody is there any more: the client finds out
            return
        left = [self._budget()]
        copies = [
            asyncio.create_task(self._copy(reader, far_writer, left)),
            asyncio.create_task(self._copy(far_reader, writer, left)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.wait(copies)
            far_writer.transport.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int | None]
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                budget = left[0]
                if budget is not None and budget < len(data):
                    left[0] = 0
                    self.cuts += 1
                    writer.write(data[:budget])
                    return
                if budget is not None:
                    left[0] = budget - len(data)
                writer.write(data)
                await writer.drain()

    async def aclose(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def relay(port: int, budget: Callable[[], int | None]) -> AsyncIterator[Relay]:
    """A relay on a free port, in ``Relay.url`` as ``host:port``."""
    made = Relay(port, budget)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.url = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await made.aclose()
        await server.wait_closed()
