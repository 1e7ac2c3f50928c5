"""What models share that take an utterance at once and remember nothing of it."""

from collections.abc import Sequence

from perch.inference.parakeet.model import Audio, Facts, Piece, Token

SHORTEST = 2 * 160
"""Samples: features are normalised by their deviation, which takes two frames."""


class WholeModel:
    """Implements ``Model``."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        """Nothing is held between utterances."""

    def begin(self) -> None:
        """An utterance is one piece: there is nothing to remember."""

    def end(self, state: None) -> None:
        """Nothing is held for it."""

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        heard = [piece.audio for piece in pieces if len(piece.audio) >= SHORTEST]
        told = iter(self._recognise(heard) if heard else [])
        return [next(told) if len(piece.audio) >= SHORTEST else [] for piece in pieces]

    def _recognise(self, audios: Sequence[Audio]) -> list[list[Token]]:
        """The tokens of each of one or more utterances, none of them too short."""
        raise NotImplementedError
