"""Which utterances step next: pure bookkeeping of the audio that waits.

Every utterance that has a whole piece waits in one line. A step takes from the front, one piece of each,
and whoever has another piece goes to the back: a stream with a backlog does not hold up one without.
Nobody waits for company: while a step runs, others become ready, and the next step takes them together,
so the longest wait of a ready piece is the step under way plus the steps of those in front.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from perch.inference.parakeet.model import Audio

LIGHT_STEPS = 100
"""Steps that have to succeed before larger ones are tried again, after memory ran out."""

_NOTHING: Audio = np.zeros(0, dtype=np.float32)


@dataclass(slots=True)
class Waiting:
    """An utterance and the audio of it that no step has taken."""

    key: int
    pieces: list[Audio] = field(default_factory=list)
    samples: int = 0
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A piece for the next step."""

    key: int
    audio: Audio
    last: bool


class Batcher:
    """Collects audio by utterance, and hands out the pieces of the next step.

    Args:
        chunk: Samples of a piece; 0 if an utterance is one piece.
        most: Pieces of one step.
        most_samples: Of one step, counting each piece as long as the longest, as they are padded to it.
            A piece longer than this goes alone.
        context: Samples that are encoded beside those of each piece.
    """

    def __init__(self, *, chunk: int, most: int, most_samples: int, context: int = 0) -> None:
        self._chunk = chunk
        self._context = context
        self._most = most
        self._most_samples = self._samples_now = most_samples
        self._light_steps = 0
        self._utterances: dict[int, Waiting] = {}
        self._line: dict[int, Waiting] = {}

    def __bool__(self) -> bool:
        """Whether a piece is ready."""
        return bool(self._line)

    def is_ready(self, key: int) -> bool:
        return key in self._line

    def begin(self, key: int) -> None:
        self._utterances[key] = Waiting(key)

    def add(self, key: int, audio: Audio, *, last: bool) -> None:
        """More audio of an utterance, in order; with ``last`` it is over."""
        waiting = self._utterances[key]
        if len(audio):
            waiting.pieces.append(audio)
            waiting.samples += len(audio)
        waiting.is_over = waiting.is_over or last
        self._join_line(waiting)

    def drop(self, key: int) -> None:
        """Forget an utterance and its audio. Safe to call twice."""
        self._utterances.pop(key, None)
        self._line.pop(key, None)

    def take(self, most: int | None = None) -> list[Due]:
        """The pieces of the next step, no more than ``most``; their utterances have been waiting longest."""
        taken: list[Due] = []
        for waiting in list(self._fitting(self._most if most is None else most)):
            del self._line[waiting.key]
            taken.append(self._cut(waiting))
            self._join_line(waiting)
        return taken

    def lighten(self, dues: Sequence[Due]) -> None:
        """There was no memory for ``dues`` in one step: for some time no step is of more than half as much."""
        longest = self._context + max(len(due.audio) for due in dues)
        self._samples_now = min(self._samples_now, longest * len(dues) // 2)
        self._light_steps = 0

    def succeeded(self) -> None:
        """A step had memory enough: after some such steps, twice as much is tried, up to all of it."""
        if self._samples_now < self._most_samples:
            self._light_steps += 1
            if self._light_steps >= LIGHT_STEPS:
                self._light_steps = 0
                self._samples_now = min(2 * self._samples_now, self._most_samples)

    def _fitting(self, most: int) -> Iterator[Waiting]:
        longest = 0
        for count, waiting in enumerate(self._line.values(), 1):
            longest = max(longest, self._context + self._length(waiting))
            if count > most or (count > 1 and longest * count > self._samples_now):
                return
            yield waiting

    def _length(self, waiting: Waiting) -> int:
        return min(self._chunk, waiting.samples) if self._chunk else waiting.samples

    def _cut(self, waiting: Waiting) -> Due:
        audio = waiting.pieces[0] if len(waiting.pieces) == 1 else _joined(waiting.pieces)
        length = self._length(waiting)
        rest = audio[length:]
        waiting.pieces = [rest] if len(rest) else []
        waiting.samples = len(rest)
        is_last = waiting.is_over and not waiting.samples
        if is_last:
            del self._utterances[waiting.key]
        return Due(waiting.key, audio[:length], is_last)

    def _join_line(self, waiting: Waiting) -> None:
        has_piece = self._chunk and waiting.samples >= self._chunk
        if waiting.key in self._utterances and (waiting.is_over or has_piece):
            self._line.setdefault(waiting.key, waiting)


def _joined(pieces: list[Audio]) -> Audio:
    return np.concatenate(pieces) if pieces else _NOTHING
