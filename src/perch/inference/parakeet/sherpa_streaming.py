"""Streaming exports by sherpa-onnx: a stream of the library for each utterance, all that are ready decoded at once.

The library starts an utterance in the middle of one, as it were: its first window is as long as any other,
and of that the encoder drops the overlap with a chunk before that never was. So the first 160 ms would
never be heard, everything would be timed 160 ms early, and a chunk would be decoded when the next one is
there. Silence of that length in front of every utterance mends all three: each chunk is decoded as soon
as it is there, and frames count from the utterance's first sample, as in NeMo.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perch.core.audio import RATE
from perch.errors import EngineFailed
from perch.inference.parakeet.model import FRAME, Facts, Piece, Token
from perch.inference.parakeet.sherpa_export import FACTOR, OVERLAP
from perch.inference.parakeet.sherpa_tokens import Said, spell

DROPPED = -(-OVERLAP // FACTOR) * FRAME
"""Samples that the encoder drops at the start of each window."""

TAIL = 2 * FRAME
"""Samples of silence after an utterance at least: the encoder needs half of it for the last sample, and
the rest is for a model that likes to hear that a word is over."""


@dataclass(slots=True)
class _State:
    """An utterance: the library's stream, samples in it, and how many of its tokens were told."""

    stream: Any
    samples: int = 0
    told: int = 0
    is_spoiled: bool = False


class StreamingModel:
    """Implements ``Model``.

    A pass that fails leaves the library's streams in a state nobody knows, so all utterances of it are
    over: they raise from then on.
    """

    def __init__(self, recogniser: Any, facts: Facts) -> None:
        self._recogniser = recogniser
        self._facts = facts

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        """Streams are made when they begin."""

    def begin(self) -> _State:
        stream = self._recogniser.create_stream()
        stream.accept_waveform(RATE, [0.0] * DROPPED)
        return _State(stream)

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        if any(piece.state.is_spoiled for piece in pieces):
            raise EngineFailed("This utterance failed before.")
        try:
            for piece in pieces:
                self._feed(piece)
            self._decode([piece.state.stream for piece in pieces])
            return [self._told(piece) for piece in pieces]
        except BaseException:
            for piece in pieces:
                piece.state.is_spoiled = True
            raise

    def end(self, state: _State) -> None:
        state.is_spoiled = True
        state.stream = None

    def _feed(self, piece: Piece) -> None:
        state = piece.state
        state.samples += len(piece.audio)
        if len(piece.audio):
            state.stream.accept_waveform(RATE, piece.audio.tolist())
        if piece.last and state.samples:
            silence = TAIL + -(state.samples + TAIL) % self._facts.chunk
            state.stream.accept_waveform(RATE, [0.0] * silence)

    def _decode(self, streams: Sequence[Any]) -> None:
        while ready := [stream for stream in streams if self._recogniser.is_ready(stream)]:
            self._recogniser.decode_streams(ready)

    def _told(self, piece: Piece) -> list[Token]:
        result = self._recogniser.get_result_all(piece.state.stream)
        said = Said(result.tokens, result.timestamps, log_probabilities=result.ys_probs)
        tokens, piece.state.told = spell(said, piece.state.told, last=piece.last)
        return tokens
