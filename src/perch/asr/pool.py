"""Which endpoint the next attempt goes to: decided without waiting for anything.

Each endpoint has a circuit breaker (closed → open after ``fail_max`` failures in a row → half-open after
``reset_timeout_s``, when one attempt is let through to find out). Only what says something about the endpoint
counts: its first answer closes the breaker, its own failures open it, a client's bad configuration does
neither.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pybreaker

from perch import errors
from perch.core import languages
from perch.core.speech import ModelInfo, RecognitionConfig


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """When an endpoint is left alone, and for how long."""

    fail_max: int = 5
    reset_timeout_s: float = 5.0
    max_streams: int = 10_000
    """Streams per endpoint; the pool refuses more than it has room for."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """One address and what is known of it."""

    address: str
    breaker: pybreaker.CircuitBreaker
    active: int = 0
    recorded: int = 0
    """Of the active streams, those of recordings on an engine that takes them beside its slots."""
    opened_at: float = 0.0
    """When the breaker last opened, by the monotonic clock: the wall clock may jump."""
    probing: bool = False
    serving: bool = True
    """False when it failed last time; such an endpoint is the last choice."""
    models: tuple[ModelInfo, ...] = ()

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}: {self.active} active, breaker {self.breaker.current_state}>"

    def suits(self, config: RecognitionConfig) -> bool:
        """Whether its models, as far as they are known, include what ``config`` asks for."""
        return not self.models or any(
            (not config.model or model.answers_to(config.model))
            and (
                not config.language
                or not model.languages
                or languages.find(model.languages, config.language) is not None
            )
            for model in self.models
            if model.streaming
        )

    @property
    def takes_recordings(self) -> bool:
        return any(model.takes_recordings for model in self.models)

    @property
    def slots(self) -> int | None:
        """Live streams it carries, if it says so."""
        told = [model.slots for model in self.models if model.streaming and model.slots is not None]
        return max(told) if told else None

    @property
    def room(self) -> int | None:
        """Live streams it has room for, as far as this client knows; None if it does not say."""
        return None if self.slots is None else max(0, self.slots - (self.active - self.recorded))


def counts_against_endpoint(error: BaseException) -> bool:
    """Whether ``error`` is a sign that the endpoint itself is unwell."""
    unwell = errors.EngineUnavailable | errors.EngineTimeout | errors.EngineFailed
    return isinstance(error, unwell) and not isinstance(error, errors.EngineIdle)


class EndpointPool:
    """Endpoints with their load and breakers: those that serve the model first, then the least loaded."""

    def __init__(self, addresses: Sequence[str], config: PoolConfig | None = None) -> None:
        self._config = config or PoolConfig()
        self.endpoints: list[Endpoint] = []
        self.update(addresses)

    def update(self, addresses: Sequence[str]) -> list[Endpoint]:
        """Use ``addresses`` from now on; return the endpoints that are no longer among them."""
        if not addresses:
            raise ValueError("an endpoint pool needs at least one address")
        before = {endpoint.address: endpoint for endpoint in self.endpoints}
        added = {a: Endpoint(a, self._breaker(a)) for a in addresses if a not in before}
        known = before | added
        self.endpoints = [known[address] for address in dict.fromkeys(addresses)]
        return [endpoint for address, endpoint in before.items() if address not in addresses]

    @contextmanager
    def lease(
        self,
        config: RecognitionConfig | None = None,
        *,
        avoid: Endpoint | None = None,
        recording: bool = False,
    ) -> Iterator[Endpoint]:
        """Count one more stream on the best endpoint for as long as the block runs.

        ``avoid`` is used only if there is no other, and so is one whose slots are all taken.

        Raises:
            EngineUnavailable: Every breaker is open.
            EngineFull: Every endpoint that is not has its fill of streams.
        """
        endpoint = self._choose(config or RecognitionConfig(), avoid)
        recorded = recording and endpoint.takes_recordings
        endpoint.active += 1
        endpoint.recorded += recorded
        probing = endpoint.breaker.current_state != pybreaker.STATE_CLOSED
        endpoint.probing |= probing
        try:
            yield endpoint
        finally:
            endpoint.active -= 1
            endpoint.recorded -= recorded
            if probing:
                endpoint.probing = False

    def room(self) -> int | None:
        """Live streams that all endpoints in use have room for together; None if one of them does not say."""
        rooms = [endpoint.room for endpoint in self.endpoints if endpoint.serving]
        known = [room for room in rooms if room is not None]
        return sum(known) if known and len(known) == len(rooms) else None

    def answered(self, endpoint: Endpoint) -> None:
        """``endpoint`` is well."""
        endpoint.serving = True
        if endpoint.breaker.current_state == pybreaker.STATE_CLOSED:
            endpoint.breaker.call(_nothing)
        else:
            endpoint.breaker.close()

    def failed(self, endpoint: Endpoint, error: errors.PerchError) -> None:
        """Something went wrong with ``endpoint``; count it if it is the endpoint's fault."""
        if counts_against_endpoint(error):
            endpoint.serving = False
            was_closed = endpoint.breaker.current_state == pybreaker.STATE_CLOSED
            with suppress(errors.PerchError, pybreaker.CircuitBreakerError):
                endpoint.breaker.call(_raise, error)
            if was_closed or endpoint.probing:
                endpoint.opened_at = time.monotonic()

    def _choose(self, config: RecognitionConfig, avoid: Endpoint | None) -> Endpoint:
        usable = [endpoint for endpoint in self.endpoints if self._usable(endpoint)]
        if not usable:
            raise errors.EngineUnavailable(
                "No speech engine is reachable at the moment.", retry_after=self._config.reset_timeout_s
            )
        roomy = [endpoint for endpoint in usable if endpoint.active < self._config.max_streams]
        if not roomy:
            raise errors.EngineFull("Every speech engine is at its limit of streams.", retry_after=1.0)

        def rank(endpoint: Endpoint) -> tuple[bool, bool, bool, bool, int]:
            return (
                not endpoint.serving,
                endpoint is avoid,
                not endpoint.suits(config),
                endpoint.room == 0,
                endpoint.active,
            )

        return min(roomy, key=rank)

    def _usable(self, endpoint: Endpoint) -> bool:
        if endpoint.breaker.current_state == pybreaker.STATE_CLOSED:
            return True
        if endpoint.probing:
            return False  # one probe at a time
        return time.monotonic() - endpoint.opened_at >= self._config.reset_timeout_s

    def _breaker(self, address: str) -> pybreaker.CircuitBreaker:
        return pybreaker.CircuitBreaker(
            fail_max=self._config.fail_max, reset_timeout=self._config.reset_timeout_s, name=address
        )


def _nothing() -> None:
    return


def _raise(error: errors.PerchError) -> None:
    raise error
