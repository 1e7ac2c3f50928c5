"""A model of tone words, so that roads through the worker process can be walked without any weights.

``parameters`` of the mode are honest: with ``chunk_ms`` it works in pieces and carries its state on, as a
cache-aware model does, otherwise on whole utterances.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from perch.audio.tones import ToneReader
from perch.core.audio import ms_to_samples
from perch.core.speech import Word
from perch.inference.parakeet.model import FRAME, WORD_START, Audio, Facts, LoadOptions, Piece, Token


@dataclass(slots=True)
class _Heard:
    reader: ToneReader = field(default_factory=ToneReader)


class ToneModel:
    """Implements ``Model``."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        """Any number fits."""

    def begin(self) -> _Heard:
        return _Heard()

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        return [_read(piece) for piece in pieces]

    def end(self, state: _Heard) -> None:
        """Nothing is held."""


def load(options: LoadOptions) -> ToneModel:
    chunk = ms_to_samples(options.chunk_ms) if options.chunk_ms else 0
    return ToneModel(
        Facts(
            model=options.name,
            backend="tones",
            device="cpu",
            mode="cache-aware" if chunk else "vad-segmented",
            chunk=chunk,
            decoder="tones",
            confidence=True,
            punctuation=False,
        )
    )


def _read(piece: Piece) -> list[Token]:
    words = piece.state.reader.feed(_pcm(piece.audio))
    if piece.last:
        words += piece.state.reader.flush()
    return [token for word in words for token in _tokens(word)]


def _pcm(audio: Audio) -> bytes:
    return np.clip(np.rint(audio * 32_768), -32_768, 32_767).astype("<i2").tobytes()


def _tokens(word: Word) -> list[Token]:
    """A word's first letter, and the rest of it."""
    start, half = word.start / FRAME, (word.end - word.start) / FRAME / 2
    first = Token(WORD_START + word.text[:1], start, half, word.confidence)
    return [first, Token(word.text[1:], start + half, half, word.confidence)]
