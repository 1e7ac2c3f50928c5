"""The real gateway on loopback, and a client that checks every event against the published schema."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import jsonschema
from aiohttp import web

from perch.asr.base import ASRClient
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.app import build_app
from perch.server.config import GatewayConfig
from perch.server.dialects import STREAM_PATH
from perch.server.parts import PARTS, Parts

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs/reference/native-events.schema.json").read_text(encoding="utf-8"))
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Gateway:
    """A gateway that serves on ``http``; ``parts`` are its insides."""

    http: str
    ws: str
    parts: Parts
    client: aiohttp.ClientSession


@asynccontextmanager
async def gateway(client: ASRClient, config: GatewayConfig | None = None) -> AsyncIterator[Gateway]:
    """Serve ``build_app`` on a free port."""
    config = replace(config or GatewayConfig(), host="127.0.0.1", port=0, tls=None)
    with TemporaryDirectory(prefix="perch-test-") as folder:
        if config.state_dir == GatewayConfig().state_dir:
            config = replace(config, state_dir=Path(folder))
        async with _serving(build_app(config, client, Metrics(), Tracing(None))) as at:
            yield at


@asynccontextmanager
async def _serving(app: web.Application) -> AsyncIterator[Gateway]:
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            yield Gateway(http, http.replace("http", "ws") + STREAM_PATH, app[PARTS], session)
    finally:
        await runner.cleanup()


@dataclass
class Heard:
    """Everything a client was told, and how it ended."""

    events: list[dict[str, Any]] = field(default_factory=list)
    close_code: int | None = None

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def text(self) -> str:
        return " ".join(event["text"] for event in self.of("final") if event["text"])

    @property
    def error(self) -> str | None:
        errors = self.of("error")
        return errors[0]["code"] if errors else None


def check_event(event: dict[str, Any]) -> None:
    """Raise unless ``event`` is in the published schema."""
    definition = _VALIDATOR.evolve(schema={"$ref": f"#/$defs/{event['type']}", "$defs": SCHEMA["$defs"]})
    definition.validate(event)


async def listen(
    socket: aiohttp.ClientWebSocketResponse, heard: Heard | None = None, *, deadline_s: float = DEADLINE_S
) -> Heard:
    """Collect events until the server closes, checking each one and the order of all."""
    heard = heard or Heard()
    async with asyncio.timeout(deadline_s):
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            event = json.loads(message.data)
            check_event(event)
            heard.events.append(event)
            assert event["seq"] == len(heard.events), "sequence numbers have no gap"
    heard.close_code = socket.close_code
    return heard


async def next_event(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        event: dict[str, Any] = await socket.receive_json()
    check_event(event)
    return event


def cut(audio: bytes, size: int = 3200) -> Iterable[bytes]:
    return (audio[position : position + size] for position in range(0, len(audio), size))


async def transcribe(
    at: Gateway,
    frames: Iterable[bytes],
    *,
    start: dict[str, Any] | None = None,
    query: str = "",
    pace_s: float = 0.0,
) -> Heard:
    """One whole session: start, audio, stop, and everything that came back."""
    async with at.client.ws_connect(at.ws + query) as socket:
        listening = asyncio.create_task(listen(socket))
        if start is not None:
            await socket.send_json({"type": "start", "config": start})
        with suppress(ConnectionError):  # the server may close first; what it said is what counts
            for frame in frames:
                await socket.send_bytes(frame)
                await asyncio.sleep(pace_s)
            await socket.send_json({"type": "stop"})
        return await listening
