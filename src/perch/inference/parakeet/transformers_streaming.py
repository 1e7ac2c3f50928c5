"""Cache-aware streaming by transformers: every frame is encoded once, for any number of streams at once.

transformers' own ``generate`` keeps a stream's state on the model, so it serves one stream at a time. Here
the state of all streams lies in tensors with a row for each slot; a step gathers the rows of the streams
that are ready, runs the encoder's layers on them, and writes the rows back. Streams may be at any point
of their utterance: keys that a young stream does not have yet are masked.

What the encoder is fed is NVIDIA's cache-aware scheme ("Stateful Conformer with Cache-based Inference
for Streaming ASR", Noroozi et al., 2024): a first chunk of ``1 + 8·lookahead`` feature frames, then
``8·(lookahead + 1)``; each makes ``lookahead + 1`` encoder frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perch.core.audio import RATE, samples_to_ms
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet.greedy import Decoder, Transducer
from perch.inference.parakeet.model import FRAME, Audio, Facts, LoadOptions, Piece, Token
from perch.inference.parakeet.slot_store import KeysAndValues, Rows, SlotStore
from perch.inference.parakeet.transformers_common import computing, has_punctuation, pieces_of, tokens_of

_FACTOR = 8
"""Feature frames for each encoder frame."""

_MOST_FRAMES = 14
"""Encoder frames of a piece: 1120 ms."""


@dataclass(slots=True)
class _State:
    """An utterance: its slot, the pre-emphasised audio that features still need, and counts so far."""

    slot: int
    audio: Audio
    last_sample: np.float32 = field(default_factory=lambda: np.float32(0))
    samples: int = 0
    features: int = 0
    frames: int = 0
    is_spoiled: bool = False


@dataclass(slots=True)
class _Work:
    """One piece during a step: the stream's audio with the piece's, and how many chunks it makes."""

    state: _State
    audio: Audio
    chunks: int
    features: int
    """Feature frames the utterance has in all after this piece."""
    tokens: list[Token] = field(default_factory=list)


class StreamingModel:
    """Implements ``Model`` for ``NemotronAsrStreamingForRNNT``."""

    def __init__(self, torch: Any, network: Any, processor: Any, options: LoadOptions) -> None:
        self._torch = torch
        self._network = network
        self._extractor = processor.feature_extractor
        self._lookahead, self._chunks = _chunking(options, processor)
        self._vocabulary = pieces_of(processor, network.config.vocab_size)
        self._transducer = Transducer(torch, network)
        self._store = SlotStore(torch, network, slots=1)
        self._free = [0]
        chunk = self._chunks * (self._lookahead + 1) * FRAME
        self._facts = Facts(
            model=options.name,
            backend="transformers",
            device=network.device.type,
            mode="cache-aware",
            chunk=chunk,
            decoder="rnnt",
            languages=options.languages,
            longest=120 * RATE,
            confidence=True,
            punctuation=has_punctuation(self._vocabulary),
            parameters={
                "dtype": str(network.dtype).removeprefix("torch."),
                "left_context_ms": str(samples_to_ms(self._store.context * FRAME)),
                "attention_chunk_ms": str(samples_to_ms((self._lookahead + 1) * FRAME)),
            },
        )

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        with computing(self._torch):
            self._store = SlotStore(self._torch, self._network, slots=slots)
        self._free = list(range(slots))

    def begin(self) -> _State:
        if not self._free:
            raise EngineFailed("Every slot of the model is taken.")
        half = self._extractor.n_fft // 2
        return _State(self._free.pop(), np.zeros(half, dtype=np.float32))

    def end(self, state: _State) -> None:
        self._free.append(state.slot)

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        if any(piece.state.is_spoiled for piece in pieces):
            raise EngineFailed("This utterance failed before.")
        works = [self._prepare(piece) for piece in pieces]
        with computing(self._torch):
            while due := [work for work in works if work.chunks]:
                try:
                    self._advance(due)
                except BaseException:
                    for work in due:  # it was half way through its chunks: it cannot be tried again
                        work.state.is_spoiled = len(works) > len(due) or any(w.tokens for w in due)
                    raise
        for piece, work in zip(pieces, works, strict=True):
            self._keep(piece, work)
        return [work.tokens for work in works]

    # --- features

    def _prepare(self, piece: Piece) -> _Work:
        state = piece.state
        audio = np.concatenate([state.audio, self._emphasised(piece)])
        samples = state.samples + len(piece.audio)
        if not piece.last:
            whole = _FACTOR * (self._lookahead + 1)
            features = self._size(first=not state.features) + (self._chunks - 1) * whole
            return _Work(state, audio, self._chunks, state.features + features)
        features = samples // self._extractor.hop_length
        missing = features - state.features
        chunks, size = 0, self._size(first=not state.features)
        while missing > 0:
            chunks, missing, size = chunks + 1, missing - size, self._size(first=False)
        return _Work(state, audio, chunks, features)

    def _emphasised(self, piece: Piece) -> Audio:
        factor = self._extractor.preemphasis
        if factor is None or not len(piece.audio):
            return piece.audio
        before = np.concatenate([[piece.state.last_sample], piece.audio[:-1]])
        return (piece.audio - np.float32(factor) * before).astype(np.float32)

    def _size(self, *, first: bool) -> int:
        """Feature frames of a chunk."""
        return 1 + _FACTOR * self._lookahead if first else _FACTOR * (self._lookahead + 1)

    def _keep(self, piece: Piece, work: _Work) -> None:
        state = work.state
        state.samples += len(piece.audio)
        if len(piece.audio):
            state.last_sample = piece.audio[-1]
        state.audio = work.audio

    def _take(self, work: _Work, size: int) -> Audio:
        """The audio of the next ``size`` feature frames, filled up with silence at the end."""
        hop, window = self._extractor.hop_length, self._extractor.n_fft
        audio = work.audio[: (size - 1) * hop + window]
        work.audio = work.audio[size * hop :]
        return np.pad(audio, (0, (size - 1) * hop + window - len(audio)))

    # --- chunks

    def _advance(self, works: Sequence[_Work]) -> None:
        """One chunk of every stream: the first chunks of utterances, which are shorter, by themselves."""
        for first in (True, False):
            group = [work for work in works if (work.state.features == 0) == first and work.chunks]
            if group:
                self._chunk(group, first=first)

    def _chunk(self, works: Sequence[_Work], *, first: bool) -> None:
        torch, network = self._torch, self._network
        size = self._size(first=first)
        audio = torch.from_numpy(np.stack([self._take(work, size) for work in works])).to(network.device)
        features = self._extractor._torch_extract_fbank_features(audio, network.device, center=False)  # noqa: SLF001
        limits = [_new(work.state.features, min(work.features, work.state.features + size)) for work in works]
        rows = Rows(
            torch,
            [work.state.slot for work in works],
            network.device,
            first=first,
            limits=limits if any(work.features < work.state.features + size for work in works) else None,
        )
        filled = torch.tensor([work.state.frames for work in works], device=network.device)
        valid = torch.tensor([limit[-1] for limit in limits], device=network.device)
        encoded = self._encode(features[:, :size].to(network.dtype), rows, filled, valid)
        frames = network.encoder_projector(encoded)
        emitted, decoder = self._transducer.decode(frames, valid, self._decoder(rows))
        self._store.write(rows, decoder)
        for work, one, length in zip(works, emitted, valid.tolist(), strict=True):
            work.tokens += tokens_of(one, self._vocabulary, first_frame=work.state.frames)
            work.state.frames += length
            work.state.features += size
            work.chunks -= 1

    def _decoder(self, rows: Rows) -> Decoder:
        return self._transducer.start(len(rows)) if rows.first else self._store.decoder(rows)

    def _encode(self, features: Any, rows: Rows, filled: Any, valid: Any) -> Any:
        """The chunk's encoder frames, shape (B, lookahead + 1, width)."""
        torch, encoder = self._torch, self._network.encoder
        context = self._store.context
        paddings = self._store.paddings(rows)
        hidden = encoder.subsampling(features, None, padding_cache=paddings) * encoder.input_scale
        length = hidden.shape[1]
        places = torch.arange(context + length, device=hidden.device)
        sees = places[None] >= (context - filled.clamp(max=context))[:, None]
        sees &= places[None] < (context + valid)[:, None]
        positions = encoder.encode_positions(hidden, cached_frames=context)
        attended = KeysAndValues(self._store, rows)
        for layer in encoder.layers:
            hidden = layer(
                hidden,
                attention_mask=sees[:, None, None, :].expand(-1, 1, length, -1),
                all_masked_rows=None,
                position_embeddings=positions,
                cache=attended,
                padding_cache=paddings,
                use_cache=True,
            )
        attended.commit()
        paddings.commit()
        return hidden


