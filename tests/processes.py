"""Perch as its users start it: real processes, started by command line and stopped by signal."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
_URL = re.compile(r"open (https?://\S+?)/ and speak")


@dataclass
class Running:
    """A gateway process: where it listens and what it has printed."""

    process: asyncio.subprocess.Process
    url: str = ""
    output: list[str] = field(default_factory=list)

    @property
    def stream_url(self) -> str:
        return (
            self.url.replace("http", "ws", 1).replace("localhost", "127.0.0.1")
            + "/v1/audio/transcriptions/stream"
        )

    async def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Send a signal and wait for the exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()


@asynccontextmanager
async def running(
    *command: str, environment: Mapping[str, str] | None = None, ready_s: float = 45.0
) -> AsyncIterator[Running]:
    """Run ``command`` (default: this Python's ``perch``) until it says where it listens; kill it at the end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PERCH_", "RIVA_", "ASR_"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**clean, "PYTHONUNBUFFERED": "1", "PERCH_MODELS_DIR": "/nowhere", **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    gateway = Running(process)
    try:
        async with asyncio.timeout(ready_s):
            while not gateway.url:
                line = (await process.stdout.readline()).decode()
                assert line, "it ended before it was ready:\n" + "".join(gateway.output)
                gateway.output.append(line)
                if found := _URL.search(line):
                    gateway.url = found[1]
        reading = asyncio.create_task(_collect(process.stdout, gateway.output))
        try:
            yield gateway
        finally:
            if process.returncode is None:
                with suppress(TimeoutError):
                    await gateway.stop()
            _kill_group(process)
            await reading
    finally:
        _kill_group(process)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # else its pipes warn when collected


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """End whatever the command started and left behind, so that no test waits for its output."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _collect(stream: asyncio.StreamReader, output: list[str]) -> None:
    while line := await stream.readline():
        output.append(line.decode())


def perch(*arguments: str) -> tuple[str, ...]:
    return sys.executable, "-m", "perch", *arguments
