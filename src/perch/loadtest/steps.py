"""Runs one step: generator processes, and what the gateway and the machine do meanwhile."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import orjson

from perch.loadtest.generator import tls_context
from perch.loadtest.records import Job, Log, Schedule, Target, job_to_json, log_from_json
from perch.loadtest.results import Slo, Step, summarise
from perch.loadtest.server_side import Scrape, ServerSide, between, machine_cpu, scrape

_STARTING_S = 30.0
_ENDING_S = 5.0
_LEAD_S = 0.3
_AFTER_S = 10.0
"""Beyond the schedule and the longest wait for an answer: then a generator is stuck."""
_LINE = 1 << 28
_ARRIVALS_PER_S = 100.0
_LEAST_SPREAD_S = 4.0
"""Longer than a sentence of the tone words, so that the finals of all sessions are spread as well."""


class GeneratorFailed(Exception):
    """A generator process broke; its own words are on stderr."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all steps of a run have in common."""

    target: Target
    metrics_url: str
    clips: list[str] = field(default_factory=list)
    seconds: float = 20.0
    warm_up_s: float = 3.0
    session_s: float = 20.0
    processes: int = 1
    slo: Slo = field(default_factory=Slo)

    def schedule(self, sessions: int) -> Schedule:
        """Sessions begin at no more than a hundred in a second."""
        spread_s = max(_LEAST_SPREAD_S, sessions / _ARRIVALS_PER_S)
        return Schedule(sessions, spread_s, self.warm_up_s, self.seconds, self.session_s)


@dataclass(frozen=True, slots=True)
class Progress:
    """How a step goes."""

    sessions: int
    elapsed_s: float
    total_s: float
    open: int
    failed: int
    refused: int


Tell = Callable[[Progress], None]


async def run_step(plan: Plan, sessions: int, tell: Tell, stop: asyncio.Event) -> Step:
    """Hold ``sessions`` open for as long as the plan says, or until ``stop`` is set.

    Raises:
        GeneratorFailed: A generator process broke.
    """
    schedule = plan.schedule(sessions)
    processes = min(plan.processes, sessions)
    jobs = [
        Job(plan.target, schedule, list(range(number, sessions, processes)), plan.clips)
        for number in range(processes)
    ]
    async with AsyncExitStack() as stack:
        generators = [await stack.enter_async_context(_generator(job)) for job in jobs]
        begin = perf_counter() + _LEAD_S
        watching = asyncio.create_task(_watch(plan, begin, schedule))
        telling = asyncio.create_task(_tell(generators, sessions, begin, schedule.total_s, tell))
        stopping = asyncio.create_task(_stop(generators, stop))
        try:
            async with asyncio.timeout(schedule.total_s + 2 * plan.target.timeout_s + _AFTER_S):
                logs = await asyncio.gather(*(generator.run(begin) for generator in generators))
        except TimeoutError as error:
            raise GeneratorFailed("A generator process did not come to an end.") from error
        finally:
            for task in (watching, telling, stopping):
                if task is not watching or stop.is_set():
                    task.cancel()
            await asyncio.gather(watching, telling, stopping, return_exceptions=True)
    server, busy = (None, None) if watching.cancelled() else watching.result()
    seconds = min(plan.seconds, max(perf_counter() - begin - schedule.measured_from, 1.0))
    return summarise(
        sessions, seconds, logs, slo=plan.slo, server=server, machine_busy=busy, cut=stop.is_set()
    )


class _Generator:
    """One generator process and what it said last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: dict[str, int] = {}

    async def prepare(self, job: Job) -> None:
        self._write(job_to_json(job) + b"\n")
        async with asyncio.timeout(_STARTING_S):
            if await self._read() != "ready":
                raise GeneratorFailed("A generator process spoke out of turn.")

    async def run(self, begin: float) -> Log:
        self._write(f"{begin!r}\n".encode())
        while True:
            message = await self._read()
            if "sessions" in message:
                return log_from_json(orjson.dumps(message))
            self.said = message

    def stop(self) -> None:
        """Have it end now; ``run`` then returns what there is."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def _read(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise GeneratorFailed("A generator process broke; it said why above.")
        return orjson.loads(line)

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)


@asynccontextmanager
async def _generator(job: Job) -> AsyncIterator[_Generator]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perch.loadtest.generator"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE,
    )
    try:
        generator = _Generator(process)
        await generator.prepare(job)
        yield generator
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """A generator ends with its input; one that does not is stuck."""
    try:
        async with asyncio.timeout(_ENDING_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _watch(plan: Plan, begin: float, schedule: Schedule) -> tuple[ServerSide | None, float | None]:
    """The gateway and the machine in the measured window."""
    tls = tls_context(plan.target)
    await _sleep_until(begin + schedule.measured_from)
    machine, before, started = machine_cpu(), await _scrape(plan, tls), perf_counter()
    await _sleep_until(begin + schedule.measured_until)
    after, ended = await _scrape(plan, tls), perf_counter()
    return _server(before, after, ended - started), _busy(machine, machine_cpu())


async def _scrape(plan: Plan, tls: Any) -> Scrape | None:
    return await scrape(plan.metrics_url, plan.target.key, tls) if plan.metrics_url else None


def _server(before: Scrape | None, after: Scrape | None, seconds: float) -> ServerSide | None:
    return None if before is None or after is None else between(before, after, seconds)


def _busy(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


async def _tell(
    generators: Sequence[_Generator], sessions: int, begin: float, total_s: float, tell: Tell
) -> None:
    while True:
        counts = [
            sum(generator.said.get(key, 0) for generator in generators)
            for key in ("open", "failed", "refused")
        ]
        tell(Progress(sessions, max(perf_counter() - begin, 0.0), total_s, *counts))
        await asyncio.sleep(0.5)


async def _stop(generators: Sequence[_Generator], stop: asyncio.Event) -> None:
    await stop.wait()
    for generator in generators:
        generator.stop()


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(due - perf_counter(), 0))
