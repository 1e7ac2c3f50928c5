"""Cache-aware streaming by transformers: every frame is encoded once, for any number of streams at once.

transformers' own ``generate`` keeps a stream's state on the model, so it serves one stream at a time. Here
the state of all streams lies in tensors with a row for each slot; a step gathers the rows of the streams
that are ready, runs the encoder's layers on them, and writes the rows back. Streams may be at any point
of their utterance: keys that a young stream does not have yet are masked.

What the encoder is fed is in ``chunking``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perch.core.audio import RATE, samples_to_ms
from perch.inference.parakeet.cache_aware import CacheAwareModel, State, Work
from perch.inference.parakeet.chunking import chunking
from perch.inference.parakeet.greedy import Decoder, Transducer
from perch.inference.parakeet.model import FRAME, Audio, Facts, LoadOptions, Piece
from perch.inference.parakeet.slot_store import KeysAndValues, Paddings, Rows, SlotStore
from perch.inference.parakeet.transformers_common import has_punctuation, pieces_of
from perch.inference.parakeet.transformers_positions import project_once


@dataclass(slots=True)
class _State(State):
    """An utterance whose audio is pre-emphasised, which takes the last sample before it."""

    last_sample: np.float32 = field(default_factory=lambda: np.float32(0))
    samples: int = 0


class StreamingModel(CacheAwareModel[_State]):
    """Implements ``Model`` for ``NemotronAsrStreamingForRNNT``."""

    def __init__(self, torch: Any, network: Any, processor: Any, options: LoadOptions) -> None:
        self._network = network
        self._extractor = processor.feature_extractor
        self._transducer = Transducer(torch, network)
        project_once(torch, network.encoder.layers, keep=True)
        chunks = chunking(options, processor.supported_num_lookahead_tokens)
        vocabulary = pieces_of(processor, network.config.vocab_size)
        super().__init__(torch, chunks, vocabulary)
        self._facts = Facts(
            model=options.name,
            backend="transformers",
            device=network.device.type,
            mode="cache-aware",
            chunk=chunks.piece_samples,
            decoder="rnnt",
            languages=options.languages,
            longest=120 * RATE,
            confidence=True,
            punctuation=has_punctuation(vocabulary),
            parameters={
                "dtype": str(network.dtype).removeprefix("torch."),
                "left_context_ms": str(samples_to_ms(self._store.context * FRAME)),
                "attention_chunk_ms": str(samples_to_ms(chunks.chunk_samples)),
            },
        )

    def _make_store(self, slots: int) -> SlotStore:
        return SlotStore(self._torch, self._network, self._transducer, slots=slots)

    def _make_state(self, slot: int) -> _State:
        return _State(slot, np.zeros(self._extractor.n_fft // 2, dtype=np.float32))

    # --- features

    def _prepare(self, piece: Piece) -> Work[_State]:
        state = piece.state
        audio = np.concatenate([state.audio, self._emphasised(piece)])
        if piece.last:
            samples = state.samples + len(piece.audio)
            return Work(state, audio, samples // self._extractor.hop_length)
        return Work(state, audio, state.features + self._chunking.piece(first=not state.features))

    def _emphasised(self, piece: Piece) -> Audio:
        factor = self._extractor.preemphasis
        if factor is None or not len(piece.audio):
            return piece.audio
        before = np.concatenate([[piece.state.last_sample], piece.audio[:-1]])
        return (piece.audio - np.float32(factor) * before).astype(np.float32)

    def _keep(self, piece: Piece, work: Work[_State]) -> None:
        state = work.state
        state.samples += len(piece.audio)
        if len(piece.audio):
            state.last_sample = piece.audio[-1]
        state.audio = work.audio

    def _take(self, work: Work[_State], size: int) -> Audio:
        """The audio of the next ``size`` feature frames, filled up with silence at the end."""
        hop, window = self._extractor.hop_length, self._extractor.n_fft
        audio = work.audio[: (size - 1) * hop + window]
        work.audio = work.audio[size * hop :]
        return np.pad(audio, (0, (size - 1) * hop + window - len(audio)))

    # --- chunks

    def _chunk(self, works: Sequence[Work[_State]], *, first: bool) -> None:
        torch, network = self._torch, self._network
        size = self._chunking.chunk(first=first)
        audio = torch.from_numpy(np.stack([self._take(work, size) for work in works])).to(network.device)
        features = self._extractor._torch_extract_fbank_features(audio, network.device, center=False)  # noqa: SLF001
        limits = [_new(work.state.features, min(work.total, work.state.features + size)) for work in works]
        rows = Rows(
            torch,
            [work.state.slot for work in works],
            network.device,
            first=first,
            limits=limits if any(work.total < work.state.features + size for work in works) else None,
        )
        filled = torch.tensor([work.state.frames for work in works], device=network.device)
        valid = torch.tensor([limit[-1] for limit in limits], device=network.device)
        caches = KeysAndValues(self._store, rows), self._store.paddings(rows)
        encoded = self._encode(features[:, :size].to(network.dtype), caches, filled, valid)
        frames = network.encoder_projector(encoded)
        emitted, decoder = self._transducer.decode(frames, valid, self._decoder(rows))
        self._spoil(works)
        for cache in caches:
            cache.commit()
        self._store.decoder.keep(rows.index, decoder)
        self._count(works, emitted, valid.tolist(), size)

    def _decoder(self, rows: Rows) -> Decoder:
        return self._transducer.start(len(rows)) if rows.first else self._store.decoder.of(rows.index)

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
