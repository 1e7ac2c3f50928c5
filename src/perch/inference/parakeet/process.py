"""The engine's side of a model's process: starting it, talking to it, losing it."""

import asyncio
import json
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from perch.core.audio import samples_to_seconds
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet import wire
from perch.inference.parakeet.model import Facts, LoadOptions

LOAD_DEADLINE = 900.0
"""Seconds until loaded and calibrated: a large model from a slow disk takes minutes."""

STOP_DEADLINE = 5.0

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""PyTorch's two names for one setting, of which the first wins."""

_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", _ALLOCATOR[0]: "expandable_segments:True"}
"""What a model's process has in its environment unless the operator says otherwise. OpenMP's threads, which
PyTorch computes with, otherwise spin while they wait for each other: with one of two cores busy a step then
took up to 200 ms instead of 38, with both idle 21 instead of 28. And PyTorch's memory on a GPU otherwise breaks
up into pieces, as no two steps are of the same size."""

PING_EVERY = 5.0
"""Seconds between two questions whether the process still answers."""

HANG_DEADLINE = 20.0
"""Seconds for the answer, beside the longest piece that a step may be of; then the process hangs."""

_NOBODY = 0
"""The number that no utterance has."""

log = logging.getLogger(__name__)


class _Line(asyncio.Protocol):
    """The socket: answers to whoever waits for them, by the utterance's number."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._deframer = wire.Deframer()
        self._waiting: dict[int, asyncio.Future[tuple[bytes, bytes]]] = {}
        self._loaded: asyncio.Future[wire.Loaded] = asyncio.get_running_loop().create_future()
        self.ended = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one without inheriting

    def data_received(self, data: bytes) -> None:
        try:
            for kind, key, body in self._deframer.feed(data):
                self._take(kind, key, body)
        except EngineFailed as problem:
            self.close(problem)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio names it
        self.close(EngineFailed("The model's process ended unexpectedly."))

    def _take(self, kind: bytes, key: int, body: bytes) -> None:
        if kind == wire.PROGRESS:
            log.info("%s", body.decode())
        elif kind == wire.LOADED:
            self._loaded.set_result(wire.unpack_loaded(body))
        elif kind == wire.REFUSED:
            code, message = json.loads(body)
            self._loaded.set_exception((BadConfig if code == BadConfig.code else EngineFailed)(message))
        elif (waiting := self._waiting.pop(key, None)) is not None and not waiting.done():
            waiting.set_result((kind, body))

    async def loaded(self) -> wire.Loaded:
        return await self._loaded

    def expect(self, key: int) -> asyncio.Future[tuple[bytes, bytes]]:
        """The next answer for ``key``: its kind and body."""
        future: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        if self.ended:
            future.set_exception(EngineFailed(self.ended))
        else:
            self._waiting[key] = future
        return future

    def forget(self, key: int) -> None:
        self._waiting.pop(key, None)

    def send(self, kind: bytes, key: int, body: bytes) -> None:
        if self._transport is not None and not self.ended:
            self._transport.write(wire.message(kind, key, body))

    def close(self, problem: EngineFailed) -> None:
        if self.ended:
            return
        self.ended = problem.message
        if self._transport is not None:
            self._transport.abort()
        waiting: list[asyncio.Future[Any]] = [self._loaded, *self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(problem)
                future.exception()  # nobody may be waiting, and that is not worth a warning
        self._waiting.clear()


class ModelProcess:
    """A process with a loaded model. Make it with ``start``."""

    def __init__(self, process: asyncio.subprocess.Process, line: _Line) -> None:
        self._process = process
        self._line = line
        self._said: deque[str] = deque(maxlen=5)
        self._reading = asyncio.create_task(self._read_errors(), name="model-stderr")
        self._next_key = 1
        self._loaded: wire.Loaded
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def facts(self) -> Facts:
        return self._loaded.facts

    @property
    def slots(self) -> int:
        """Streams at the same time."""
        return self._loaded.slots

    @property
    def recordings(self) -> int:
        """Utterances of recordings at the same time."""
        return self._loaded.recordings

    @classmethod
    async def start(cls, backend: str, options: LoadOptions, slots: int | None) -> "ModelProcess":
        """Start it and return once the model is loaded and, without ``slots``, calibrated.

        Raises:
            BadConfig: What was asked for cannot be: a missing package, no CUDA, another mode.
            EngineFailed: The weights are broken, memory is short, or the process ended; the message says.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        order = json.dumps({"backend": backend, "options": asdict(options), "slots": slots})
        with theirs:
            process = await _spawn(theirs, order)
        _, line = await asyncio.get_running_loop().create_unix_connection(_Line, sock=ours)
        started = cls(process, line)
        try:
            async with asyncio.timeout(LOAD_DEADLINE):
                started._loaded = await line.loaded()
            started._watching = asyncio.create_task(started._watch(), name="model-watch")
        except TimeoutError:
            await started.aclose()
            raise EngineFailed(f"The model did not load within {LOAD_DEADLINE:.0f} seconds.") from None
        except EngineFailed as problem:
            await started.aclose()
            raise EngineFailed(started.in_its_words(problem.message)) from problem
        except BaseException:
            await started.aclose()
            raise
        return started

    def utterance(self) -> int:
        """A number for a new utterance."""
        self._next_key = self._next_key % 0xFFFFFFFF + 1
        return self._next_key

    async def ask(self, kind: bytes, key: int, pcm: bytes, deadline: float) -> bytes:
        """Send audio that will be answered, and return the body of the answer.

        Raises:
            EngineFailed: The utterance cannot go on, the process ended, or it did not answer within
                ``deadline`` seconds.
        """
        answer = self._line.expect(key)
        self._line.send(kind, key, pcm)
        try:
            async with asyncio.timeout(deadline):
                kind, body = await answer
        except TimeoutError:
            raise EngineFailed(f"The model did not answer within {deadline:.0f} seconds.") from None
        finally:
            self._line.forget(key)
        if kind == wire.FAILED:
            raise EngineFailed(f"The model failed on this utterance: {body.decode()}")
        return body

    def drop(self, key: int) -> None:
        """An utterance is not wanted any more."""
        self._line.forget(key)
        self._line.send(wire.DROP, key, b"")

    async def ended(self) -> str:
        """Return, with the reason, when the process has ended."""
        status = await self._process.wait()
        await self._reading
        return self.in_its_words(f"The model's process ended unexpectedly with status {status}.")

    def in_its_words(self, problem: str) -> str:
        """``problem``, and the last that the process wrote about it."""
        return f"{problem} Its last words: {' / '.join(self._said)}" if self._said else problem

    async def aclose(self) -> None:
        """End the process; requests under way fail."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._line.close(EngineFailed("The model is closed."))
        try:
            async with asyncio.timeout(STOP_DEADLINE):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _watch(self) -> None:
        """Kill a process that hangs, whether or not anybody waits for it: only its end is noticed and mended."""
        facts = self.facts
        longest = facts.chunk if facts.mode == "cache-aware" else facts.longest
        patience = HANG_DEADLINE + samples_to_seconds(longest)
        while True:
            await asyncio.sleep(PING_EVERY)
            answer = self._line.expect(_NOBODY)
            self._line.send(wire.PING, _NOBODY, b"")
            try:
                async with asyncio.timeout(patience):
                    await answer
            except TimeoutError:
                log.warning("the model's process has not answered for %.0f seconds and is killed", patience)
                self._process.kill()
                return
            except EngineFailed:  # it has ended
                return

    async def _read_errors(self) -> None:
        errors = self._process.stderr
        while errors is not None and (line := await _line_of(errors)):
            text = line.decode(errors="replace").rstrip()
            if text:
                self._said.append(text)
                log.warning("model: %s", text)


async def _line_of(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than a line may be: what is left of it is the next
        return b"(a line too long to show)\n"


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    ours = dict(_ENVIRONMENT)
    if any(name in given for name in _ALLOCATOR):
        del ours[_ALLOCATOR[0]]
    return {**ours, **given}


async def _spawn(theirs: socket.socket, order: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "perch.inference.parakeet.worker",
        *(str(theirs.fileno()), str(os.getpid()), order),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(os.environ),
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C is for the engine, which drains first
    )
