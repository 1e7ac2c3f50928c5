"""What to show of a hypothesis that is still changing: its stable prefix, a few times a second.

A one-pass decoder rewrites earlier words three times a second. A word is shown once two hypotheses in a
row, taken some time apart, agree on it and on every word before it, and it is not the last, which is
still being spoken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from perch.core.audio import ms_to_samples

INTERVAL = ms_to_samples(330)
"""Samples between two looks, so that text changes at most three times a second."""

SETTLED = ms_to_samples(200)
"""Samples of audio after a word's end until it counts as spoken, even if it is the last."""


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word of a hypothesis, and the utterance's sample at which it ends so far."""

    text: str
    end: int


class StablePrefix:
    """Follows one utterance's hypotheses. Pure: its clock is the count of samples decoded."""

    def __init__(self) -> None:
        self._shown: tuple[str, ...] = ()
        self._before: tuple[str, ...] = ()
        self._next_look = 0

    def due(self, position: int) -> bool:
        """Whether ``position`` samples into the utterance it is time for another look."""
        return position >= self._next_look

    def update(self, words: Sequence[HeardWord], position: int) -> str | None:
        """The text to show after ``position`` samples; None if it is the one shown already."""
        self._next_look = position + INTERVAL
        now = tuple(word.text for word in words)
        agreed = _common_prefix(self._before, now)
        self._before = now
        if agreed == now and words and words[-1].end > position - SETTLED:
            agreed = agreed[:-1]
        if len(agreed) <= len(self._shown) and agreed == self._shown[: len(agreed)]:
            return None
        self._shown = agreed
        return " ".join(agreed)


def _common_prefix(left: Sequence[str], right: Sequence[str]) -> tuple[str, ...]:
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return tuple(right[:length])
