"""One gateway with the embedded recogniser for all clients, and what it hears by Perch's own dialect."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
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
    """A process that outlives the event loops of the tests, so it has a loop of its own to be started on."""
    environment = {"PERCH_API_KEYS": KEY}
    with asyncio.Runner() as runner:
        starting = _started(environment)
        url = runner.run(anext(starting))
        try:
            yield Demo(url, url.replace("http", "ws", 1))
        finally:
            with contextlib.suppress(StopAsyncIteration):
                runner.run(anext(starting))


async def _started(environment: dict[str, str]) -> AsyncIterator[str]:
    async with running(*perch("demo", "--port", "0"), environment=environment) as gateway:
        yield gateway.url.replace("localhost", "127.0.0.1")


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
