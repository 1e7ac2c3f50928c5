"""Offline exports by sherpa-onnx (RNN-T, TDT, CTC): whole utterances, as many at once as there are."""

from collections.abc import Sequence
from typing import Any

from perch.core.audio import RATE
from perch.inference.parakeet.model import Audio, Facts, Token
from perch.inference.parakeet.sherpa_tokens import Said, spell
from perch.inference.parakeet.whole import WholeModel


class OfflineModel(WholeModel):
    """Implements ``Model``."""

    def __init__(self, recogniser: Any, facts: Facts) -> None:
        super().__init__(facts)
        self._recogniser = recogniser

    def _recognise(self, audios: Sequence[Audio]) -> list[list[Token]]:
        streams = [self._stream(audio) for audio in audios]
        self._recogniser.decode_streams(streams)
        return [_tokens(stream.result) for stream in streams]

    def _stream(self, audio: Audio) -> Any:
        stream = self._recogniser.create_stream()
        stream.accept_waveform(RATE, audio.tolist())
        return stream


def _tokens(result: Any) -> list[Token]:
    said = Said(result.tokens, result.timestamps, result.durations, result.ys_log_probs)
    return spell(said, 0, last=True)[0]
