"""Who says what when: the same for a model in its worker process and for the library's plain loop. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from perch.core.audio import RATE

LONGEST = 10 * RATE
"""Samples of an utterance of the script: people pause, and a short round shall hear some to their end."""


@dataclass(frozen=True, slots=True)
class Cue:
    """A piece of an utterance, and when the last of it is spoken."""

    due: float
    """Seconds from the round's start."""
    clip: int
    start: int
    """Samples into the clip."""
    end: int
    last: bool
    """The utterance ends with it."""

    @property
    def samples(self) -> int:
        return self.end - self.start


def utterances(recordings: Sequence[bytes], longest: int) -> list[bytes]:
    """16-bit recordings cut evenly into utterances of at most ``longest`` samples and 10 seconds."""
    most = 2 * min(longest, LONGEST)
    cut: list[bytes] = []
    for pcm in recordings:
        parts = -(-len(pcm) // most)
        length = 2 * -(-len(pcm) // (2 * parts))
        cut += [pcm[start : start + length] for start in range(0, len(pcm), length)]
    return cut


def cues(lengths: Sequence[int], *, chunk: int, stream: int, streams: int) -> Iterator[Cue]:
    """What one stream says, without end: each utterance in turn, in pieces.

    Streams begin with different utterances, and spread evenly over a piece so that they are not due
    together; people are not.

    Args:
        lengths: Samples of each utterance.
        chunk: Samples of a piece; 0 if an utterance is one.
        stream: Which stream, from 0.
        streams: How many there are.
    """
    spoken = (chunk or lengths[0]) * stream // streams
    for number in count(stream):
        clip = number % len(lengths)
        for start, end in _pieces(lengths[clip], chunk):
            yield Cue((spoken + end) / RATE, clip, start, end, end == lengths[clip])
        spoken += lengths[clip]


def _pieces(length: int, chunk: int) -> Iterator[tuple[int, int]]:
    size = chunk or length
    for start in range(0, length, size):
        yield start, min(start + size, length)
