"""An engine beside the gateway: started, watched, started again when it dies, stopped with it."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from perch.errors import EngineUnavailable

log = structlog.get_logger(__name__)

_READY_S = 60.0
_STOP_S = 10.0
_FIRST_DELAY_S = 0.5
_MAX_DELAY_S = 10.0


class EngineProcess:
    """``perch engine`` as a child on loopback. Its port stays the same over restarts."""

    def __init__(self, arguments: Sequence[str] = (), *, start_s: float = _READY_S) -> None:
        self._arguments = tuple(arguments)
        self._start_s = start_s
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline: int | None = None
        self.on_death: Callable[[], None] = lambda: None
        """Called when the engine has ended by itself."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the engine and wait until it serves.

        Raises:
            EngineUnavailable: It ended, or did not say it was ready in time.
        """
        ready_read, ready_write = os.pipe()
        lifeline_read, lifeline_write = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "perch", "engine", "--host", "127.0.0.1", "--port", str(self._port)),
                *("--ready-fd", str(ready_write), "--parent-fd", str(lifeline_read)),
                *self._arguments,
                pass_fds=(ready_write, lifeline_read),
                stdin=asyncio.subprocess.DEVNULL,
            )
        finally:
            os.close(ready_write)
            os.close(lifeline_read)
        # The engine ends when this end of the pipe closes, however this process dies.
        self._lifeline = lifeline_write
        self._port = await self._read_port(ready_read)

    async def run(self) -> None:
        """Start the engine again whenever it ends, until cancelled."""
        delay = _FIRST_DELAY_S
        while True:
            assert self._process is not None
            status = await self._process.wait()
            self._release()
            self.on_death()
            log.warning("engine_died", status=status, restart_in_s=delay)
            await asyncio.sleep(delay)
            try:
                await self.start()
                delay = _FIRST_DELAY_S
            except EngineUnavailable as error:
                log.warning("engine_did_not_start", problem=error.message)
                delay = min(delay * 2, _MAX_DELAY_S)

    async def aclose(self) -> None:
        """Stop the engine; kill it if it does not stop in time."""
        self._release()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _read_port(self, descriptor: int) -> int:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        try:
            async with asyncio.timeout(self._start_s):
                line = await reader.readline()
        except TimeoutError as error:
            raise EngineUnavailable(f"The engine did not start within {self._start_s:g} s.") from error
        finally:
            transport.close()
        if not line.strip().isdigit():
            raise EngineUnavailable("The engine ended before it was ready; its messages above say why.")
        return int(line)

    def _release(self) -> None:
        if self._lifeline is not None:
            with suppress(OSError):
                os.close(self._lifeline)
            self._lifeline = None
