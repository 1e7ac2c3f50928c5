"""One session of ``perch.v1``, as cheap as asyncio allows: a protocol that writes frames made beforehand."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from perch.core.audio import RATE
from perch.loadtest.clips import FRAME_S
from perch.loadtest.records import REFUSED, Session, Target
from perch.loadtest.wire import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    BadFrame,
    ServerFrames,
    client_frame,
    upgrade_request,
)

_STOP = client_frame(TEXT, orjson.dumps({"type": "stop"}))
_BYE = client_frame(CLOSE, (1000).to_bytes(2, "big"))
_BACKLOG = 256 * 1024
"""Bytes the gateway has not taken (8 s of audio) beyond which a session has failed: it is not a stream any more."""

Measured = Callable[[float], bool]
"""Whether what was sent at a time counts."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What every session says first, made once."""

    request: bytes
    start: bytes


def opening(target: Target) -> Opening:
    """The upgrade request and the start message for ``target``."""
    address = urlsplit(target.url)
    path = f"{address.path}?{address.query}" if address.query else address.path
    config: dict[str, object] = {"sample_rate": RATE}
    if target.silence_ms:
        config["endpointing"] = {"stop_history_ms": target.silence_ms}
    start = orjson.dumps({"type": "start", "config": config})
    return Opening(upgrade_request(address.netloc, path, target.key), client_frame(TEXT, start))


class StreamSession(asyncio.Protocol):
    """Opens by itself once connected. ``ready`` and ``ended`` are set when it is so; ``record`` says how."""

    def __init__(self, opening: Opening, measured: Measured) -> None:
        self.record = Session()
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._opening = opening
        self._measured = measured
        self._opened = perf_counter()
        self._transport: asyncio.Transport | None = None
        self._frames = ServerFrames()
        self._upgraded = False
        self._sent: list[float] = []
        self._stopped = 0.0

    # --- what the generator does -----------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return bool(self.record.outcome)

    @property
    def audio_s(self) -> float:
        return len(self._sent) * FRAME_S

    def send(self, frame: bytes) -> float:
        """Write a frame of audio; the time at which it was written."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > _BACKLOG:
            self.fail("not_reading")
        else:
            self._transport.write(frame)
        now = perf_counter()
        self._sent.append(now)
        return now

    def stop(self) -> None:
        """No more audio."""
        if not self.over and self._transport is not None:
            self._stopped = perf_counter()
            self._transport.write(_STOP)

    def fail(self, outcome: str) -> None:
        """End it as a failure, unless it has ended already."""
        self._end(outcome)
        if self._transport is not None:
            self._transport.abort()

    def leave(self) -> None:
        """Cut it off, unless it has ended; the gateway is told, so that it does not wait for us to come back."""
        if self._transport is not None and not self.over:
            self._end("cut")
            self._write(_BYE)
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio's
        self._transport.write(self._opening.request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        self._frames.feed(data)
        try:
            if not self._upgraded and not self._upgrade():
                return
            while not self.over and (message := self._frames.next()) is not None:
                self._receive(now, *message)
        except (BadFrame, ValueError, LookupError, TypeError):
            self.fail("not_perch")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.over:
            self.record.disconnected = True
        self._end("connection_lost")
        self.ready.set()
        self.ended.set()

    # --- what the gateway says -------------------------------------------------------------------------

    def _upgrade(self) -> bool:
        answer = self._frames.answer()
        if answer is None:
            return False
        if answer.status != 101:
            self.record.retry_after_s = _seconds(answer.headers.get("retry-after"))
            self.fail(answer.code)
            return False
        self._upgraded = True
        self._write(self._opening.start)
        return True

    def _receive(self, now: float, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self._hear(now, orjson.loads(payload))
        elif opcode == PING:
            self._write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.fail(f"closed_{int.from_bytes(payload[:2], 'big') or 1005}")

    def _hear(self, now: float, event: dict[str, Any]) -> None:
        match event["type"]:
            case "partial":
                self._heard_words(now, event["end"], self.record.partials)
            case "final" if event["text"]:
                self._heard_words(now, event["end"], self.record.finals)
            case "ready" if self.record.ready is None:
                self.record.ready = _ms(now - self._opened)
                self.ready.set()
            case "done":
                self._done(now)
            case "error":
                self.record.retry_after_s = event["retry_after_s"]
                self._end(event["code"])

    def _heard_words(self, now: float, end: float, into: list[float]) -> None:
        if not self._sent:
            raise BadFrame("words before any audio")
        sent = self._sent[min(covering(end), len(self._sent) - 1)]
        if into is self.record.partials and self.record.first_partial is None:
            self.record.first_partial = _ms(now - sent)
        if self._measured(sent):
            into.append(_ms(now - sent))

    def _done(self, now: float) -> None:
        if not self._stopped:
            raise BadFrame("done without stop")
        self.record.done = _ms(now - self._stopped)
        if self._sent:
            self.record.rtfx = round(self.audio_s / (now - self._sent[0] + FRAME_S), 4)
        self._end("done")
        self._write(_BYE)

    def _end(self, outcome: str) -> None:
        if not self.over:
            self.record.outcome = outcome
            self.record.audio_s = round(self.audio_s, 3)
            if outcome in REFUSED and self.record.ready is None:
                self.record.disconnected = False
            self.ready.set()

    def _write(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.write(frame)


def covering(end_s: float) -> int:
    """The number, from 0, of the frame in which ``end_s`` seconds of audio end."""
    return max(0, math.ceil(round(end_s / FRAME_S, 3)) - 1)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
