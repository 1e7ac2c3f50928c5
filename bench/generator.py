"""The load generator, a process of its own: ``python -m bench.generator JOB`` prints an outcome.

Every stream sends its next frame at start + n times 100 ms, whatever happened to the frames before. Starts are
spread evenly over a sentence, so neither frames nor finals of different streams come in bursts.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Protocol

import psutil
import uvloop
from bench.clip import FRAME_S, endless, frames, sentence_s
from bench.job import Job, Outcome, StreamLog, job_from_json, outcome_to_json
from bench.latency import percentile

from bench import events, grpc_client, websocket_client

_WARM_UP_S = 1.0
_AFTER_S = 0.5  # frames sent on after the measurement, so that its last events meet the same load
_OPENING_AT_ONCE = 20
_GOLDEN = 0.6180339887
_LAG_EVERY_S = 0.02


class Stream(Protocol):
    """What both roads' clients can do."""

    heard: list[tuple[float, bytes]]

    async def send(self, frame: bytes) -> None: ...
    async def finish(self) -> None: ...
    def abort(self) -> None: ...


Connect = Callable[[], Awaitable[Stream]]


async def run(job: Job) -> Outcome:
    """Do ``job``."""
    async with _connecting(job) as connect:
        streams = await _open(connect, job.streams)
        try:
            return await _measure(job, streams)
        finally:
            for stream in streams:
                stream.abort()


@asynccontextmanager
async def _connecting(job: Job) -> AsyncIterator[Connect]:
    if job.road == "gateway":
        yield lambda: websocket_client.connect(job.address, partials=job.partials)
        return
    async with grpc_client.connections(job.address) as connections:
        yield connections.connect


async def _open(connect: Connect, count: int) -> list[Stream]:
    opening = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def one() -> Stream:
        async with opening:
            return await connect()

    return await asyncio.gather(*(one() for _ in range(count)))


async def _measure(job: Job, streams: list[Stream]) -> Outcome:
    client = websocket_client if job.road == "gateway" else grpc_client
    prepared = [client.audio_frame(pcm) for pcm in frames()]
    first = perf_counter() + 0.1
    measured_from = first + sentence_s() + _WARM_UP_S
    until = measured_from + job.seconds + _AFTER_S
    starts = [first + sentence_s() * (index * _GOLDEN % 1) for index in range(len(streams))]
    senders = [
        _Sender(stream, endless(prepared), start, until)
        for stream, start in zip(streams, starts, strict=True)
    ]
    sending = [asyncio.create_task(sender.run()) for sender in senders]
    meter = _Meter(job.watch)
    await meter.run(measured_from, job.seconds)
    await asyncio.gather(*sending)
    decode = events.from_gateway if job.road == "gateway" else events.from_engine
    within = _Within(meter.start, meter.end)
    late = [late for sender in senders for late in sender.late]
    return Outcome(
        streams=[StreamLog(sender.sent, list(decode(sender.stream.heard))) for sender in senders],
        start=meter.start,
        end=meter.end,
        frames=sum(within.count(sender.sent) for sender in senders),
        messages=sum(within.count(at for at, _ in stream.heard) for stream in streams),
        cpu_s=meter.cpu_s,
        late_ms=(percentile(late, 50) * 1000, percentile(late, 99) * 1000),
        lag_ms=(percentile(meter.lags, 50) * 1000, percentile(meter.lags, 99) * 1000),
        failures=[sender.failure for sender in senders if sender.failure],
    )


class _Sender:
    """One stream's frames on their schedule."""

    def __init__(self, stream: Stream, audio: Iterator[bytes], start: float, until: float) -> None:
        self.stream = stream
        self.sent: list[float] = []
        self.late: list[float] = []
        self.failure = ""
        self._audio = audio
        self._start = start
        self._until = until

    async def run(self) -> None:
        try:
            await self._send()
            await self.stream.finish()
        except (websocket_client.StreamFailed, TimeoutError) as error:
            self.failure = str(error) or "it did not end in time"

    async def _send(self) -> None:
        due = self._start
        while due < self._until:
            await _sleep_until(due)
            now = perf_counter()
            self.sent.append(now)
            self.late.append(now - due)
            await self.stream.send(next(self._audio))
            due = self._start + len(self.sent) * FRAME_S


class _Meter:
    """CPU time of processes over a window, and how late this event loop woke up in it."""

    def __init__(self, watch: dict[str, int]) -> None:
        self._processes = {"generator": psutil.Process()}
        self._processes |= {name: psutil.Process(pid) for name, pid in watch.items()}
        self.lags: list[float] = []
        self.cpu_s: dict[str, float] = {}
        self.start = self.end = 0.0

    async def run(self, start: float, seconds: float) -> None:
        """Measure from ``start`` on."""
        await _sleep_until(start)
        before, self.start = self._cpu(), perf_counter()
        while (now := perf_counter()) < start + seconds:
            await asyncio.sleep(_LAG_EVERY_S)
            self.lags.append(perf_counter() - now - _LAG_EVERY_S)
        after, self.end = self._cpu(), perf_counter()
        self.cpu_s = {name: after[name] - before[name] for name in before}

    def _cpu(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        ours = {name: used.user + used.system for name, used in times.items()}
        machine = psutil.cpu_times()
        busy = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
        return ours | {"others": busy - sum(ours.values())}


class _Within:
    def __init__(self, start: float, end: float) -> None:
        self._start = start
        self._end = end

    def count(self, times: "list[float] | Iterator[float]") -> int:
        return sum(self._start <= at < self._end for at in times)


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(due - perf_counter(), 0))


def main() -> None:
    job = job_from_json(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(run(job))
    sys.stdout.buffer.write(outcome_to_json(outcome))


if __name__ == "__main__":
    main()
