"""The realtime engine: live streams to words, by a streaming Parakeet whose encoder carries its state on.

``python engine.py`` serves Riva's gRPC on WORKER_PORT until it is stopped, and is registered in Redis meanwhile
if REDIS_URL says where.
"""  # noqa: INP001 a folder of an image, no package

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from perch.core.speech import Hypothesis, RecognitionConfig, Word
from perch.engine.config import EngineConfig
from perch.engine.gpu import gpu_memory, in_gigabytes
from perch.engine.local import LocalEngine
from perch.engine.registration import Registration, WorkerState, state_of
from perch.engine.sdk import EngineHealth, RealtimeEngine, TranscribeResult, main, unless
from perch.engine.worker import Load, WorkerSettings, loader, read, speaks
from perch.errors import LanguageUnsupported, ModelUnavailable

DEFAULT = "nemotron-speech-streaming-en-0.6b"
GRACE_S = 20.0
"""How long open streams may go on when the engine is told to end: less than compose.yaml gives the container."""


class ParakeetStreamingEngine(RealtimeEngine):
    """Implements ``RealtimeEngine`` over one model.

    Args:
        settings: What the container was told.
        load: Starts a model.
    """

    def __init__(self, settings: WorkerSettings, load: Load) -> None:
        self._settings = settings
        self._model = settings.model
        self._load = load
        self._ending = asyncio.Event()
        self._engine: LocalEngine | None = None

    async def load_models(self) -> None:
        if self._engine is not None:
            return
        self._engine = await LocalEngine.start(await self._load(self._model), self._config())

    async def transcribe(
        self, audio: NDArray[np.float32], language: str = "", model_variant: str = ""
    ) -> TranscribeResult:
        await self.load_models()
        if model_variant and model_variant not in self.get_models():
            raise ModelUnavailable(
                f"This engine has no model {model_variant!r}; it has {', '.join(self.get_models())}."
            )
        if not speaks(self._model, language):
            raise LanguageUnsupported(f"Model {self._model.id} does not speak {language!r}.")
        finals = await self._loaded.recognise(_pcm(audio), RecognitionConfig(model=self._model.id))
        return _result(finals, language or self._model.languages[0])

    def get_models(self) -> Sequence[str]:
        return (*self._model.names, self._model.engine_model)

    def get_languages(self) -> Sequence[str]:
        return self._model.languages

    async def get_gpu_memory_usage(self) -> str:
        return in_gigabytes((await gpu_memory()).used)

    async def health_check(self) -> EngineHealth:
        if self._engine is None:
            return EngineHealth("unhealthy", {"model": self._model.id, "loaded": False})
        state = self._state()
        return EngineHealth(
            "healthy" if self._engine.recogniser.healthy else "unhealthy",
            {
                "model": self._model.id,
                "loaded": True,
                "streaming_mode": self._engine.recogniser.capabilities.streaming_mode,
                "active_sessions": state.active_sessions,
                "capacity": state.capacity,
                "gpu_memory_used": await self.get_gpu_memory_usage(),
            },
        )

    async def run(self) -> None:
        where = self._settings.registration
        # Before a model is loaded for minutes: what it needs may not be here.
        registration = None if where is None else Registration(where, self._state)
        await unless(self._ending, self.load_models())
        if self._ending.is_set():
            return
        async with self._registered(registration):
            await self._ending.wait()

    async def shutdown(self) -> None:
        self._ending.set()
        if self._engine is not None:
            await self._engine.aclose()

    @property
    def port(self) -> int:
        """Where gRPC is served."""
        return self._loaded.server.port

    @property
    def _loaded(self) -> LocalEngine:
        assert self._engine is not None, "load_models comes first"
        return self._engine

    def _config(self) -> EngineConfig:
        return EngineConfig(
            host=self._settings.host,
            port=self._settings.port,
            api_key=self._settings.api_key,
            accept_any_model=False,
            stop_grace_s=GRACE_S,
        )

    def _state(self) -> WorkerState:
        engine = self._loaded
        return state_of(engine.recogniser, engine.server.scheduler, draining=self._ending.is_set())

    @asynccontextmanager
    async def _registered(self, registration: Registration | None) -> AsyncIterator[None]:
        """In Redis, if it is wanted: from the first stream that can be taken until the last one has ended."""
        if registration is None:
            yield
            return
        async with registration:
            yield
            registration.changed()
            await self._loaded.aclose()


def _pcm(audio: NDArray[np.float32]) -> bytes:
    samples: NDArray[np.int16] = np.clip(np.rint(audio * 32_768.0), -32_768, 32_767).astype("<i2")
    return samples.tobytes()


def _result(finals: Sequence[Hypothesis], language: str) -> TranscribeResult:
    words = tuple(word for final in finals for word in final.words)
    text = " ".join(final.text for final in finals if final.text)
    return TranscribeResult(text, words, language, _mean(words))


def _mean(words: Sequence[Word]) -> float | None:
    known = [word.confidence for word in words if word.confidence is not None]
    return sum(known) / len(known) if known and len(known) == len(words) else None


def _made() -> ParakeetStreamingEngine:
    settings = read(os.environ, model=DEFAULT)
    return ParakeetStreamingEngine(settings, loader(settings, os.environ, mode="auto"))


if __name__ == "__main__":
    raise SystemExit(main(_made))
