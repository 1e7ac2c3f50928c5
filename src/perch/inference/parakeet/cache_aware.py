"""What the cache-aware models in PyTorch share: slots, and the chunks of one step.

The state of all streams lies in rows of a store, one for each slot. What a library's encoder wants of audio,
features and rows is its model's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from perch.errors import EngineFailed
from perch.inference.parakeet.chunking import Chunking
from perch.inference.parakeet.greedy import Emitted
from perch.inference.parakeet.model import Audio, Facts, Piece, Token
from perch.inference.parakeet.transformers_common import computing, tokens_of


@dataclass(slots=True)
class State:
    """An utterance: its slot, the audio that features still need, and counts so far."""

    slot: int
    audio: Audio
    features: int = 0
    frames: int = 0
    is_spoiled: bool = False
    """Its rows are, or may be, ahead of its audio: true from the first write of a step until the step has
    succeeded, so after one that failed."""


S = TypeVar("S", bound=State)


@dataclass(slots=True)
class Work(Generic[S]):
    """One piece during a step: the audio with the piece's, and feature frames there are in all after it."""

    state: S
    audio: Audio
    total: int
    tokens: list[Token] = field(default_factory=list)

    @property
    def is_due(self) -> bool:
        return self.state.features < self.total


class CacheAwareModel(ABC, Generic[S]):
    """Implements ``Model``; ``_facts`` is for the model to set."""

    _facts: Facts

    def __init__(self, torch: Any, chunking: Chunking, vocabulary: Sequence[str]) -> None:
        self._torch = torch
        self._chunking = chunking
        self._vocabulary = vocabulary
        self._store = self._make_store(1)
        self._free = [0]

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        if hasattr(self, "_store"):
            del self._store  # the old one goes first: both may not fit
        self._free = []
        for count in (slots, 1):  # after a failure there is one slot, so that fewer can be tried
            with suppress(MemoryError), computing(self._torch):
                self._store = self._make_store(count)
                self._free = list(range(count))
                break
        if len(self._free) < slots:
            raise MemoryError(f"There is not enough memory for {slots} streams.")

    def begin(self) -> S:
        if not self._free:
            raise EngineFailed("Every slot of the model is taken.")
        return self._make_state(self._free.pop())

    def end(self, state: S) -> None:
        self._free.append(state.slot)

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        if any(piece.state.is_spoiled for piece in pieces):
            raise EngineFailed("A step failed after this utterance had advanced: it cannot go on.")
        works = [self._prepare(piece) for piece in pieces]
        with computing(self._torch):
            while due := [work for work in works if work.is_due]:
                self._advance(due)
        for piece, work in zip(pieces, works, strict=True):
            self._keep(piece, work)
            work.state.is_spoiled = False
        return [work.tokens for work in works]

    def _advance(self, works: Sequence[Work[S]]) -> None:
        """One chunk of every stream: the first chunks of utterances, which are shorter, by themselves."""
        early = [work for work in works if work.state.features == 0]
        late = [work for work in works if work.state.features]
        for group in (early, late):
            if group:
                self._chunk(group, first=group is early)

    def _spoil(self, works: Sequence[Work[S]]) -> None:
        """Rows are written from now on; what failed before this can be tried again."""
        for work in works:
            work.state.is_spoiled = True

    def _count(
        self, works: Sequence[Work[S]], emitted: Sequence[Sequence[Emitted]], frames: list[int], features: int
    ) -> None:
        """A chunk of so many ``features`` made so many ``frames`` of each, in which tokens were found."""
        for work, one, length in zip(works, emitted, frames, strict=True):
            work.tokens += tokens_of(one, self._vocabulary, first_frame=work.state.frames)
            work.state.frames += length
            work.state.features += features

    @abstractmethod
    def _make_store(self, slots: int) -> Any:
        """The rows of so many streams."""

    @abstractmethod
    def _make_state(self, slot: int) -> S: ...

    @abstractmethod
    def _prepare(self, piece: Piece) -> Work[S]:
        """What is to be done for a piece. Changes no state."""

    @abstractmethod
    def _chunk(self, works: Sequence[Work[S]], *, first: bool) -> None:
        """The next chunk of each; ``first`` of its utterance, or none is."""

    @abstractmethod
    def _keep(self, piece: Piece, work: Work[S]) -> None:
        """The step has succeeded: forget the audio that no further feature needs."""
