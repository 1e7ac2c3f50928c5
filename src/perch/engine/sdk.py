"""What an engine of a pipeline must do, batch or live, and how its process is run.

A batch engine is given one task at a time and answers with data; a realtime engine keeps its models loaded,
takes streams, and says how it is. Both end when they are told to, after the work they have begun::

    if __name__ == "__main__":
        raise SystemExit(main(MyEngine))
"""

import asyncio
import json
import logging
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from perch.core.speech import Word
from perch.errors import PerchError


@dataclass(frozen=True, slots=True)
class TaskInput:
    """One task of a job."""

    task_id: str
    job_id: str
    audio_path: Path
    """A recording in any common container."""
    previous_outputs: Mapping[str, Any] = field(default_factory=dict)
    """What the stages before this one answered, by stage."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """As the engine's ``config_schema`` says."""


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """What a task came to."""

    data: dict[str, Any]
    """As the engine's ``output_schema`` says; it can be written as JSON."""
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    """Files it made, by name."""


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """How an engine is."""

    status: Literal["healthy", "unhealthy"]
    details: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TranscribeResult:
    """The text of one utterance; word positions are samples at 16 kHz from its first one."""

    text: str
    words: tuple[Word, ...]
    language: str
    confidence: float | None = None
    """From 0 to 1; None if the model does not say."""


class Runnable(Protocol):
    """What ``main`` needs of an engine."""

    async def run(self) -> None: ...

    async def shutdown(self) -> None: ...


class Engine(ABC):
    """A batch engine: one stage of a pipeline."""

    @abstractmethod
    async def process(self, task: TaskInput) -> TaskOutput:
        """Do one task. Tasks may be given at the same time; the engine orders them.

        Raises:
            PerchError: It cannot be done; ``retryable`` says whether trying again makes sense.
        """

    @abstractmethod
    async def health_check(self) -> EngineHealth:
        """How the engine is. Never raises, never waits for a task."""

    @abstractmethod
    async def run(self) -> None:
        """Serve until ``shutdown``."""

    @abstractmethod
    async def shutdown(self) -> None:
        """End ``run``, and free what the engine holds. Safe to call twice."""


class RealtimeEngine(ABC):
    """An engine that recognises speech while it is spoken."""

    @abstractmethod
    async def load_models(self) -> None:
        """Load what the engine serves; ``run`` does it if nobody has.

        Raises:
            BadConfig: It cannot be as configured; the message says what to do.
            EngineFailed: A model could not be started.
        """

    @abstractmethod
    async def transcribe(
        self, audio: NDArray[np.float32], language: str = "", model_variant: str = ""
    ) -> TranscribeResult:
        """Recognise one utterance: mono at 16 kHz from -1 to 1, shape ``(samples,)``.

        Raises:
            LanguageUnsupported: No model here speaks it.
            ModelUnavailable: No model of that name is loaded.
        """

    @abstractmethod
    def get_models(self) -> Sequence[str]:
        """Every name by which a loaded model may be asked for."""

    @abstractmethod
    def get_languages(self) -> Sequence[str]:
        """The languages of the loaded models, BCP-47."""

    @abstractmethod
    async def get_gpu_memory_usage(self) -> str:
        """What is in use on the GPUs, as ``4.2GB``."""

    @abstractmethod
    async def health_check(self) -> EngineHealth:
        """How the engine is. Never raises, never waits for a stream."""

    @abstractmethod
    async def run(self) -> None:
        """Serve streams until ``shutdown``."""

    @abstractmethod
    async def shutdown(self) -> None:
        """Take no more streams, let open ones end, end ``run``. Safe to call twice."""


def main(make: Callable[[], Runnable]) -> int:
    """Run the engine that ``make`` makes until SIGTERM or SIGINT; the exit status.

    What went wrong is told in one line.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(make()))
    except (PerchError, OSError) as error:
        sys.stderr.write(f"engine: {error}\n")
        return 1
    return 0


async def unless(ending: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work``, such as loading for minutes, or give it up as soon as ``ending`` is set."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(ending.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.wait({working, waiting})
    if not working.cancelled():
        working.result()


class OneTask:
    """Runs a batch engine for one recording, and prints what comes of it as JSON."""

    def __init__(self, engine: Engine, recording: Path, config: Mapping[str, Any]) -> None:
        self._engine = engine
        self._task = TaskInput("one", "one", recording, config=config)
        self._ending = asyncio.Event()

    async def run(self) -> None:
        await unless(self._ending, self._process())

    async def _process(self) -> None:
        output = await self._engine.process(self._task)
        sys.stdout.write(json.dumps(output.data, ensure_ascii=False, indent=2) + "\n")

    async def shutdown(self) -> None:
        self._ending.set()
        await self._engine.shutdown()


async def _run(engine: Runnable) -> None:
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    running = asyncio.create_task(engine.run(), name="engine")
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        await engine.shutdown()
    await running