def _new(before: int, after: int) -> list[int]:
    """How many frames each level of the encoder gains when an utterance's feature frames grow.

    Level 0 is the features, then come the outputs of three causal convolutions of stride 2.
    """
    return [late - early for early, late in zip(_levels(before), _levels(after), strict=True)]


def _levels(features: int) -> list[int]:
    counts = [features]
    for _ in range(3):
        counts.append(counts[-1] // 2 + 1 if features else 0)
    return counts


def _chunking(options: LoadOptions, processor: Any) -> tuple[int, int]:
    """The lookahead in frames, and how many of the model's chunks make a piece.

    A piece of a length that the model was not trained for is made of several chunks of the longest one that
    divides it: fewer steps to schedule, with the accuracy of the shorter chunk.
    """
    if options.mode not in {"auto", "cache-aware"}:
        raise BadConfig(f"{options.name} is a streaming model: it is always cache-aware, not {options.mode}.")
    supported = sorted(processor.supported_num_lookahead_tokens)
    if options.chunk_ms is None:
        return (6 if 6 in supported else int(supported[-1])), 1
    frames, rest = divmod(options.chunk_ms, 80)
    dividing = [one for one in supported if frames and frames % (one + 1) == 0]
    if rest or not dividing or frames > _MOST_FRAMES:
        trained = ", ".join(str(samples_to_ms((one + 1) * FRAME)) for one in supported)
        raise BadConfig(
            f"--chunk-ms is {options.chunk_ms}; give a multiple of 80 up to 1120. {options.name} was trained for {trained}."
        )
    return int(dividing[-1]), frames // (int(dividing[-1]) + 1)
