"""A client that comes back: one session over as many sockets as it takes, by the rules of the protocol."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gateways import Heard, check_event


@dataclass
class ResumingClient:
    """Sends ``audio`` in ``config``'s format; ``url()`` is asked for an address before each connection."""

    http: aiohttp.ClientSession
    url: Callable[[], str]
    audio: bytes
    config: dict[str, Any] = field(default_factory=dict)
    bytes_per_second: int = 32_000
    frame: int = 3200
    pace_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    heard: Heard = field(default_factory=Heard)
    token: str | None = None
    last_seq: int = 0
    resumed: int = 0
    refused: int = 0
    positions: list[int] = field(default_factory=list)
    """In bytes, where each connection went on from."""

    async def run(self, deadline_s: float = 60.0) -> Heard:
        async with asyncio.timeout(deadline_s):
            while not self.heard.of("done"):
                with suppress(aiohttp.ClientError, ConnectionError):
                    await self._connect()
                await asyncio.sleep(0.01)
        return self.heard

    async def _connect(self) -> None:
        try:
            socket = await self.http.ws_connect(self.url(), headers=self.headers)
        except aiohttp.WSServerHandshakeError:
            self.refused += 1
            return
        sending: asyncio.Task[None] | None = None
        try:
            await socket.send_json(self._hello())
            async for message in socket:
                event = message.json()
                self._receive(event)
                if event["type"] == "ready" and event["resume"]["token"] == self.token and sending is None:
                    sending = asyncio.create_task(self._send(socket, self._position(event)))
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.wait([sending])
            response = socket._response
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            await socket.close()

    def _hello(self) -> dict[str, Any]:
        if self.token is None:
            return {"type": "start", "config": self.config}
        self.resumed += 1
        return {"type": "resume", "token": self.token, "last_seq": self.last_seq}

    def _receive(self, event: dict[str, Any]) -> None:
        check_event(event)
        assert event["type"] != "error" or event["code"] == "going_away", event
        if event["type"] == "ready" and self.token not in {None, event["resume"]["token"]}:
            return  # of the session that began because ``resume`` was long on its way
        assert event["seq"] > self.last_seq, "an event came twice, or out of order"
        self.last_seq = event["seq"]
        self.heard.events.append(event)
        if event["type"] == "ready":
            self.token = event["resume"]["token"]

    def _position(self, ready: dict[str, Any]) -> int:
        position: float = ready["audio_s"] * self.bytes_per_second
        assert abs(position - round(position)) < 0.1, "not a whole sample"
        self.positions.append(round(position))
        return round(position)

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, position: int) -> None:
        with suppress(aiohttp.ClientError, ConnectionError):
            while position < len(self.audio):
                await socket.send_bytes(self.audio[position : position + self.frame])
                position += self.frame
                await asyncio.sleep(self.pace_s)
            await socket.send_json({"type": "stop"})


def finals(heard: Heard) -> list[dict[str, Any]]:
    """What was recognised, without what numbers it."""
    return [{k: v for k, v in event.items() if k not in {"seq", "stream_id"}} for event in heard.of("final")]
