"""Whether the engine is there: asked in the background, so that no client waits for the answer."""

import asyncio
from dataclasses import dataclass, replace

import structlog

from perch import errors
from perch.asr.base import ASRClient
from perch.core.messages import Backend
from perch.core.speech import ModelInfo
from perch.observability.metrics import Metrics

log = structlog.get_logger(__name__)
_IMPATIENT_S = 0.5


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is known of the engine. ``problem`` is None when it answers."""

    backend: Backend
    models: tuple[ModelInfo, ...] = ()
    problem: errors.PerchError | None = None

    @property
    def ready(self) -> bool:
        return self.problem is None


class EngineMonitor:
    """Asks the engine for its models every ``every_s``, and every half second while it does not answer."""

    def __init__(self, client: ASRClient, metrics: Metrics, every_s: float) -> None:
        self._client = client
        self._metrics = metrics
        self._every_s = every_s
        self.state = EngineState(client.backend, problem=errors.EngineUnavailable("The engine is starting."))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._every_s if self.state.ready else min(_IMPATIENT_S, self._every_s))

    async def check(self) -> EngineState:
        """Ask once, now."""
        before = self.state
        try:
            self.state = self._answered(tuple(await self._client.models()))
        except errors.PerchError as error:
            self.state = replace(before, problem=error)
        if self.state.ready != before.ready:
            self._metrics.set_engine_ready(self.state.ready)
            problem = self.state.problem
            log.info("engine_ready" if problem is None else "engine_lost", problem=problem and problem.code)
        return self.state

    def _answered(self, models: tuple[ModelInfo, ...]) -> EngineState:
        """An engine of ours says in its parameters what its user must know."""
        backend = self._client.backend
        first = models[0] if models else None
        if first is not None and not backend.model:
            backend = replace(
                backend, model=first.name, notice=first.parameters.get("notice", backend.notice)
            )
        if first is None:
            return EngineState(backend, problem=errors.EngineUnavailable("The engine has no model loaded."))
        return EngineState(backend, models)
