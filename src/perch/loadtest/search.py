"""Finding the knee: which concurrency to try next. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

PRECISION = 0.1
"""The knee is known when what holds and what does not are this far apart, as a share of the latter."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A concurrency, and whether every SLO held at it."""

    sessions: int
    held: bool


def knee(tried: Sequence[Tried]) -> int:
    """The largest concurrency that held below everything that did not; 0 if none did."""
    broken = _broken(tried)
    return max((one.sessions for one in tried if one.held and one.sessions < broken), default=0)


def following(tried: Sequence[Tried], first: int, most: int) -> int | None:
    """The next concurrency to try, or None when the knee is known.

    Doubles until an SLO is missed, then halves the distance. What misses once is tried once more: a pause of
    the machine is no knee.
    """
    if not tried:
        return min(first, most)
    last = tried[-1]
    if not last.held and _misses(tried, last.sessions) == 1:
        return last.sessions
    low, high = knee(tried), _broken(tried)
    if high == _NEVER:
        return min(2 * low, most) if low < most else None
    if high - low <= max(1, PRECISION * high):
        return None
    return (low + int(high)) // 2


_NEVER = float("inf")


def _broken(tried: Sequence[Tried]) -> float:
    return min((one.sessions for one in tried if _misses(tried, one.sessions) > 1), default=_NEVER)


def _misses(tried: Sequence[Tried], sessions: int) -> int:
    """How often ``sessions`` missed; a time that it held makes good for them."""
    same = [one for one in tried if one.sessions == sessions]
    return 0 if any(one.held for one in same) else len(same)
