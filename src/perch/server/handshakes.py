"""Connections that never get round to a request: ended after a while, so that they cost nobody a descriptor."""

import asyncio
import time

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

_TICK_S = 1.0


async def drop_silent(server: web.Server, patience_s: float) -> None:
    """End every connection of ``server`` that has not sent a whole request head after ``patience_s``.

    Runs until it is cancelled. aiohttp has time-outs between requests but none before the first.
    """
    since: dict[RequestHandler, float] = {}
    while True:
        await asyncio.sleep(min(_TICK_S, patience_s))
        now = time.monotonic()
        silent = [c for c in server.connections if c._request_count == 0]  # noqa: SLF001 - told nowhere else
        since = {connection: since.get(connection, now) for connection in silent}
        for connection, first_seen in since.items():
            if now - first_seen > patience_s and connection.transport is not None:
                connection.transport.abort()
