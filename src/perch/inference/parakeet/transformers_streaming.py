"""Cache-aware streaming by transformers: every frame is encoded once, for any number of streams at once.

transformers' own ``generate`` keeps a stream's state on the model, so it serves one stream at a time. Here
the state of all streams lies in tensors with a row for each slot; a step gathers the rows of the streams
that are ready, runs the encoder's layers on them, and writes the rows back. Streams may be at any point
of their utterance: keys that a young stream does not have yet are masked.

What the encoder is fed is in ``chunking``.
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
from perch.inference.parakeet.slot_store import KeysAndValues, Paddings, Rows, SlotStore
from perch.inference.parakeet.transformers_common import computing, has_punctuation, pieces_of, tokens_of


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
    """Its rows are, or may be, ahead of its audio: true from the first write of a step until the step has
    succeeded, so after one that failed."""


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
        self._chunking = chunking(options, processor.supported_num_lookahead_tokens)
        self._vocabulary = pieces_of(processor, network.config.vocab_size)
        self._transducer = Transducer(torch, network)
        self._store = SlotStore(torch, network, slots=1)
        self._free = [0]
        self._facts = Facts(
            model=options.name,
            backend="transformers",
            device=network.device.type,
            mode="cache-aware",
            chunk=self._chunking.piece_samples,
            decoder="rnnt",
            languages=options.languages,
            longest=120 * RATE,
            confidence=True,
            punctuation=has_punctuation(self._vocabulary),
            parameters={
                "dtype": str(network.dtype).removeprefix("torch."),
                "left_context_ms": str(samples_to_ms(self._store.context * FRAME)),
                "attention_chunk_ms": str(samples_to_ms(self._chunking.chunk_samples)),
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
                self._store = SlotStore(self._torch, self._network, slots=count)
                self._free = list(range(count))
                break
        if len(self._free) < slots:
            raise MemoryError(f"There is not enough memory for {slots} streams.")

    def begin(self) -> _State:
        if not self._free:
            raise EngineFailed("Every slot of the model is taken.")
        half = self._extractor.n_fft // 2
        return _State(self._free.pop(), np.zeros(half, dtype=np.float32))

    def end(self, state: _State) -> None:
        self._free.append(state.slot)

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        if any(piece.state.is_spoiled for piece in pieces):
            raise EngineFailed("A step failed after this utterance had advanced: it cannot go on.")
        works = [self._prepare(piece) for piece in pieces]
        with computing(self._torch):
            while due := [work for work in works if work.chunks]:
                self._advance(due)
        for piece, work in zip(pieces, works, strict=True):
            self._keep(piece, work)
        return [work.tokens for work in works]

    # --- features

    def _prepare(self, piece: Piece) -> _Work:
        state = piece.state
        audio = np.concatenate([state.audio, self._emphasised(piece)])
        samples = state.samples + len(piece.audio)
        if not piece.last:
            features = state.features + self._chunking.piece(first=not state.features)
            return _Work(state, audio, self._chunking.chunks, features)
        features = samples // self._extractor.hop_length
        missing = features - state.features
        chunks, size = 0, self._chunking.chunk(first=not state.features)
        while missing > 0:
            chunks, missing, size = chunks + 1, missing - size, self._chunking.chunk(first=False)
        return _Work(state, audio, chunks, features)

    def _emphasised(self, piece: Piece) -> Audio:
        factor = self._extractor.preemphasis
        if factor is None or not len(piece.audio):
            return piece.audio
        before = np.concatenate([[piece.state.last_sample], piece.audio[:-1]])
        return (piece.audio - np.float32(factor) * before).astype(np.float32)

    def _keep(self, piece: Piece, work: _Work) -> None:
        state = work.state
        state.samples += len(piece.audio)
        if len(piece.audio):
            state.last_sample = piece.audio[-1]
        state.audio = work.audio
        state.is_spoiled = False

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
        size = self._chunking.chunk(first=first)
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
        caches = KeysAndValues(self._store, rows), self._store.paddings(rows)
        encoded = self._encode(features[:, :size].to(network.dtype), caches, filled, valid)
        frames = network.encoder_projector(encoded)
        emitted, decoder = self._transducer.decode(frames, valid, self._decoder(rows))
        for work in works:  # all is computed; what fails before this can be tried again
            work.state.is_spoiled = True
        for cache in caches:
            cache.commit()
        self._store.write(rows, decoder)
        for work, one, length in zip(works, emitted, valid.tolist(), strict=True):
            work.tokens += tokens_of(one, self._vocabulary, first_frame=work.state.frames)
            work.state.frames += length
            work.state.features += size
            work.chunks -= 1

    def _decoder(self, rows: Rows) -> Decoder:
        return self._transducer.start(len(rows)) if rows.first else self._store.decoder(rows)

    def _encode(self, features: Any, caches: tuple[KeysAndValues, Paddings], filled: Any, valid: Any) -> Any:
        """The chunk's encoder frames, shape (B, lookahead + 1, width). The caches are not committed."""
        torch, encoder = self._torch, self._network.encoder
        context = self._store.context
        attended, paddings = caches
        hidden = encoder.subsampling(features, None, padding_cache=paddings) * encoder.input_scale
        length = hidden.shape[1]
        places = torch.arange(context + length, device=hidden.device)
        sees = places[None] >= (context - filled.clamp(max=context))[:, None]
        sees &= places[None] < (context + valid)[:, None]
        positions = encoder.encode_positions(hidden, cached_frames=context)
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
