"""``GET /v1/streams`` and the WebSocket on which another than its client follows a stream."""

import asyncio
from collections.abc import Sequence

import structlog
from aiohttp import ClientConnectionResetError, web

from perch.server.observers import Watcher, end
from perch.server.parts import CONFIG, PARTS
from perch.server.streams import credentials

log = structlog.get_logger(__name__)

_SCOPE = "admin"


def add_routes(app: web.Application) -> None:
    app.router.add_get("/v1/streams", streams)
    app.router.add_get("/v1/streams/{id}/events", events)


async def _allowed(request: web.Request) -> None:
    """Whoever follows others' words needs the scope ``admin``, unless nobody is asked who it is."""
    authenticator = request.app[PARTS].authenticator
    await authenticator.authenticate(credentials(request), _SCOPE if authenticator.required else "transcribe")


async def streams(request: web.Request) -> web.Response:
    await _allowed(request)
    listed = [audience.described() for audience in request.app[PARTS].observers.streams.values()]
    return web.json_response({"streams": listed})


async def events(request: web.Request) -> web.StreamResponse:
    """Native events: the finals so far, then everything as it comes."""
    await _allowed(request)
    audience = request.app[PARTS].observers.find(request.match_info["id"])
    watcher, finals = audience.watch()
    try:
        socket = web.WebSocketResponse(heartbeat=request.app[CONFIG].heartbeat_s, compress=False)
        await socket.prepare(request)
        reading = asyncio.create_task(_until_gone(socket, watcher))
        try:
            await _send(socket, watcher, finals)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        return socket
    finally:
        audience.unwatch(watcher)


async def _send(socket: web.WebSocketResponse, watcher: Watcher, finals: Sequence[str]) -> None:
    try:
        for frame in finals:
            await socket.send_str(frame)
        while (following := await watcher.get()) is not None:
            await socket.send_str(following)
        await socket.close()
    except (ClientConnectionResetError, ConnectionError, RuntimeError):
        log.info("observer_gone")


async def _until_gone(socket: web.WebSocketResponse, watcher: Watcher) -> None:
    async for _ in socket:
        pass  # an observer has nothing to say
    end(watcher)
