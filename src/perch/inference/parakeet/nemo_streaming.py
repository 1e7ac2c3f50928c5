"""Cache-aware streaming by NeMo: every frame is encoded once, for any number of streams at once.

The state of all streams lies in tensors with a row for each slot. A step gathers the rows of the streams
that are ready, runs the encoder on them in one pass, and writes the rows back; streams may be at any
point of their utterance, for NeMo's encoder takes a length of each one's cache.

The encoder is fed as NeMo's own streaming does it (see ``chunking``), with the nine feature frames before a
chunk in front of all but the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perch.core.audio import RATE, samples_to_ms
from perch.inference.parakeet.cache_aware import CacheAwareModel, State, Work
from perch.inference.parakeet.chunking import chunking
from perch.inference.parakeet.greedy import Decoder, Transducer
from perch.inference.parakeet.model import FRAME, Audio, Facts, LoadOptions, Piece
from perch.inference.parakeet.nemo_checkpoint import lookaheads_of, set_lookahead, vocabulary_of
from perch.inference.parakeet.nemo_network import Processor
from perch.inference.parakeet.transformers_common import has_punctuation, pieces_of

Tensor = Any

_HOP = 160
_MARGIN = 3
"""Feature frames computed to the left of those that are wanted: a window reaches over the samples of two,
and pre-emphasis needs the sample before."""

_REACH = 256
"""Samples that the window of a feature frame reaches to the right."""


@dataclass(slots=True)
class _State(State):
    """An utterance whose audio begins at the sample ``start``."""

    start: int = 0


@dataclass(slots=True)
class _Caches:
    """The encoder's state of the streams of one batch, copied out of their rows."""

    channel: Tensor
    time: Tensor
    filled: Tensor
    features: Tensor


class _Store:
    """The rows of all slots."""

    def __init__(self, torch: Any, model: Any, transducer: Transducer, slots: int) -> None:
        encoder = model.encoder
        parameter = next(encoder.parameters())
        self.channel, self.time, self.filled = encoder.get_initial_cache_state(
            batch_size=slots, dtype=parameter.dtype, device=parameter.device
        )
        self.overlap = int(encoder.streaming_cfg.pre_encode_cache_size[1])
        shape = (slots, int(model.cfg.preprocessor.features), self.overlap)
        self.features = torch.zeros(shape, device=parameter.device)
        self.decoder = transducer.start(slots)

    def caches(self, rows: Tensor, *, first: bool) -> _Caches:
        """Empty for ``first``: what is there is of an utterance that is over."""
        held = _Caches(self.channel[:, rows], self.time[:, rows], self.filled[rows], self.features[rows])
        if first:
            for copy in (held.channel, held.time, held.filled, held.features):
                copy.zero_()
        return held

    def keep(self, rows: Tensor, caches: _Caches, decoder: Decoder) -> None:
        self.channel[:, rows], self.time[:, rows] = caches.channel, caches.time
        self.filled[rows], self.features[rows] = caches.filled, caches.features
        self.decoder.keep(rows, decoder)


