"""A plain loop in a process of its own: the side that asks, and ``python -m``'s side that answers."""

import asyncio
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Self

from perch.enginebench.figures import Round
from perch.enginebench.plain import Spec, load
from perch.enginebench.plain_orders import Loaded, Order, Refusal
from perch.enginebench.plain_rounds import PlainRounds
from perch.errors import BadConfig, EngineFailed, PerchError


class PlainProcess:
    """A loaded plain loop. Make it with ``start``."""

    def __init__(self, process: asyncio.subprocess.Process, line: "Connection[Any, Any]") -> None:
        self._process = process
        self._line = line
        self.loaded: Loaded

    @classmethod
    async def start(cls, spec: Spec) -> Self:
        """Start it and return once the model is loaded.

        Raises:
            BadConfig: The library has no plain loop for this model.
            EngineFailed: The model or the process broke; it said why on stderr.
        """
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "perch.enginebench.plain_process", str(theirs.fileno())]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the side that asks
            )
        started = cls(process, ours)
        try:
            started.loaded = await started._ask(spec)
        except BaseException:
            await started.aclose()
            raise
        return started

    async def run(self, order: Order) -> Round:
        """One round.

        Raises:
            EngineFailed: The library or the process broke.
        """
        told: Round = await self._ask(order)
        return told

    async def aclose(self) -> None:
        """End the process, whatever it is doing."""
        self._kill()
        await self._process.wait()
        self._line.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _ask(self, order: Spec | Order) -> Any:
        try:
            self._line.send(order)
            answer = await self._answer()
        except (EOFError, ConnectionError) as problem:
            raise EngineFailed("The plain loop's process ended; it said why above.") from problem
        if isinstance(answer, Refusal):
            raise (BadConfig if answer.code == BadConfig.code else EngineFailed)(answer.message)
        return answer

    async def _answer(self) -> Any:
        waiting = asyncio.create_task(asyncio.to_thread(self._line.recv))
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self._kill()  # or the thread would wait for the end of the round
            with suppress(EOFError, ConnectionError):
                await waiting
            raise


def main() -> None:
    """``python -m perch.enginebench.plain_process FD``: a spec, then orders, until the other side hangs up."""
    line: Connection[Any, Any] = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        _serve(line)


def _serve(line: "Connection[Any, Any]") -> None:
    spec: Spec = line.recv()
    began = perf_counter()
    loop = _tried(lambda: load(spec))
    if isinstance(loop, Refusal):
        line.send(loop)
        return
    rounds = PlainRounds(loop, spec.clips, spec.chunk)
    line.send(Loaded(loop.about, loop.most, perf_counter() - began))
    while True:
        order: Order = line.recv()
        line.send(_tried(lambda: _run(rounds, order)))  # noqa: B023 called at once


def _run(rounds: PlainRounds, order: Order) -> Round:
    match order.what:
        case "warm":
            return rounds.warm(order.streams)
        case "live":
            return rounds.live(order.streams, order.seconds)
        case "flat_out":
            return rounds.flat_out(order.streams, order.seconds)
        case "offline":
            return rounds.offline(order.streams)


def _tried(action: Any) -> Any:
    try:
        return action()
    except PerchError as problem:
        return Refusal(problem.code, problem.message)
    except Exception as problem:  # noqa: BLE001 whatever the library raises, the report says
        return Refusal(EngineFailed.code, f"The plain loop failed: {type(problem).__name__}: {problem}")


if __name__ == "__main__":
    main()
