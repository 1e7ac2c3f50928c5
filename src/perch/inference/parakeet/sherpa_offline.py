"""Offline exports by sherpa-onnx (RNN-T, TDT, CTC): whole utterances, as many at once as there are."""

from collections.abc import Sequence
from typing import Any

from perch.core.audio import RATE
from perch.inference.parakeet.model import Audio, Facts, Piece, Token
from perch.inference.parakeet.sherpa_tokens import Said, spell

SHORTEST = 2 * 160
"""Samples: features are normalised by their deviation, which takes two frames."""


class OfflineModel:
    """Implements ``Model``."""

    def __init__(self, recogniser: Any, facts: Facts) -> None:
        self._recogniser = recogniser
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
        audios = [piece.audio for piece in pieces]
        streams = [self._stream(audio) if len(audio) >= SHORTEST else None for audio in audios]
        heard = [stream for stream in streams if stream is not None]
        if heard:
            self._recogniser.decode_streams(heard)
        return [[] if stream is None else _tokens(stream.result) for stream in streams]

    def _stream(self, audio: Audio) -> Any:
        stream = self._recogniser.create_stream()
        stream.accept_waveform(RATE, audio.tolist())
        return stream


def _tokens(result: Any) -> list[Token]:
    said = Said(result.tokens, result.timestamps, result.durations, result.ys_log_probs)
    return spell(said, 0, last=True)[0]
