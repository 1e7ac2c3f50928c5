"""What is said to a plain loop's process, and what it says besides the figures of a round.

Apart from ``plain_process``, which in that process is ``__main__`` and would pickle its classes as such.
"""

from dataclasses import dataclass
from typing import Literal

What = Literal["warm", "live", "flat_out", "offline"]


@dataclass(frozen=True, slots=True)
class Order:
    """A round to run: ``streams`` of them for ``seconds``; of an offline round, files."""

    what: What
    streams: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process has loaded."""

    about: str
    most: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why it did not do what it was asked."""

    code: str
    message: str
