"""Start, serve, drain, stop; each step with a deadline, and a second signal skips the waiting."""

import asyncio
import gc
import signal
import ssl
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from perch.errors import GoingAway
from perch.server.handshakes import drop_silent
from perch.server.parts import CONFIG, PARTS, Parts

log = structlog.get_logger(__name__)

_ABORT_S = 6.0
_GC = (20_000, 20, 50)
"""Sessions make many objects and few cycles: collected as often as Python does, they cost a tenth of the CPU."""


async def serve(
    app: web.Application,
    *,
    ssl_context: ssl.SSLContext | None = None,
    on_listening: Callable[[int], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or ``stop``, then drain and return.

    ``on_listening`` is called once, with the bound port. Setting ``stop`` does what the first signal does.

    Raises:
        OSError: The address cannot be bound.
    """
    config = app[CONFIG]
    stop = stop or asyncio.Event()
    force = asyncio.Event()
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        site = web.TCPSite(
            runner,
            config.host,
            config.port,
            ssl_context=ssl_context,
            reuse_port=config.reuse_port or None,
            backlog=1024,
        )
        await site.start()
        assert runner.server is not None
        dropping = asyncio.create_task(drop_silent(runner.server, config.request_head_s), name="silent-watch")
        with _Signals(stop, force):
            on_listening(_port(runner))
            gc.collect()
            gc.freeze()  # what exists now lives as long as the process; the collector need not look at it again
            gc.set_threshold(*_GC)
            await stop.wait()
            await drain(app[PARTS], config.drain_s, force)
            dropping.cancel()
            await asyncio.wait([dropping])
    finally:
        await runner.cleanup()


async def drain(parts: Parts, drain_s: float, force: asyncio.Event) -> None:
    """Refuse new sessions, tell the open ones, wait for them, then hand over what is left."""
    parts.admission.shut()
    log.info("draining", sessions=len(parts.sessions), deadline_s=drain_s)
    await parts.resumption.leave()
    for connection in parts.sessions:
        connection.notify("going_away", f"This gateway stops within {drain_s:g} s; finish or reconnect.")
    await _first_of(parts.sessions.wait_empty(), force.wait(), timeout_s=drain_s)
    for connection in parts.sessions:
        connection.abort(GoingAway("This gateway is shutting down; connect again.", retry_after=1.0))
    await _first_of(parts.sessions.wait_empty(), timeout_s=_ABORT_S)
    log.info("drained", sessions=len(parts.sessions))


async def _first_of(*waits: Awaitable[object], timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _port(runner: web.AppRunner) -> int:
    address = runner.addresses[0]
    return int(address[1])


class _Signals:
    """The first SIGTERM or SIGINT sets ``stop``, the next sets ``force``."""

    def __init__(self, stop: asyncio.Event, force: asyncio.Event) -> None:
        self._stop = stop
        self._force = force

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._received)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    def _received(self) -> None:
        (self._force if self._stop.is_set() else self._stop).set()
