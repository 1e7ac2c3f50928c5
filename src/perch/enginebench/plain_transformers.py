"""transformers as in its documentation: ``generate`` of one utterance, or one stream, after the other."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from perch.core.audio import RATE
from perch.enginebench.plain import Heard, PlainLoop, Spec, WholeUtterances
from perch.inference.parakeet.model import FRAME, Audio, Token
from perch.inference.parakeet.transformers_common import pieces_of
from perch.inference.parakeet.words import text_of

_MOST_TOKENS_PER_FRAME = 10


class _Generating:
    """What both kinds have in common."""

    def __init__(self, torch: Any, network: Any, processor: Any, *, is_ctc: bool) -> None:
        self._torch = torch
        self._network = network
        self._processor = processor
        self._is_ctc = is_ctc
        self._pieces = pieces_of(processor, network.config.vocab_size)
        self._silent = {network.config.pad_token_id, getattr(network.config, "blank_token_id", None)}

    def whole(self, audio: Audio) -> Heard:
        inputs = self._processor(audio, sampling_rate=RATE).to(self._network.device)
        if "input_features" in inputs:
            inputs["input_features"] = inputs["input_features"].to(self._network.dtype)
        longest = (
            {} if self._is_ctc else {"max_new_tokens": _MOST_TOKENS_PER_FRAME * (len(audio) // FRAME + 1)}
        )
        return self._heard(self._network.generate(**inputs, **longest, return_dict_in_generate=True))

    def _heard(self, outputs: Any) -> Heard:
        ids = outputs.sequences[0].tolist()
        if self._is_ctc:
            ids = [one for one, _ in groupby(ids)]
        pieces = [self._pieces[one] for one in ids if one not in self._silent]
        tokens = [Token(piece, 0.0) for piece in pieces if piece]
        return Heard(text_of(tokens), len(tokens))


class Offline(_Generating, WholeUtterances):
    """Implements ``PlainLoop`` for whole utterances."""

    about = "generate, one utterance after the other"


class Windows(Offline):
    """Implements ``PlainLoop`` for a model that is streamed in windows: the library knows no such streams."""

    most = 0


class Streaming(_Generating):
    """Implements ``PullingLoop``: ``generate`` keeps the stream's state on the model."""

    about = "generate(generator), which serves one stream at a time"
    most = 1

    def open(self) -> Any:
        raise NotImplementedError("it asks for its audio")

    def feed(self, utterance: Any, audio: Audio) -> None:
        raise NotImplementedError("it asks for its audio")

    def finish(self, utterance: Any) -> Heard:
        raise NotImplementedError("it asks for its audio")

    def pull(self, pieces: Iterator[Audio]) -> Heard:
        first = next(pieces, None)
        if first is None:
            return Heard("", 0)
        outputs = self._network.generate(
            self._features(first, pieces),
            num_lookahead_tokens=self._processor.default_num_lookahead_tokens,
            return_dict_in_generate=True,
        )
        return self._heard(outputs)

    def _features(self, first: Audio, pieces: Iterator[Audio]) -> Iterator[Any]:
        """Feature frames of each piece: the first is shorter, the last is filled up with silence."""
        hop = self._processor.feature_extractor.hop_length
        heard = first
        frame = self._processor.num_mel_frames_first_audio_chunk
        least = self._processor.num_samples_first_audio_chunk
        yield self._of(_filled(heard, least), is_first=True)[:, :frame]
        while (piece := next(pieces, None)) is not None:
            heard = np.concatenate([heard, piece])
            yield self._chunk(heard, frame)
            frame += self._processor.num_mel_frames_per_audio_chunk
        if len(heard) // hop > frame:
            yield self._chunk(heard, frame)

    def _chunk(self, heard: Audio, frame: int) -> Any:
        start, size = self._window(frame)
        return self._of(_filled(heard[start : start + size], size), is_first=False)

    def _window(self, frame: int) -> tuple[int, int]:
        extractor = self._processor.feature_extractor
        frames = self._processor.num_mel_frames_per_audio_chunk
        start = frame * extractor.hop_length - extractor.n_fft // 2
        return start, (frames - 1) * extractor.hop_length + extractor.n_fft

    def _of(self, audio: Audio, *, is_first: bool) -> Any:
        inputs = self._processor(audio, sampling_rate=RATE, is_streaming=True, is_first_audio_chunk=is_first)
        return inputs["input_features"].to(self._network.device, self._network.dtype)


def load(spec: Spec) -> PlainLoop:
    """The library with the same checkpoint, device, number format and threads as the worker process."""
    from perch.inference.parakeet import transformers as served  # noqa: PLC0415
    from perch.inference.parakeet.torch_setup import device_of, libraries  # noqa: PLC0415

    torch, library = libraries()
    if spec.options.threads:
        torch.set_num_threads(spec.options.threads)
    network, processor = served._read(torch, library, spec.options, device_of(torch, spec.options))  # noqa: SLF001
    torch.set_grad_enabled(False)
    kind = network.config.model_type
    if kind == "nemotron_asr_streaming":
        processor.set_num_lookahead_tokens(spec.chunk // FRAME - 1)
        return Streaming(torch, network, processor, is_ctc=False)
    return (Windows if spec.chunk else Offline)(torch, network, processor, is_ctc=kind == "parakeet_ctc")


def _filled(audio: Audio, size: int) -> Audio:
    return np.pad(audio, (0, max(0, size - len(audio))))
