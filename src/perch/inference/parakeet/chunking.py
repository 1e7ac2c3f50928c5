"""How a cache-aware encoder is fed: NVIDIA's scheme, in feature frames of 10 ms.

"Stateful Conformer with Cache-based Inference for Streaming ASR" (Noroozi et al., 2024): a first chunk of
``1 + 8·lookahead`` feature frames, then ``8·(lookahead + 1)``; each makes ``lookahead + 1`` encoder frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from perch.core.audio import samples_to_ms
from perch.errors import BadConfig
from perch.inference.parakeet.model import FRAME, LoadOptions

_FACTOR = 8
"""Feature frames for each encoder frame."""

_USUAL, _MOST_FRAMES = 7, 14
"""Encoder frames of a piece if none is asked for, and the most: 560 and 1120 ms."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """The lookahead in encoder frames, and how many of the model's chunks make a piece."""

    lookahead: int
    chunks: int = 1

    @property
    def chunk_samples(self) -> int:
        return (self.lookahead + 1) * FRAME

    @property
    def piece_samples(self) -> int:
        return self.chunks * self.chunk_samples

    def chunk(self, *, first: bool) -> int:
        """Feature frames of a chunk; the first of an utterance is shorter."""
        return 1 + _FACTOR * self.lookahead if first else _FACTOR * (self.lookahead + 1)

    def piece(self, *, first: bool) -> int:
        """Feature frames of all chunks of a piece."""
        return self.chunk(first=first) + (self.chunks - 1) * self.chunk(first=False)


def chunking(options: LoadOptions, lookaheads: Iterable[int]) -> Chunking:
    """How a model that was trained for ``lookaheads`` is to be fed.

    A piece of a length that it was not trained for is made of several chunks of the longest one that divides
    it: fewer steps to schedule, with the accuracy of the shorter chunk.

    Raises:
        BadConfig: It cannot stream as asked.
    """
    if options.mode not in {"auto", "cache-aware"}:
        raise BadConfig(f"{options.name} is a streaming model: it is always cache-aware, not {options.mode}.")
    trained = sorted(int(one) + 1 for one in lookaheads)
    if options.chunk_ms is None:
        return Chunking((_USUAL if _USUAL in trained else trained[-1]) - 1)
    frames, rest = divmod(options.chunk_ms, samples_to_ms(FRAME))
    dividing = [one for one in trained if frames and frames % one == 0]
    if rest or not dividing or frames > _MOST_FRAMES:
        offered = ", ".join(str(samples_to_ms(one * FRAME)) for one in trained)
        raise BadConfig(
            f"--chunk-ms is {options.chunk_ms}; give a multiple of 80 up to 1120. {options.name} was trained "
            f"for {offered}."
        )
    return Chunking(dividing[-1] - 1, frames // dividing[-1])
