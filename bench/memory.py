"""What sessions weigh in the gateway: resident memory, watched from outside."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import perf_counter

from bench.clip import FRAME_S, endless, frames
from bench.latency import slope
from bench.processes import Server
from bench.websocket_client import StreamFailed, WebSocketStream

from bench import websocket_client

_BATCH = 25
_SETTLED_KIB = 256
_SETTLE_S = 0.5
_SETTLE_LOOKS = 20
_ENGINE_FRAMES = 5
_SAMPLE_S = 10.0

Series = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class IdleMemory:
    """MiB resident with no session, with idle ones, and once each of them has an open engine stream."""

    sessions: int
    empty_mib: float
    idle_mib: float
    streaming_mib: float

    @property
    def kib_per_idle_session(self) -> float:
        return (self.idle_mib - self.empty_mib) * 1024 / self.sessions

    @property
    def kib_per_engine_stream(self) -> float:
        return (self.streaming_mib - self.empty_mib) * 1024 / self.sessions


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory of the gateway while a few sessions go on and on."""

    sessions: int
    pace: float
    series: Series
    audio_s: float
    lagged: bool
    """True if the gateway said that recognition fell behind: then the pace was too high to prove anything."""

    @property
    def settled(self) -> Series:
        """Without the first fifth, in which caches fill."""
        return self.series[len(self.series) // 5 :]

    @property
    def mib_per_hour(self) -> float:
        return slope(self.settled) * 3600

    @property
    def kib_per_audio_hour(self) -> float:
        return self.mib_per_hour * 1024 / (self.sessions * self.pace)


async def measure_idle(server: Server, sessions: int) -> IdleMemory:
    """Open ``sessions``, leave them idle, then send each half a second of audio.

    Raises:
        StreamFailed: The gateway refused one.
    """
    audio = [websocket_client.audio_frame(pcm) for pcm in frames()[:_ENGINE_FRAMES]]
    await _first_session(server, audio)
    empty = await _settled_mib(server)
    streams: list[WebSocketStream] = []
    try:
        for first in range(0, sessions, _BATCH):
            wanted = range(first, min(first + _BATCH, sessions))
            streams += await asyncio.gather(*(websocket_client.connect(server.address) for _ in wanted))
        idle = await _settled_mib(server)
        for stream in streams:
            for frame in audio:
                await stream.send(frame)
            await asyncio.sleep(0)
        streaming = await _settled_mib(server)
    finally:
        for stream in streams:
            stream.abort()
    return IdleMemory(sessions, empty, idle, streaming)


async def measure_growth(server: Server, *, sessions: int, minutes: float, pace: float) -> Growth:
    """Keep ``sessions`` talking for ``minutes``, ``pace`` times faster than real time.

    Raises:
        StreamFailed: One of them broke off.
    """
    audio = [websocket_client.audio_frame(pcm) for pcm in frames()]
    streams = [await websocket_client.connect(server.address) for _ in range(sessions)]
    start = perf_counter()
    until = start + minutes * 60
    watch = _Watch(server, streams, start)
    try:
        async with asyncio.TaskGroup() as tasks:
            for stream in streams:
                tasks.create_task(_talk(stream, endless(audio), until, FRAME_S / pace))
            tasks.create_task(watch.run(until))
    except BaseExceptionGroup as group:
        raise StreamFailed("; ".join(map(str, group.exceptions))) from group
    finally:
        for stream in streams:
            stream.abort()
    return Growth(sessions, pace, watch.series, minutes * 60 * pace, watch.lagged)


@asynccontextmanager
async def sampled(server: Server, series: Series, every_s: float = 0.5) -> AsyncIterator[None]:
    """Append (seconds, MiB) of ``server`` to ``series`` until the block ends."""
    start = perf_counter() - (series[-1][0] if series else 0.0)

    async def sample() -> None:
        while True:
            series.append((perf_counter() - start, server.resident_mib))
            await asyncio.sleep(every_s)

    sampling = asyncio.create_task(sample())
    try:
        yield
    finally:
        sampling.cancel()
        with suppress(asyncio.CancelledError):
            await sampling


class _Watch:
    """Samples memory, and throws away what the streams have heard so that it is not ours that grows."""

    def __init__(self, server: Server, streams: Sequence[WebSocketStream], start: float) -> None:
        self.series: Series = []
        self.lagged = False
        self._server = server
        self._streams = streams
        self._start = start

    async def run(self, until: float) -> None:
        while (now := perf_counter()) < until:
            self.series.append((now - self._start, self._server.resident_mib))
            await asyncio.sleep(min(_SAMPLE_S, max(until - now, 0)))
            for stream in self._streams:
                self.lagged = self.lagged or any(b'"lagging"' in text for _, text in stream.heard)
                stream.heard.clear()


async def _talk(stream: WebSocketStream, audio: Iterator[bytes], until: float, interval: float) -> None:
    due = perf_counter()
    while due < until:
        await asyncio.sleep(max(due - perf_counter(), 0))
        await stream.send(next(audio))
        due += interval
    await stream.finish()


async def _first_session(server: Server, audio: Sequence[bytes]) -> None:
    """What the first session of all makes the gateway load is no part of the weight of the others."""
    stream = await websocket_client.connect(server.address)
    for frame in audio:
        await stream.send(frame)
    await stream.finish()


async def _settled_mib(server: Server) -> float:
    """Resident memory once it has stopped changing."""
    before = server.resident_mib
    for _ in range(_SETTLE_LOOKS):
        await asyncio.sleep(_SETTLE_S)
        now = server.resident_mib
        if abs(now - before) * 1024 < _SETTLED_KIB:
            return now
        before = now
    return before
