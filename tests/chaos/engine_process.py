"""``perch engine`` as a process that can be killed, stopped, and brought back on its port."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LISTENING = re.compile(r"listening on \S+:(\d+)")
_READY_S = 60.0


class EngineProcess:
    """One engine. The port stays the same over all its lives."""

    def __init__(self, recogniser: str = "scripted", *arguments: str) -> None:
        self.port = 0
        self.deaths = 0
        self._arguments = ("--recogniser", recogniser, *arguments)
        self._process: asyncio.subprocess.Process | None = None
        self._groups: list[int] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Run until it listens."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PERCH_", "RIVA_", "ASR_"))}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perch", "engine", "--port", str(self.port), *self._arguments),
            cwd=_ROOT,
            env={**clean, "PYTHONUNBUFFERED": "1", "ORT_DISABLE_TELEMETRY": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process = process
        self._groups.append(process.pid)
        assert process.stdout is not None
        async with asyncio.timeout(_READY_S):
            found = None
            while found is None:
                line = (await process.stdout.readline()).decode()
                assert line, "the engine ended before it was ready"
                found = _LISTENING.search(line)
        self.port = int(found[1])

    async def kill(self) -> None:
        """As ``kill -9``: not a word to anybody. Workers it had are left to notice by themselves."""
        process, self._process = self._process, None
        if process is not None:
            self.deaths += 1
            process.kill()
            await process.wait()
            await process.communicate()

    async def revive(self) -> None:
        """Run, whatever state it was left in."""
        await self.kill()
        await self.start()

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def aclose(self) -> None:
        await self.kill()
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


@asynccontextmanager
async def engine_process(recogniser: str = "scripted", *arguments: str) -> AsyncIterator[EngineProcess]:
    """An engine that serves on a free port of loopback, killed at the end."""
    engine = EngineProcess(recogniser, *arguments)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.aclose()
