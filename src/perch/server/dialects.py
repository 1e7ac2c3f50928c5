"""Which dialect is spoken on which path."""

from collections.abc import Callable, Mapping

from aiohttp import web

from perch.protocols import native
from perch.protocols.base import Dialect
from perch.server import streams

Choose = Callable[[web.Request], Dialect]


def _always(dialect: Dialect) -> Choose:
    return lambda _: dialect


STREAM_PATH = "/v1/audio/transcriptions/stream"
STREAM_ALIAS = "/ws/transcribe"

PATHS: Mapping[str, Choose] = {
    STREAM_PATH: _always(native.DIALECT),
    STREAM_ALIAS: _always(native.DIALECT),
}


def add_routes(app: web.Application) -> None:
    for path, choose in PATHS.items():
        app.router.add_get(path, streams.handler(choose))
