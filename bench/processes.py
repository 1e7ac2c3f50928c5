"""The processes under test, started as a user starts them."""

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from bench.job import Job, Outcome, job_to_json, outcome_from_json

ROOT = Path(__file__).parents[1]
_READY_S = 60.0
_STOP_S = 20.0
_ENDING_S = 1.0
_MIB = 1 << 20
_SAID = 4_000


class ProcessFailed(Exception):
    """A process of the benchmark ended when it should not have; says what it wrote."""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves at ``address`` (``host:port``)."""

    pid: int
    address: str

    @property
    def resident_mib(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss) / _MIB


@asynccontextmanager
async def engine() -> AsyncIterator[Server]:
    """A Riva-compatible engine that recognises tone words at next to no cost."""
    async with engine_of("--recogniser", "scripted") as server:
        yield server


@asynccontextmanager
async def engine_of(*arguments: str) -> AsyncIterator[Server]:
    """An engine with these arguments."""
    ready = re.compile(r"listening on (\S+:\d+)")
    async with _serving(("engine", "--port", "0", "--grace", "1", *arguments), ready, {}) as server:
        yield server


@asynccontextmanager
async def gateway(riva: str, sessions: int) -> AsyncIterator[Server]:
    """The gateway in front of ``riva``, willing to take ``sessions`` from this address for as long as it takes."""
    most = str(max(sessions, 500) + 100)  # sessions that wait for their client to come back count too
    environment = {
        "RIVA_HOST": riva,
        "PERCH_MAX_SESSIONS": most,
        "PERCH_MAX_SESSIONS_PER_KEY": most,
        "PERCH_MAX_SESSIONS_PER_ADDRESS": most,
        "PERCH_MAX_SESSION_S": "1000000",
        "PERCH_LOG_LEVEL": "warning",
        "PERCH_DRAIN_S": "1",
    }
    if transport := os.environ.get("PERCH_GRPC_TRANSPORT"):
        environment["PERCH_GRPC_TRANSPORT"] = transport  # the one setting worth comparing
    arguments = ("serve", "--no-tls", "--backend", "riva", "--host", "127.0.0.1", "--port", "0")
    async with _serving(arguments, re.compile(r"open http://localhost(:\d+)/"), environment) as server:
        yield server


async def generate(job: Job) -> Outcome:
    """Run the load generator.

    Raises:
        ProcessFailed: It broke.
    """
    with tempfile.TemporaryFile() as answer:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.generator", job_to_json(job)), cwd=ROOT, stdout=answer
        )
        try:
            if await process.wait() != 0:
                raise ProcessFailed("The load generator failed; its messages above say why.")
        finally:
            await _stop(process)
        answer.seek(0)
        return outcome_from_json(answer.read())


@asynccontextmanager
async def _serving(
    arguments: tuple[str, ...], ready: re.Pattern[str], environment: Mapping[str, str]
) -> AsyncIterator[Server]:
    """``perch`` until the block ends; in a directory of its own, so that no ``.env`` is read."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PERCH_", "RIVA_", "ASR_"))}
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perch", *arguments),
            cwd=directory,
            env={**clean, "PYTHONUNBUFFERED": "1", **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            address = await _address(process.stdout, ready)
            yield Server(process.pid, address if address[0] != ":" else f"127.0.0.1{address}")
        except Exception:
            await _raise_if_ended(process, arguments[0], log)  # that would be the reason for all else
            raise
        finally:
            await _stop(process)


async def _raise_if_ended(process: asyncio.subprocess.Process, name: str, log: IO[bytes]) -> None:
    try:
        async with asyncio.timeout(_ENDING_S):
            status = await process.wait()
    except TimeoutError:
        return
    log.seek(0)
    said = log.read().decode(errors="replace")[-_SAID:]
    raise ProcessFailed(f"perch {name} ended with status {status}. It said:\n{said}")


async def _address(output: asyncio.StreamReader, ready: re.Pattern[str]) -> str:
    async with asyncio.timeout(_READY_S):
        while line := await output.readline():
            if found := ready.search(line.decode()):
                return found[1]
    raise ProcessFailed("It ended before it was ready.")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
