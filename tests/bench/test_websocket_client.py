from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web
from bench.websocket_client import PATH, StreamFailed

from bench import websocket_client

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get(PATH, handler)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Says how long each message was and how it ended, after a ping; closes at ``stop``."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.BINARY:
            await socket.ping(b"there?")
            await socket.send_json({"length": len(message.data), "last": message.data[-1]})
        elif message.json()["type"] == "stop":
            await socket.close()
        else:
            await socket.send_json({"type": "ready"} | message.json()["config"])
    return socket


@pytest.mark.parametrize("length", [1, 125, 126, 3_200, 65_535, 65_536])
async def test_frames_of_every_length_arrive_whole(length: int) -> None:
    async with serving(echo) as address:
        stream = await websocket_client.connect(address)
        await stream.send(websocket_client.audio_frame(bytes(length - 1) + b"\x07"))
        await stream.finish()
    answers = [text for _, text in stream.heard]
    assert answers[1:] == [b'{"length": %d, "last": 7}' % length]


async def test_long_answers_are_put_together_again() -> None:
    async def talkative(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for length in (10, 200, 70_000):
            await socket.send_str("x" * length)
        await socket.receive()
        await socket.receive()
        await socket.close()
        return socket

    async with serving(talkative) as address:
        stream = await websocket_client.connect(address)
        await stream.finish()
    assert [len(text) for _, text in stream.heard] == [10, 200, 70_000]


async def test_times_of_arrival_do_not_run_backwards() -> None:
    async with serving(echo) as address:
        stream = await websocket_client.connect(address)
        for _ in range(5):
            await stream.send(websocket_client.audio_frame(b"12"))
        await stream.finish()
    times = [at for at, _ in stream.heard]
    assert len(times) == 6
    assert times == sorted(times)


async def test_a_refused_upgrade_says_with_what_status() -> None:
    async def full(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async with serving(full) as address:
        with pytest.raises(StreamFailed, match="503"):
            await websocket_client.connect(address)


async def test_any_close_code_but_1000_is_a_failure() -> None:
    async def broken(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "ready"})
        await socket.receive()
        await socket.close(code=1011)
        return socket

    async with serving(broken) as address:
        stream = await websocket_client.connect(address)
        with pytest.raises(StreamFailed, match="1011"):
            await stream.finish()
