"""The batch engine: recordings to segments with words and their times, by Parakeet RNN-T.

``python engine.py`` serves until it is stopped: Riva's gRPC, on WORKER_PORT. ``python engine.py FILE`` recognises
one recording and prints the output of its task.
"""  # noqa: INP001 a folder of an image, no package

import argparse
import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perch.core.audio import samples_to_seconds
from perch.core.messages import Final
from perch.core.speech import RecognitionConfig
from perch.engine.config import EngineConfig
from perch.engine.gpu import gpu_memory
from perch.engine.local import LocalEngine
from perch.engine.sdk import Engine, EngineHealth, OneTask, Runnable, TaskInput, TaskOutput, main, unless
from perch.engine.worker import Load, WorkerSettings, loader, read, speaks
from perch.errors import BadConfig, LanguageUnsupported, ModelUnavailable
from perch.registry import catalogue
from perch.registry.catalogue import Entry

VARIANTS = ("parakeet-rnnt-0.6b", "parakeet-rnnt-1.1b")
DEFAULT = VARIANTS[0]
TASK_KEYS = ("model", "language")


@dataclass(frozen=True, slots=True)
class Options:
    """What a task asks for."""

    model: Entry
    language: str


class ParakeetEngine(Engine):
    """Implements ``Engine``. A task's model is loaded when it is asked for, and kept until another is.

    Tasks run one after another; within one, and for callers over gRPC, the model takes what fits at once.

    Args:
        settings: What the container was told.
        load: Starts a model.
    """

    def __init__(self, settings: WorkerSettings, load: Load) -> None:
        self._settings = settings
        self._load_model = load
        self._turn = asyncio.Lock()
        self._ending = asyncio.Event()
        self._served: LocalEngine | None = None
        self._task: LocalEngine | None = None

    async def process(self, task: TaskInput) -> TaskOutput:
        options = options_of(task.config, self._settings.model)
        async with self._turn:
            engine = await self._engine_of(options.model)
            finals = await engine.transcribe_file(task.audio_path, RecognitionConfig(model=options.model.id))
        return TaskOutput(output_of(finals, options))

    async def health_check(self) -> EngineHealth:
        loaded = [engine for engine in (self._served, self._task) if engine is not None]
        return EngineHealth(
            "healthy" if all(engine.recogniser.healthy for engine in loaded) else "unhealthy",
            {
                "models": ", ".join(engine.recogniser.capabilities.model for engine in loaded),
                "device": self._settings.device,
                "gpu_available": (await gpu_memory()).total > 0,
            },
        )

    async def run(self) -> None:
        await unless(self._ending, self._serve())
        await self._ending.wait()

    async def shutdown(self) -> None:
        self._ending.set()
        for engine in (self._served, self._task):
            if engine is not None:
                await engine.aclose()

    @property
    def port(self) -> int:
        """Where gRPC is served; 0 if it is not."""
        return 0 if self._served is None else self._served.server.port

    async def _serve(self) -> None:
        self._served = await self._load(self._settings.model, self._settings.host, self._settings.port)

    async def _engine_of(self, model: Entry) -> LocalEngine:
        for engine in (self._served, self._task):
            if engine is not None and engine.recogniser.capabilities.model == model.id:
                return engine
        if self._task is not None:  # first, as both may not fit into the GPU
            task, self._task = self._task, None
            await task.aclose()
        self._task = await self._load(model, "127.0.0.1", 0)
        return self._task

    async def _load(self, model: Entry, host: str, port: int) -> LocalEngine:
        recogniser = await self._load_model(model)
        config = EngineConfig(host=host, port=port, api_key=self._settings.api_key, accept_any_model=False)
        return await LocalEngine.start(recogniser, config)


def options_of(config: Mapping[str, Any], default: Entry) -> Options:
    """What a task's ``config`` asks for.

    Raises:
        BadConfig: A key that there is not.
        ModelUnavailable: It names no variant of this engine.
        LanguageUnsupported: The variant does not speak it.
    """
    if unknown := sorted(config.keys() - set(TASK_KEYS)):
        raise BadConfig(f"The task's config has {', '.join(unknown)}; there is: {', '.join(TASK_KEYS)}.")
    model, language = variant(str(config.get("model", default.id))), str(config.get("language", "en"))
    if not speaks(model, language):
        raise LanguageUnsupported(f"Model {model.id} only supports English; the task says {language!r}.")
    return Options(model, "en" if language == "auto" else language)


def variant(name: str) -> Entry:
    """The model of that name, if it is one of this engine's.

    Raises:
        ModelUnavailable: It is not; the message names those that are.
    """
    found = catalogue.find(name)
    if found not in [catalogue.get(known) for known in VARIANTS]:
        raise ModelUnavailable(f"This engine has no model {name!r}; it has {', '.join(VARIANTS)}.")
    assert found is not None
    return found


def output_of(finals: Sequence[Final], options: Options) -> dict[str, Any]:
    """As ``output_schema`` of engine.yaml says; positions in seconds."""
    said = [final for final in finals if final.text]
    return {
        "text": " ".join(final.text for final in said),
        "language": options.language,
        "model": options.model.id,
        "segments": [_segment(number, final) for number, final in enumerate(said)],
    }


def _segment(number: int, final: Final) -> dict[str, Any]:
    words = [
        {"word": word.text, **_span(word.start, word.end), "confidence": word.confidence}
        for word in final.words
    ]
    return {
        "id": f"seg_{number:03}",
        **_span(final.start, final.end),
        "text": final.text,
        "words": words,
    }


def _span(start: int, end: int) -> dict[str, float]:
    return {"start": round(samples_to_seconds(start), 3), "end": round(samples_to_seconds(end), 3)}


def _made(arguments: Sequence[str] | None = None) -> Runnable:
    parser = argparse.ArgumentParser(description="Recognise recordings with Parakeet.")
    parser.add_argument("recording", type=Path, nargs="?", help="recognise this one, instead of serving")
    parser.add_argument("--model", help=f"of the recording: {', '.join(VARIANTS)}")
    parser.add_argument("--language", default="en", help="of the recording (default: %(default)s)")
    asked = parser.parse_args(arguments)
    if asked.recording is not None and not asked.recording.exists():
        raise BadConfig(f"There is no file {asked.recording}.")
    settings = read(os.environ, model=DEFAULT)
    variant(settings.model.id)
    engine = ParakeetEngine(settings, loader(settings, os.environ, mode="vad-segmented"))
    if asked.recording is None:
        return engine
    model = asked.model or settings.model.id
    return OneTask(engine, asked.recording, {"model": model, "language": asked.language})


if __name__ == "__main__":
    raise SystemExit(main(_made))
