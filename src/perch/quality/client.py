"""One session of the native protocol at the pace of speech, with the time of everything that happened."""

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import orjson

from perch.errors import EngineUnavailable
from perch.quality.recording import FRAMES_PER_SECOND, Recording

SUBPROTOCOL = "perch.v1"

_CLOSING = aiohttp.ClientWSTimeout(ws_close=2.0)


@dataclass(frozen=True, slots=True)
class Target:
    """The server to measure.

    Args:
        url: The WebSocket address of its stream.
        api_key: Sent as a bearer token, if there is one.
        tls: How to check its certificate.
        config: More keys for the ``config`` of the start message.
        connect_s: Deadline for the connection and for ``ready``.
        silence_s: A server that says nothing for so long has failed.
    """

    url: str
    api_key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    config: dict[str, object] = field(default_factory=dict)
    connect_s: float = 15.0
    silence_s: float = 60.0

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(slots=True)
class Heard:
    """What happened in a session. Times are those of the monotonic clock.

    Args:
        sent: When each frame was sent.
        events: What the server said, and when it came.
        failure: Why the session did not end with ``done``: an error code or a short phrase; else empty.
    """

    sent: list[float] = field(default_factory=list)
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    failure: str = ""

    def of(self, *kinds: str) -> list[tuple[float, dict[str, Any]]]:
        return [(at, event) for at, event in self.events if event.get("type") in kinds]


class _Failed(Exception):
    """The session is over, and why."""


async def greet(http: aiohttp.ClientSession, target: Target) -> dict[str, Any]:
    """What ``target`` says it is: its ``ready``.

    Raises:
        EngineUnavailable: There is no gateway, or it refuses.
    """
    try:
        socket, ready = await _begin(http, target, {})
    except _Failed as failure:
        raise EngineUnavailable(f"{target.url} does not serve: {failure}.") from failure
    await socket.close()
    return ready


async def stream(
    http: aiohttp.ClientSession, target: Target, recording: Recording, *, pace: float = 1.0
) -> Heard:
    """Send ``recording`` ``pace`` times as fast as it is spoken and listen to the end. Never raises for the server."""
    heard = Heard()
    try:
        config = {"sample_rate": recording.sample_rate, "encoding": recording.encoding}
        socket, ready = await _begin(http, target, config)
    except _Failed as failure:
        heard.failure = str(failure)
        return heard
    heard.events.append((time.monotonic(), ready))
    speaking = asyncio.create_task(_speak(socket, recording, heard, pace))
    try:
        await _listen(socket, heard, target.silence_s)
    except _Failed as failure:
        heard.failure = str(failure)
    finally:
        speaking.cancel()
        await asyncio.wait([speaking])
        await socket.close()
    return heard


async def _begin(
    http: aiohttp.ClientSession, target: Target, config: dict[str, Any]
) -> tuple[aiohttp.ClientWebSocketResponse, dict[str, Any]]:
    """Connect, start and wait for ``ready``."""
    socket = None
    try:
        async with asyncio.timeout(target.connect_s):
            socket = await http.ws_connect(
                target.url,
                protocols=(SUBPROTOCOL,),
                headers=target.headers,
                ssl=target.tls or True,
                timeout=_CLOSING,
            )
            await socket.send_json({"type": "start", "config": {**config, **target.config}})
            while (event := _event(await socket.receive()))["type"] != "ready":
                pass
            return socket, event
    except (aiohttp.ClientError, OSError, TimeoutError, _Failed) as error:
        if socket is not None:
            await socket.close()
        raise _Failed(_reason(error)) from error


async def _speak(
    socket: aiohttp.ClientWebSocketResponse, recording: Recording, heard: Heard, pace: float
) -> None:
    started = time.monotonic()
    with suppress(ConnectionError):  # the listener finds out why
        for number, frame in enumerate(recording.frames(), start=1):
            # A frame can be sent when its last sample has been spoken.
            due = started + number / FRAMES_PER_SECOND / pace
            await asyncio.sleep(due - time.monotonic())
            await socket.send_bytes(frame)
            heard.sent.append(time.monotonic())
        await socket.send_json({"type": "stop"})


async def _listen(socket: aiohttp.ClientWebSocketResponse, heard: Heard, silence_s: float) -> None:
    while True:
        try:
            async with asyncio.timeout(silence_s):
                event = _event(await socket.receive())
        except TimeoutError as error:
            raise _Failed(f"silent for {silence_s:g} s") from error
        heard.events.append((time.monotonic(), event))
        if event["type"] == "done":
            return


def _event(frame: aiohttp.WSMessage) -> dict[str, Any]:
    if frame.type is not aiohttp.WSMsgType.TEXT:
        closed = frame.type is aiohttp.WSMsgType.CLOSE
        raise _Failed(f"closed {frame.data}" if closed else "connection lost")
    try:
        event = orjson.loads(frame.data)
        kind = event["type"]
    except (ValueError, LookupError, TypeError) as error:
        raise _Failed("not the native protocol") from error
    if kind == "error":
        raise _Failed(str(event.get("code")))
    return cast("dict[str, Any]", event)


def _reason(error: Exception) -> str:
    match error:
        case _Failed():
            return str(error)
        case aiohttp.WSServerHandshakeError():
            return f"HTTP {error.status}"
        case TimeoutError():
            return "no answer in time"
    return f"cannot connect ({type(error).__name__})"
