"""Which endpoint the next attempt goes to: decided without waiting for anything.

Each endpoint has a circuit breaker (closed → open after ``fail_max`` failures in a row → half-open after
``reset_timeout_s``, when one attempt is let through to find out). Only failures that say something about
the endpoint count; a client's bad configuration does not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pybreaker

from perch import errors


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
    probing: bool = field(default=False)

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}: {self.active} active, breaker {self.breaker.current_state}>"


def counts_against_endpoint(error: BaseException) -> bool:
    """Whether ``error`` is a sign that the endpoint itself is unwell."""
    return isinstance(error, errors.EngineUnavailable | errors.EngineTimeout | errors.EngineFailed)


class EndpointPool:
    """Endpoints with their load and breakers; least loaded first."""

    def __init__(self, addresses: Sequence[str], config: PoolConfig | None = None) -> None:
        if not addresses:
            raise ValueError("an endpoint pool needs at least one address")
        self._config = config or PoolConfig()
        self.endpoints = [Endpoint(address, self._breaker(address)) for address in addresses]

    @contextmanager
    def lease(self, *, avoid: Endpoint | None = None) -> Iterator[Endpoint]:
        """Count one more stream on the best endpoint for as long as the block runs.

        ``avoid`` is used only if there is no other.

        Raises:
            EngineUnavailable: Every breaker is open.
            EngineFull: Every endpoint that is not has its fill of streams.
        """
        endpoint = self._choose(avoid)
        endpoint.active += 1
        try:
            yield endpoint
        finally:
            endpoint.active -= 1

    @contextmanager
    def connecting(self, endpoint: Endpoint) -> Iterator[None]:
        """Wraps the opening of a connection, whose outcome moves the breaker."""
        endpoint.probing = True
        try:
            with endpoint.breaker.calling():
                yield
        except pybreaker.CircuitBreakerError as error:
            raise errors.EngineUnavailable(
                "The speech engine is failing; it is left alone for a moment.",
                retry_after=self._config.reset_timeout_s,
            ) from error.__cause__
        finally:
            endpoint.probing = False

    def failed(self, endpoint: Endpoint, error: errors.PerchError) -> None:
        """Count a failure that came after the connection stood."""
        if counts_against_endpoint(error) and endpoint.breaker.current_state == pybreaker.STATE_CLOSED:
            try:
                endpoint.breaker.call(_raise, error)
            except (errors.PerchError, pybreaker.CircuitBreakerError):
                return

    def _choose(self, avoid: Endpoint | None) -> Endpoint:
        usable = [endpoint for endpoint in self.endpoints if self._usable(endpoint)]
        if not usable:
            raise errors.EngineUnavailable(
                "No speech engine is reachable at the moment.", retry_after=self._config.reset_timeout_s
            )
        roomy = [endpoint for endpoint in usable if endpoint.active < self._config.max_streams]
        if not roomy:
            raise errors.EngineFull("Every speech engine is at its limit of streams.", retry_after=1.0)
        return min(roomy, key=lambda endpoint: (endpoint is avoid, endpoint.active))

    def _usable(self, endpoint: Endpoint) -> bool:
        state = endpoint.breaker.current_state
        if state == pybreaker.STATE_CLOSED:
            return True
        if endpoint.probing:
            return False  # one probe at a time
        opened_at = endpoint.breaker._state_storage.opened_at  # noqa: SLF001 - pybreaker has no public view of it
        return (
            opened_at is None
            or (datetime.now(UTC) - opened_at).total_seconds() >= self._config.reset_timeout_s
        )

    def _breaker(self, address: str) -> pybreaker.CircuitBreaker:
        excluded: list[Callable[[BaseException], bool]] = [lambda error: not counts_against_endpoint(error)]
        return pybreaker.CircuitBreaker(
            fail_max=self._config.fail_max,
            reset_timeout=self._config.reset_timeout_s,
            exclude=excluded,
            name=address,
        )


def _raise(error: errors.PerchError) -> None:
    raise error
