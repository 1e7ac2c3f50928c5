"""The engine's side of the embedded recogniser's processes: starting them, talking to them, losing them.

Everything here runs on the event loop. A lost process is noticed by its socket closing, at once and
without polling, whether or not anybody is waiting for it.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from typing import cast

from perch.errors import EngineFailed
from perch.inference import embedded_wire as wire

LOAD_DEADLINE = 60.0
FORK_DEADLINE = 10.0
STOP_DEADLINE = 5.0

OnLost = Callable[[str], None]


class Channel(asyncio.Protocol):
    """One worker's socket: one request at a time, each answered before its deadline or never.

    Args:
        on_lost: Told why, once, when the worker goes without having been asked to.
    """

    pid: int

    def __init__(self, on_lost: OnLost) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.WriteTransport | None = None
        self._deframer = wire.Deframer()
        self._answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._ended = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one without inheriting

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._deframer.feed(data):
                if not self._answer.done():
                    self._answer.set_result(frame)
        except EngineFailed as problem:
            self.fail(problem.message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio names it
        self.fail("The recogniser's worker process ended unexpectedly.")

    async def greeted(self) -> None:
        """Wait until the worker has said hello, which proves that it runs."""
        _, body = await self._answered(FORK_DEADLINE)
        self.pid = int(body)

    async def request(self, kind: bytes, body: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Send a frame and return the kind and body of its answer.

        Raises:
            EngineFailed: The worker is gone, or did not answer within ``deadline`` seconds.
        """
        if self._ended or self._transport is None:
            raise EngineFailed(self._ended)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(wire.frame(kind, body))
        return await self._answered(deadline)

    def close(self, reason: str = "The voice is closed.") -> None:
        """Hang up: the worker is no longer wanted."""
        self._end(reason)

    def fail(self, reason: str) -> None:
        """Give the worker up, and say so."""
        if self._end(reason):
            self._on_lost(reason)

    def _end(self, reason: str) -> bool:
        if self._ended:
            return False
        self._ended = reason
        if self._transport is not None:
            self._transport.abort()
        if not self._answer.done():
            self._answer.set_exception(EngineFailed(reason))
            self._answer.exception()  # nobody may be waiting, and that is not worth a warning
        return True

    async def _answered(self, deadline: float) -> tuple[bytes, bytes]:
        try:
            async with asyncio.timeout(deadline):
                return await self._answer
        except TimeoutError:
            self.fail(f"The recogniser's worker did not answer within {deadline:.0f} seconds.")
            raise EngineFailed(self._ended) from None
        except asyncio.CancelledError:
            self.close()  # the answer will come and must not be taken for the next request's
            raise


class Zygote:
    """The process that has the model loaded and forks a worker for each voice."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._channels: set[Channel] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls) -> "Zygote":
        """Start the process and wait until its decoders are loaded (about half a second).

        Raises:
            EngineFailed: It ended, or did not get ready in time.
        """
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.settimeout(0)
        with theirs:
            try:
                process = await _spawn(theirs)
            except BaseException:
                control.close()
                raise
        zygote = cls(process, control)
        try:
            await zygote._loaded()
        except BaseException:
            await zygote.aclose()
            raise
        return zygote

    async def _loaded(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOAD_DEADLINE):
                message = await loop.sock_recv(self._control, 64)
        except TimeoutError:
            raise EngineFailed(f"The recogniser did not load within {LOAD_DEADLINE:.0f} seconds.") from None
        if message != wire.LOADED:
            raise EngineFailed("The recogniser's process ended while loading; its output says why.")

    async def ended(self) -> str:
        """Return, with the reason, when the process has ended."""
        status = await self._process.wait()
        return f"The recogniser's process ended unexpectedly with status {status}."

    async def fork(self, on_lost: OnLost, *, partials: bool = True) -> Channel:
        """A new worker, in the state the decoders were loaded in.

        Raises:
            EngineFailed: No worker came to life.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        message = wire.FORK if partials else wire.FORK_FINALS_ONLY
        with theirs:
            try:
                socket.send_fds(self._control, [message], [theirs.fileno()])
            except OSError as problem:
                ours.close()
                raise EngineFailed("The recogniser's process takes no further voices.") from problem
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: Channel(on_lost), sock=ours)
        self._channels.add(channel)
        try:
            await channel.greeted()
        except BaseException:
            self.discard(channel)
            raise
        return channel

    def discard(self, channel: Channel) -> None:
        """Hang up on a worker, and end it even if it is busy. Safe to call twice."""
        channel.close()
        if channel in self._channels:
            self._channels.discard(channel)
            if hasattr(channel, "pid"):
                with contextlib.suppress(OSError):  # a zygote that is gone has taken its workers along
                    self._control.send(wire.KILL + str(channel.pid).encode())

    def kill(self) -> None:
        """End a process that does not do its work; ``ended`` tells when it has."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def aclose(self) -> None:
        """End the process and its workers; requests under way fail."""
        for channel in list(self._channels):
            channel.close("The recogniser is closed.")
        self._channels.clear()
        self._control.close()
        try:
            async with asyncio.timeout(STOP_DEADLINE):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()


async def _spawn(control: socket.socket) -> asyncio.subprocess.Process:
    """A fresh interpreter: forking this one would take its threads' locks along."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "perch.inference.embedded_worker",
        str(control.fileno()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        pass_fds=[control.fileno()],
        start_new_session=True,  # Ctrl-C is for the engine, which drains first
    )
