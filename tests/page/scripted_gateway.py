"""A gateway that says what it is told to: the native protocol over a real socket, words from a script.

It stands in for the product only where a page must be shown something a recogniser would not say on cue:
a drop, a late accept, a missing key, markup where words should be.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

STATIC = Path(__file__).parents[2] / "static"
BYTES_PER_SECOND = 32_000
CSP = (
    "default-src 'self'; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)


@dataclass(frozen=True)
class Utterance:
    """Words, their confidences, and when in the recording they are said.

    An utterance must be over, by 0.3 s, before the next one's first word is.
    """

    words: tuple[str, ...]
    start: float
    step: float = 0.3
    confidences: tuple[float | None, ...] = ()

    @property
    def end(self) -> float:
        return self.start + self.step * len(self.words)

    def said_by(self, position: float) -> tuple[str, ...]:
        return self.words[: max(0, int((position - self.start) / self.step + 1e-9))]

    def described(self) -> list[dict[str, Any]]:
        confidences = self.confidences or (None,) * len(self.words)
        return [
            {
                "word": word,
                "start": round(self.start + n * self.step, 3),
                "end": round(self.start + (n + 1) * self.step, 3),
                "confidence": confidence,
            }
            for n, (word, confidence) in enumerate(zip(self.words, confidences, strict=True))
        ]


@dataclass
class Script:
    """What the gateway does. Positions are seconds of the recording."""

    utterances: tuple[Utterance, ...] = ()
    backend: str = "engine"
    model: str = "scripted"
    notice: str | None = None
    mode: str | None = None
    partials: bool | None = None
    """What it says of words before a final; it sends them unless this is False."""
    languages: tuple[str, ...] = ("en-GB", "nl-NL")
    key: str = ""
    resumable: bool = True
    drop_at: list[float] = field(default_factory=list)
    """The connection is cut, without a close frame, when this much audio has come; once each."""
    accept: asyncio.Event | None = None
    """No socket is accepted before this is set."""
    error: dict[str, Any] | None = None
    """Sent in place of ``ready``."""
    notices: list[tuple[float, str, str]] = field(default_factory=list)
    """Position, code and message of each, once."""


@dataclass
class Stream:
    """One recognition session, over all its connections."""

    audio: bytearray = field(default_factory=bytearray)
    seq: int = 0
    acks: list[tuple[int, int]] = field(default_factory=list)
    shown: tuple[int, int] = (0, 0)
    stopped: bool = False

    @property
    def position(self) -> float:
        return len(self.audio) / BYTES_PER_SECOND


class ScriptedGateway:
    """See ``serve``. ``streams`` and ``openings`` are what clients did."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams: list[Stream] = []
        self.openings: list[dict[str, Any]] = []
        self.protocols: list[str] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/", self._index)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/audio/transcriptions/stream", self._stream)
        app.router.add_static("/static", STATIC)
        app.on_response_prepare.append(_secure)
        return app

    async def _index(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _ready(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "status": "ready",
                "auth_required": bool(self.script.key),
                **self._description(),
                **self._abilities(),
            }
        )

    async def _models(self, _: web.Request) -> web.Response:
        capabilities = {"languages": list(self.script.languages)}
        return web.json_response({"data": [{"id": self.script.model, "capabilities": capabilities}]})

    def _description(self) -> dict[str, Any]:
        return {"backend": self.script.backend, "model": self.script.model, "notice": self.script.notice}

    def _abilities(self) -> dict[str, Any]:
        return {"streaming_mode": self.script.mode, "partials": self.script.partials}

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.protocols.append(request.headers.get("Sec-WebSocket-Protocol", ""))
        if self.script.key and f"perch-key.{self.script.key}" not in self.protocols[-1]:
            return web.json_response({"error": {"message": "This key is not known."}}, status=401)
        if self.script.accept:
            await self.script.accept.wait()
        socket = web.WebSocketResponse(protocols=["perch.v1"])
        await socket.prepare(request)
        stream = await self._open(socket)
        if stream is not None:
            await self._converse(request, socket, stream)
        return socket

    async def _open(self, socket: web.WebSocketResponse) -> Stream | None:
        opening = await socket.receive_json()
        self.openings.append(opening)
        if self.script.error is not None:
            await socket.send_json({"type": "error", "stream_id": "s", "seq": 1, **self.script.error})
            await socket.close(code=1008)
            return None
        if opening["type"] == "resume":
            stream = self.streams[int(opening["token"])]
            heard = [audio for seq, audio in stream.acks if seq <= opening["last_seq"]]
            del stream.audio[heard[-1] if heard else 0 :]
        else:
            stream = Stream()
            self.streams.append(stream)
        token = str(self.streams.index(stream))
        offer = {"token": token, "ttl_s": 60} if self.script.resumable else None
        about = {**self._description(), "capabilities": self._abilities()}
        await _say(socket, stream, type="ready", protocol="perch.v1", resume=offer, **about)
        return stream

    async def _converse(self, request: web.Request, socket: web.WebSocketResponse, stream: Stream) -> None:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                stream.audio += message.data
                await self._report(socket, stream)
                if self.script.drop_at and stream.position >= self.script.drop_at[0]:
                    self.script.drop_at.pop(0)
                    assert request.transport is not None
                    request.transport.abort()
                    return
            elif json.loads(message.data)["type"] == "stop":
                stream.stopped = True
                await self._report(socket, stream)
                await _say(socket, stream, type="done", audio_s=stream.position, segments=0, text="")
                await socket.close()
            elif json.loads(message.data)["type"] == "ping":
                await _say(socket, stream, type="pong")

    async def _report(self, socket: web.WebSocketResponse, stream: Stream) -> None:
        if stream.position >= len(stream.acks) + 1:
            await _say(socket, stream, type="ack", audio_s=stream.position)
            stream.acks.append((stream.seq, len(stream.audio)))
        while self.script.notices and stream.position >= self.script.notices[0][0]:
            _, code, message = self.script.notices.pop(0)
            await _say(socket, stream, type="notice", code=code, message=message)
        for index, utterance in enumerate(self.script.utterances):
            await self._report_utterance(socket, stream, index, utterance)

    async def _report_utterance(
        self, socket: web.WebSocketResponse, stream: Stream, index: int, utterance: Utterance
    ) -> None:
        said = utterance.said_by(stream.position)
        over = stream.position >= utterance.end + 0.3 or (stream.stopped and bool(said))
        state = (index, len(utterance.words) + 1 if over else len(said))
        if not said or state <= stream.shown:
            return
        stream.shown = state
        common = {"segment": index, "text": " ".join(said), "start": utterance.start}
        if over:
            end, words = utterance.end, utterance.described()[: len(said)]
            await _say(
                socket, stream, type="final", is_final=True, end=end, words=words, confidence=None, **common
            )
        elif self.script.partials is not False:
            end = utterance.start + utterance.step * len(said)
            await _say(socket, stream, type="partial", is_final=False, end=end, stability=0.5, **common)


async def _say(socket: web.WebSocketResponse, stream: Stream, **event: Any) -> None:
    stream.seq += 1
    await socket.send_json({**event, "stream_id": "scripted", "seq": stream.seq})


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Content-Security-Policy"] = CSP
    response.headers["X-Content-Type-Options"] = "nosniff"


@asynccontextmanager
async def serve(script: Script, port: int = 0) -> AsyncIterator[tuple[ScriptedGateway, str]]:
    """Run ``script`` on loopback; yields the gateway and its page's URL."""
    gateway = ScriptedGateway(script)
    runner = web.AppRunner(gateway.app(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        bound = runner.addresses[0][1]
        yield gateway, f"http://localhost:{bound}/"
    finally:
        await runner.cleanup()
