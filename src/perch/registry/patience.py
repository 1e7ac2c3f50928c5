"""How often and after how long something that broke is tried again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from perch.registry.http import Broken, Unreachable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits on tries in a row that brought nothing new; whatever brings a byte starts the count again."""

    tries: int = 6
    first_wait_s: float = 0.5
    """Doubles each time."""
    max_wait_s: float = 60.0
    """Of one wait; a server that asks for a longer one is not waited for."""
    unreachable_s: float = 4.0
    """Without any connection from the start, after which there is no network: a person waits to be told."""


async def persist(
    attempt: Callable[[], Awaitable[T]],
    patience: Patience,
    *,
    progress: Callable[[], int] = lambda: 0,
    say: Callable[[str], None] = lambda _: None,
) -> T:
    """The result of ``attempt``, tried again while it raises ``Broken`` and there is hope.

    Args:
        attempt: What is tried.
        patience: How long.
        progress: How much is there; hope is new where this has changed.
        say: Told before each wait.

    Raises:
        Broken: The last one.
    """
    run = _Run(attempt, patience, progress, say)
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Broken),
        stop=run.is_hopeless,
        wait=run.wait_s,
        before_sleep=run.tell,
        reraise=True,
    )
    return await retrying(run.once)


class _Run(Generic[T]):
    """Counts the failures since something last moved."""

    def __init__(
        self,
        attempt: Callable[[], Awaitable[T]],
        patience: Patience,
        progress: Callable[[], int],
        say: Callable[[str], None],
    ) -> None:
        self._attempt = attempt
        self._patience = patience
        self._progress = progress
        self._say = say
        self._failures = 0
        self._started = monotonic()
        self._moved = False

    async def once(self) -> T:
        before = self._progress()
        try:
            return await self._attempt()
        except Broken:
            if self._progress() != before:
                self._failures, self._moved = 0, True
            self._failures += 1
            raise

    def is_hopeless(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        if error.retry_after > self._patience.max_wait_s or self._failures >= self._patience.tries:
            return True
        waited = monotonic() - self._started + self.wait_s(state)
        return isinstance(error, Unreachable) and not self._moved and waited > self._patience.unreachable_s

    def wait_s(self, state: RetryCallState) -> float:
        growing = self._patience.first_wait_s * 2.0 ** (self._failures - 1)
        return min(max(growing, _error_of(state).retry_after), self._patience.max_wait_s)

    def tell(self, state: RetryCallState) -> None:
        self._say(f"{_error_of(state)}; trying again in {self.wait_s(state):.1f} s")


def _error_of(state: RetryCallState) -> Broken:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, Broken)
    return error
