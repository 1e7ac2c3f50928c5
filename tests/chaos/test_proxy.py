"""The proxy does to a connection what it is told, and nothing else."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from chaos.proxy import ChaosProxy, chaos_proxy

DEADLINE_S = 5.0
SOON_S = 0.2


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that sends back what it gets, and ends when its client does."""
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            writer.write(b".")
            await writer.drain()
        writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(len(data))

    async def hears_nothing(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await self.reader.read(1)
            return False
        return True


@asynccontextmanager
async def call(proxy: ChaosProxy) -> AsyncIterator[Caller]:
    host, _, port = proxy.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()


async def test_left_alone_it_forwards_everything_both_ways() -> None:
    async with echo() as target, chaos_proxy(target) as proxy, call(proxy) as caller:
        data = bytes(range(256)) * 4096
        assert await caller.says(data) == data
        assert (proxy.links, proxy.accepted) == (1, 1)


async def test_latency_and_jitter_hold_every_chunk_up() -> None:
    async with echo() as target, chaos_proxy(target) as proxy, call(proxy) as caller:
        await caller.says(b"connected")
        proxy.up.latency_s, proxy.down.latency_s, proxy.down.jitter_s = 0.1, 0.1, 0.05
        began = time.monotonic()
        await caller.says(b"late")
        assert time.monotonic() - began >= 0.2
        proxy.clear()
        soonest = math.inf
        for _ in range(5):  # the machine may be slow at one of them
            began = time.monotonic()
            await caller.says(b"soon")
            soonest = min(soonest, time.monotonic() - began)
        assert soonest < 0.1, "the held-up one took twice that"


async def test_a_trickle_is_no_faster_than_its_rate() -> None:
    async with echo() as target, chaos_proxy(target) as proxy, call(proxy) as caller:
        proxy.up.bytes_per_s = 1000.0
        began = time.monotonic()
        assert await caller.says(bytes(300)) == bytes(300)
        assert time.monotonic() - began >= 0.25


async def test_a_reset_breaks_open_connections_and_lets_new_ones_in() -> None:
    async with echo() as target, chaos_proxy(target) as proxy:
        async with call(proxy) as caller:
            await caller.says(b"connected")
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await caller.reader.read(1)
        async with call(proxy) as caller:
            assert await caller.says(b"again") == b"again"


async def test_a_half_close_upwards_still_lets_the_answer_come() -> None:
    async with echo() as target, chaos_proxy(target) as proxy, call(proxy) as caller:
        await caller.says(b"connected")
        proxy.half_close("up")
        assert await caller.reader.read(10) == b".", "the target saw the end and said its last word"


async def test_a_half_close_downwards_ends_what_the_caller_hears() -> None:
    async with echo() as target, chaos_proxy(target) as proxy, call(proxy) as caller:
        await caller.says(b"connected")
        proxy.half_close("down")
        assert await caller.reader.read(10) == b""
        caller.writer.write(b"nobody answers this")
        assert await caller.reader.read(10) == b""


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_black_hole_swallows_until_it_is_lifted(direction: str) -> None:
    async with echo() as target, chaos_proxy(target) as proxy, call(proxy) as caller:
        await caller.says(b"connected")
        (proxy.up if direction == "up" else proxy.down).black_hole()
        caller.writer.write(b"x")
        assert await caller.hears_nothing()
        proxy.clear()
        assert await caller.reader.readexactly(1) == b"x"


async def test_refused_connections_are_refused_until_it_accepts_on_the_same_port() -> None:
    async with echo() as target, chaos_proxy(target) as proxy:
        before = proxy.address
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            async with call(proxy):
                pass
        await proxy.accept()
        assert proxy.address == before
        async with call(proxy) as caller:
            assert await caller.says(b"hello") == b"hello"


async def test_a_target_that_is_not_there_ends_the_connection() -> None:
    async with chaos_proxy("127.0.0.1:9") as proxy, call(proxy) as caller:
        with suppress(ConnectionResetError):
            assert await caller.reader.read(1) == b""
        assert proxy.links == 0
