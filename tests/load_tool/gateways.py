"""Gateways for the load tool to talk to: the real one over the mock backend, and ones that fail on cue."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext

from aiohttp import web

from perch.asr.riva_client import RivaASRClient
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.app import build_app
from perch.server.config import GatewayConfig
from perch.server.dialects import STREAM_PATH


@asynccontextmanager
async def listening(app: web.Application, ssl_context: SSLContext | None = None) -> AsyncIterator[str]:
    """Serve ``app`` on a free port of loopback; yields its address."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
        await site.start()
        yield f"{'https' if ssl_context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def mock_gateway(
    metrics: Metrics | None = None,
    tracing: Tracing | None = None,
    ssl_context: SSLContext | None = None,
    **config: object,
) -> AsyncIterator[str]:
    """The gateway, recognising made-up words."""
    settings = GatewayConfig(tls=None, **config)  # type: ignore[arg-type]
    client = RivaASRClient(mock_mode=True)
    app = build_app(settings, client, metrics or Metrics(), tracing or Tracing(None))
    async with listening(app, ssl_context) as host:
        yield host


@asynccontextmanager
async def gateway_that(
    serves: Callable[[web.WebSocketResponse], Awaitable[None]],
) -> AsyncIterator[str]:
    """Says ``ready`` to every start message, then does as ``serves`` says, then closes."""

    async def stream(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert (await socket.receive_json())["type"] == "start"
        await socket.send_json({"type": "ready"})
        await serves(socket)
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get(STREAM_PATH, stream)
    async with listening(app) as host:
        yield host
