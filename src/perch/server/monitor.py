"""Whether the engine is there: asked in the background, so that no client waits for the answer."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from perch import errors
from perch.asr.base import ASRClient
from perch.core.messages import Abilities, Backend
from perch.core.speech import ModelInfo
from perch.observability.metrics import Metrics

log = structlog.get_logger(__name__)
_IMPATIENT_S = 0.5


class _Unasked(errors.EngineUnavailable):
    """Before the first answer."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is known of the engine. ``problem`` is None when it answers."""

    backend: Backend
    models: tuple[ModelInfo, ...] = ()
    problem: errors.PerchError | None = None
    missing: errors.ModelUnavailable | None = None
    """It answers, and has not the model that the gateway is set to use."""

    @property
    def ready(self) -> bool:
        return self.problem is None


class EngineMonitor:
    """Asks the engine for its models every ``every_s``, and every half second while it does not answer."""

    def __init__(self, client: ASRClient, metrics: Metrics, every_s: float) -> None:
        self._client = client
        self._metrics = metrics
        self._every_s = every_s
        self._doubted = asyncio.Event()
        self._configured: ModelInfo | None = None
        """The model that the gateway is set to use, as it was last listed: it is not missing when its engine is."""
        self.state = EngineState(client.backend, problem=_Unasked("The engine is starting."))

    def doubt(self) -> None:
        """Something suggests that the engine is gone: ask now, not at the next turn."""
        self._doubted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause = self._every_s if self.state.ready else min(_IMPATIENT_S, self._every_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._doubted.wait()
            self._doubted.clear()
            await self.check()

    async def check(self) -> EngineState:
        """Ask once, now."""
        before = self.state
        try:
            self.state = self._answered(tuple(await self._client.models()))
        except errors.EngineFull as error:  # so it is there
            self.state = replace(before, problem=error if isinstance(before.problem, _Unasked) else None)
        except errors.PerchError as error:
            self.state = replace(before, problem=error)
        self._metrics.set_engine_ready(self.state.ready)
        if isinstance(before.problem, _Unasked) or self.state.ready != before.ready:
            self._report()
        missing = self.state.missing
        if missing is not None and before.missing is None:
            log.warning("model_missing", message=missing.message)
        return self.state

    def _report(self) -> None:
        problem = self.state.problem
        if problem is None:
            log.info("engine_ready", model=self.state.backend.model)
        else:
            log.warning("engine_lost", problem=problem.code, message=problem.message)

    def _answered(self, models: tuple[ModelInfo, ...]) -> EngineState:
        """An engine of ours says in its parameters what its user must know."""
        backend = replace(self._client.backend, abilities=_abilities(models))
        if not models:
            return EngineState(backend, problem=errors.EngineUnavailable("The engine has no model loaded."))
        used = self._used(backend.model, models)
        if used is None:
            return EngineState(backend, models, missing=_missing(backend.model, models))
        notice = used.parameters.get("notice", backend.notice)
        return EngineState(replace(backend, model=used.name, notice=notice), models)

    def _used(self, configured: str, models: tuple[ModelInfo, ...]) -> ModelInfo | None:
        """The model that a stream gets which asks for none: the one that is set, else the first for streams."""
        if not configured:
            return next((info for info in models if info.streaming), models[0])
        self._configured = next((info for info in models if info.answers_to(configured)), self._configured)
        return self._configured


def _missing(configured: str, models: tuple[ModelInfo, ...]) -> errors.ModelUnavailable | None:
    """What to say of a model that is not listed; nothing where an engine does not name its models."""
    if not all(info.name for info in models):
        return None
    names = ", ".join(sorted({info.name for info in models}))
    return errors.ModelUnavailable(
        f"No engine has the model {configured!r} that RIVA_MODEL names; there is {names}."
    )


def _abilities(models: tuple[ModelInfo, ...]) -> dict[str, Abilities]:
    told = {info.name: info.parameters for info in models if "streaming_mode" in info.parameters}
    return {
        name: Abilities(
            streaming_mode=says["streaming_mode"],
            chunk_ms=_number(says.get("chunk_ms", "")),
            lookahead_ms=_number(says.get("lookahead_ms", "")),
            word_times=says.get("word_times", "true") == "true",
            punctuation=says.get("punctuation", "false") == "true",
            partials=flag(says, "partials"),
        )
        for name, says in told.items()
    }


def flag(parameters: Mapping[str, str], name: str) -> bool | None:
    """An answer of yes or no among what an engine says of a model; None where it says neither."""
    return {"true": True, "false": False}.get(parameters.get(name, ""))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
