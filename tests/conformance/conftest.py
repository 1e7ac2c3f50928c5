"""One gateway with the embedded recogniser for all clients, and what it hears by Perch's own dialect."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache

import aiohttp
import pytest

from gateways import cut, listen
from processes import perch, running
from speech import Clip, normalised

KEY = "conformance-key-7f3a9c"


@dataclass(frozen=True)
class Demo:
    """``perch demo`` with an API key: ``http`` and ``ws`` are its URLs without a path."""

    http: str
    ws: str
    key: str = KEY

    @cache  # noqa: B019 - one instance, as long as the tests
    def words(self, clip: Clip) -> list[str]:
        """What Perch's own dialect makes of ``clip``, in lower case without punctuation."""
        return normalised(asyncio.run(_transcribed(self, clip))).split()


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """It outlives the event loops of the tests, so it has a loop of its own, in a thread that reads its log."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="demo gateway")
    thread.start()
    stack = AsyncExitStack()
    started = running(*perch("demo", "--port", "0"), environment={"PERCH_API_KEYS": KEY})
    try:
        gateway = asyncio.run_coroutine_threadsafe(stack.enter_async_context(started), loop).result(60)
        url = gateway.url.replace("localhost", "127.0.0.1")
        yield Demo(url, url.replace("http", "ws", 1))
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _transcribed(demo: Demo, clip: Clip) -> str:
    url = f"{demo.ws}/v1/audio/transcriptions/stream"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {demo.key}"}) as session,
        session.ws_connect(url) as socket,
    ):
        listening = asyncio.create_task(listen(socket, deadline_s=120))
        for frame in cut(clip.pcm):
            await socket.send_bytes(frame)
        await socket.send_json({"type": "stop"})
        return (await listening).text