class StreamingModel(CacheAwareModel[_State]):
    """Implements ``Model`` for cache-aware RNN-T and TDT models."""

    def __init__(
        self, torch: Any, model: Any, transducer: Transducer, options: LoadOptions, *, decoder: str
    ) -> None:
        self._model = model
        self._transducer = transducer
        chunks = chunking(options, lookaheads_of(model))
        set_lookahead(model, chunks.lookahead)
        vocabulary = pieces_of(Processor(torch, model), len(vocabulary_of(model)) + 1)
        super().__init__(torch, chunks, vocabulary)
        parameter = next(model.encoder.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        context = int(model.encoder.streaming_cfg.last_channel_cache_size)
        self._facts = Facts(
            model=options.name,
            backend="nemo",
            device=parameter.device.type,
            mode="cache-aware",
            chunk=chunks.piece_samples,
            decoder=decoder,
            languages=options.languages,
            longest=120 * RATE,
            confidence=True,
            punctuation=has_punctuation(vocabulary),
            parameters={
                "dtype": str(parameter.dtype).removeprefix("torch."),
                "attention_chunk_ms": str(samples_to_ms(chunks.chunk_samples)),
                "left_context_ms": str(samples_to_ms(context * FRAME)),
            },
        )

    def _make_store(self, slots: int) -> _Store:
        return _Store(self._torch, self._model, self._transducer, slots)

    def _make_state(self, slot: int) -> _State:
        return _State(slot, np.zeros(0, dtype=np.float32))

    def _prepare(self, piece: Piece) -> Work[_State]:
        state = piece.state
        audio = np.concatenate([state.audio, piece.audio])
        samples = state.start + len(audio)
        if piece.last:
            return Work(state, audio, samples // _HOP)
        return Work(state, audio, state.features + self._chunking.piece(first=not state.features))

    def _chunk(self, works: Sequence[Work[_State]], *, first: bool) -> None:
        torch, store = self._torch, self._store
        rows = torch.tensor([work.state.slot for work in works], device=self._device)
        size = self._chunking.chunk(first=first)
        counts = [min(size, work.total - work.state.features) for work in works]
        valid = torch.tensor(counts, device=self._device)
        features = self._features(works, size, valid)
        caches = store.caches(rows, first=first)
        encoded, lengths = self._encode(features, valid, caches, first=first)
        fresh = self._transducer.start(len(works)) if first else store.decoder.of(rows)
        frames = self._model.joint.enc(encoded.transpose(1, 2))
        emitted, decoder = self._transducer.decode(frames, lengths, fresh)
        self._spoil(works)
        store.keep(rows, caches, decoder)
        self._count(works, emitted, lengths.tolist(), size)

    def _keep(self, piece: Piece, work: Work[_State]) -> None:
        del piece
        state = work.state
        first = min(max(state.start, (state.features - _MARGIN) * _HOP), state.start + len(work.audio))
        state.audio, state.start = work.audio[first - state.start :], first

    def _features(self, works: Sequence[Work[_State]], size: int, valid: Tensor) -> Tensor:
        """The next ``size`` feature frames of each, shape (B, mels, size); those past the end are zero."""
        torch = self._torch
        length = (_MARGIN + size) * _HOP + _REACH
        audio = torch.from_numpy(np.stack([_cut(work, length) for work in works])).to(self._device)
        lengths = torch.full((len(works),), length, device=self._device)
        features, _ = self._model.preprocessor(input_signal=audio, length=lengths)
        places = torch.arange(size, device=self._device)
        return features[:, :, _MARGIN : _MARGIN + size] * (places[None] < valid[:, None])[:, None]

    def _encode(
        self, features: Tensor, valid: Tensor, caches: _Caches, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """The chunk's encoder frames, shape (B, width, lookahead + 1), and how many are valid.

        The caches become those after it.
        """
        overlap = self._store.overlap
        seen = self._torch.cat([caches.features, features], 2)
        encoded, lengths, caches.channel, caches.time, caches.filled = (
            self._model.encoder.cache_aware_stream_step(
                processed_signal=(features if first else seen).to(self._dtype),
                processed_signal_length=valid + (0 if first else overlap),
                cache_last_channel=caches.channel,
                cache_last_time=caches.time,
                cache_last_channel_len=caches.filled,
                keep_all_outputs=True,
                drop_extra_pre_encoded=0 if first else None,
            )
        )
        caches.features = seen[:, :, seen.shape[2] - overlap :]
        return encoded, lengths


def _cut(work: Work[_State], length: int) -> Audio:
    """The audio of the stream's next features: silence before its first sample and after its last."""
    begin = (work.state.features - _MARGIN) * _HOP - work.state.start
    audio = work.audio[max(0, begin) : max(0, begin + length)]
    before = max(0, -begin)
    return np.pad(audio, (before, length - before - len(audio)))
