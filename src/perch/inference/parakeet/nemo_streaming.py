"""Cache-aware streaming by NeMo: every frame is encoded once, for any number of streams at once.

The state of all streams lies in tensors with a row for each slot. A step gathers the rows of the streams
that are ready, runs the encoder on them in one pass, and writes the rows back; streams may be at any
point of their utterance, for NeMo's encoder takes a length of each one's cache.

The encoder is fed as NeMo's own streaming does it (see ``chunking``), with the nine feature frames before a
chunk in front of all but the first.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perch.core.audio import RATE, samples_to_ms
from perch.errors import EngineFailed
from perch.inference.parakeet.chunking import chunking
from perch.inference.parakeet.greedy import Decoder, Transducer
from perch.inference.parakeet.model import FRAME, Audio, Facts, LoadOptions, Piece, Token
from perch.inference.parakeet.nemo_checkpoint import lookaheads_of, set_lookahead, vocabulary_of
from perch.inference.parakeet.nemo_network import Processor
from perch.inference.parakeet.transformers_common import computing, has_punctuation, pieces_of, tokens_of

Tensor = Any

_HOP = 160
_MARGIN = 3
"""Feature frames computed to the left of those that are wanted: a window reaches over the samples of two,
and pre-emphasis needs the sample before."""

_REACH = 256
"""Samples that the window of a feature frame reaches to the right."""


@dataclass(slots=True)
class _State:
    """An utterance: its slot, the audio that features still need and where that begins, and counts so far."""

    slot: int
    audio: Audio = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    start: int = 0
    features: int = 0
    frames: int = 0
    is_spoiled: bool = False
    """Its rows are, or may be, ahead of its audio: true from the first write of a step until the step has
    succeeded, so after one that failed."""


@dataclass(slots=True)
class _Work:
    """One piece during a step: the audio with the piece's, and feature frames there are in all after it."""

    state: _State
    audio: Audio
    total: int
    tokens: list[Token] = field(default_factory=list)

    @property
    def is_due(self) -> bool:
        return self.state.features < self.total


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

    def decoders(self, rows: Tensor) -> Decoder:
        every = self.decoder
        return Decoder(
            every.hidden[:, rows],
            every.cell[:, rows],
            every.predicted[rows],
            every.symbols[rows],
            every.skip[rows],
        )

    def keep(self, rows: Tensor, caches: _Caches, decoder: Decoder) -> None:
        self.channel[:, rows], self.time[:, rows] = caches.channel, caches.time
        self.filled[rows], self.features[rows] = caches.filled, caches.features
        every = self.decoder
        every.hidden[:, rows], every.cell[:, rows] = decoder.hidden, decoder.cell
        every.predicted[rows] = decoder.predicted
        every.symbols[rows], every.skip[rows] = decoder.symbols, decoder.skip


class StreamingModel:
    """Implements ``Model`` for cache-aware RNN-T and TDT models."""

    def __init__(
        self, torch: Any, model: Any, transducer: Transducer, options: LoadOptions, *, decoder: str
    ) -> None:
        self._torch = torch
        self._model = model
        self._transducer = transducer
        self._chunking = chunking(options, lookaheads_of(model))
        set_lookahead(model, self._chunking.lookahead)
        self._vocabulary = pieces_of(Processor(torch, model), len(vocabulary_of(model)) + 1)
        self._store = _Store(torch, model, transducer, 1)
        self._free = [0]
        parameter = next(model.encoder.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        context = int(model.encoder.streaming_cfg.last_channel_cache_size)
        self._facts = Facts(
            model=options.name,
            backend="nemo",
            device=parameter.device.type,
            mode="cache-aware",
            chunk=self._chunking.piece_samples,
            decoder=decoder,
            languages=options.languages,
            longest=120 * RATE,
            confidence=True,
            punctuation=has_punctuation(self._vocabulary),
            parameters={
                "dtype": str(parameter.dtype).removeprefix("torch."),
                "attention_chunk_ms": str(samples_to_ms(self._chunking.chunk_samples)),
                "left_context_ms": str(samples_to_ms(context * FRAME)),
            },
        )

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        if hasattr(self, "_store"):
            del self._store  # the old one goes first: both may not fit
        self._free = []
        for count in (slots, 1):  # after a failure there is one slot, so that fewer can be tried
            with suppress(MemoryError), computing(self._torch):
                self._store = _Store(self._torch, self._model, self._transducer, count)
                self._free = list(range(count))
                break
        if len(self._free) < slots:
            raise MemoryError(f"There is not enough memory for {slots} streams.")

    def begin(self) -> _State:
        if not self._free:
            raise EngineFailed("Every slot of the model is taken.")
        return _State(self._free.pop())

    def end(self, state: _State) -> None:
        self._free.append(state.slot)

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        if any(piece.state.is_spoiled for piece in pieces):
            raise EngineFailed("A step failed after this utterance had advanced: it cannot go on.")
        works = [self._prepare(piece) for piece in pieces]
        with computing(self._torch):
            while due := [work for work in works if work.is_due]:
                self._advance(due)
        for work in works:
            _keep(work)
        return [work.tokens for work in works]

    def _prepare(self, piece: Piece) -> _Work:
        state = piece.state
        audio = np.concatenate([state.audio, piece.audio])
        samples = state.start + len(audio)
        if piece.last:
            return _Work(state, audio, samples // _HOP)
        return _Work(state, audio, state.features + self._chunking.piece(first=not state.features))

    def _advance(self, works: Sequence[_Work]) -> None:
        """One chunk of every stream: the first chunks of utterances, which are shorter, by themselves."""
        early = [work for work in works if work.state.features == 0]
        late = [work for work in works if work.state.features]
        for group in (early, late):
            if group:
                self._chunk(group, first=group is early)

    def _chunk(self, works: Sequence[_Work], *, first: bool) -> None:
        torch, store = self._torch, self._store
        rows = torch.tensor([work.state.slot for work in works], device=self._device)
        size = self._chunking.chunk(first=first)
        counts = [min(size, work.total - work.state.features) for work in works]
        valid = torch.tensor(counts, device=self._device)
        features = self._features(works, size, valid)
        caches = store.caches(rows, first=first)
        encoded, lengths = self._encode(features, valid, caches, first=first)
        fresh = self._transducer.start(len(works)) if first else store.decoders(rows)
        frames = self._model.joint.enc(encoded.transpose(1, 2))
        emitted, decoder = self._transducer.decode(frames, lengths, fresh)
        for work in works:  # all is computed; what fails before this can be tried again
            work.state.is_spoiled = True
        store.keep(rows, caches, decoder)
        for work, one, length in zip(works, emitted, lengths.tolist(), strict=True):
            work.tokens += tokens_of(one, self._vocabulary, first_frame=work.state.frames)
            work.state.frames += length
            work.state.features += size

    def _features(self, works: Sequence[_Work], size: int, valid: Tensor) -> Tensor:
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


def _cut(work: _Work, length: int) -> Audio:
    """The audio of the stream's next features: silence before its first sample and after its last."""
    begin = (work.state.features - _MARGIN) * _HOP - work.state.start
    audio = work.audio[max(0, begin) : max(0, begin + length)]
    before = max(0, -begin)
    return np.pad(audio, (before, length - before - len(audio)))


def _keep(work: _Work) -> None:
    """Forget the audio that no further feature needs; the step has succeeded."""
    state = work.state
    state.is_spoiled = False
    first = min(max(state.start, (state.features - _MARGIN) * _HOP), state.start + len(work.audio))
    state.audio, state.start = work.audio[first - state.start :], first
