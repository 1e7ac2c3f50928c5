"""Which dialect is spoken on which path."""

from collections.abc import Callable, Mapping

from aiohttp import web

from perch.protocols import assemblyai, audiocodes, deepgram, media_streams, native, realtime, vosk
from perch.protocols.base import Dialect
from perch.server import streams

Choose = Callable[[web.Request], Dialect]


def _always(dialect: Dialect) -> Choose:
    return lambda _: dialect


def _realtime(request: web.Request) -> Dialect:
    return realtime.choose(request.headers, request.query)


def _openai(request: web.Request) -> Dialect:
    chosen = realtime.choose(request.headers, {})
    return realtime.OPENAI_GA if chosen is realtime.NIM else chosen


STREAM_PATH = "/v1/audio/transcriptions/stream"
STREAM_ALIAS = "/ws/transcribe"

PATHS: Mapping[str, Choose] = {
    STREAM_PATH: _always(native.DIALECT),
    STREAM_ALIAS: _always(native.DIALECT),
    "/v1/realtime": _realtime,
    "/nim/v1/realtime": _always(realtime.NIM),
    "/openai/v1/realtime": _openai,
    "/v1/listen": _always(deepgram.DIALECT),
    "/v3/ws": _always(assemblyai.DIALECT),
    "/vosk": _always(vosk.DIALECT),
    "/twilio": _always(media_streams.DIALECT),
    "/twilio/{token}": _always(media_streams.DIALECT),
    "/media-stream": _always(media_streams.DIALECT),
    "/media-stream/{token}": _always(media_streams.DIALECT),
    "/audiocodes": _always(audiocodes.DIALECT),
    "/audiocodes/{token}": _always(audiocodes.DIALECT),
}


def add_routes(app: web.Application) -> None:
    for path, choose in PATHS.items():
        app.router.add_get(path, streams.handler(choose))
