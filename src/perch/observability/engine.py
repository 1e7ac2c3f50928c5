"""What the road to the engine tells of itself, counted and traced."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from perch.errors import PerchError
from perch.observability.metrics import CANCELLED, DONE, Metrics
from perch.observability.tracing import Metadata, Tracing


class EngineWatch:
    """Satisfies ``perch.asr.watch.Watch``."""

    def __init__(self, metrics: Metrics, tracing: Tracing) -> None:
        self._metrics = metrics
        self._tracing = tracing

    @contextmanager
    def attempt(self, endpoint: str) -> Iterator[Metadata]:
        outcome = DONE
        try:
            with self._tracing.attempt_span(endpoint) as metadata:
                yield metadata
        except PerchError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        finally:
            self._metrics.attempt_ended(outcome)

    def failover(self, code: str) -> None:
        self._metrics.failover(code)

    def replayed(self, samples: int) -> None:
        self._metrics.replayed(samples)

    def engine_write(self, seconds: float) -> None:
        self._metrics.stage("engine_write", seconds)
