"""Offline Parakeet checkpoints (CTC, RNN-T, TDT): whole utterances, or overlapping windows of a stream.

Windows are Riva's buffered mode: each has some seconds of left context, the chunk, and some right
context. The encoder sees all of it anew, only the chunk's frames are decoded, and the decoder's state is
carried on, so text never changes once it is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perch.core.audio import RATE, ms_to_samples, samples_to_ms
from perch.errors import BadConfig
from perch.inference.parakeet.greedy import Decoder, Emitted, Transducer, ctc
from perch.inference.parakeet.model import FRAME, Audio, Facts, LoadOptions, Mode, Piece, Token
from perch.inference.parakeet.transformers_common import computing, has_punctuation, tokens_of
from perch.inference.parakeet.whole import SHORTEST

LEFT = 70 * FRAME
"""Samples of left context: 5.6 s."""

CHUNK_MS = 1120
RIGHT = 14 * FRAME
"""Samples of right context, and so what a word waits for besides its chunk: 1.12 s."""

_LONGEST = {"vad-segmented": 40 * RATE, "buffered": 120 * RATE}


@dataclass(slots=True)
class _State:
    """An utterance: the audio that may still be needed, where it begins, and how far it is decoded."""

    audio: Audio = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    start: int = 0
    done: int = 0
    decoder: Decoder | None = None
    label: int | None = None


@dataclass(frozen=True, slots=True)
class _Window:
    """What one piece makes of its utterance: audio to encode, and the part of it to decode."""

    state: _State
    audio: Audio
    start: int
    until: int


class OfflineModel:
    """Implements ``Model``.

    Args:
        torch: The module.
        network: A model of transformers, or what stands for one.
        features: Makes of windows their features, shape (B, T, bands), and a mask of shape (B, T).
        vocabulary: The text of every token.
        options: What the operator chose.
        decoder: ``ctc``, ``rnnt`` or ``tdt``.
        backend: The library's name.
    """

    def __init__(
        self,
        torch: Any,
        network: Any,
        features: Callable[[Sequence[Audio]], tuple[Any, Any]],
        vocabulary: Sequence[str],
        options: LoadOptions,
        *,
        decoder: str,
        backend: str = "transformers",
    ) -> None:
        self._torch = torch
        self._network = network
        self._features = features
        self._vocabulary = vocabulary
        self._transducer = None if decoder == "ctc" else Transducer(torch, network)
        mode = _mode(options, network.device.type)
        chunk = _chunk(options) if mode == "buffered" else 0
        self._facts = Facts(
            model=options.name,
            backend=backend,
            device=network.device.type,
            mode=mode,
            chunk=chunk,
            decoder=decoder,
            languages=options.languages,
            lookahead=RIGHT if chunk else 0,
            context=LEFT + RIGHT if chunk else 0,
            longest=_LONGEST[mode],
            confidence=True,
            punctuation=has_punctuation(self._vocabulary),
            parameters={"dtype": str(network.dtype).removeprefix("torch.")}
            | ({"left_context_ms": str(samples_to_ms(LEFT))} if chunk else {}),
        )

    @property
    def facts(self) -> Facts:
        return self._facts

    def reserve(self, slots: int) -> None:
        """Nothing is held between pieces but audio and a few vectors."""

    def begin(self) -> _State:
        return _State()

    def end(self, state: _State) -> None:
        """Nothing is held for it."""

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        heard = [np.concatenate([piece.state.audio, piece.audio]) for piece in pieces]
        windows: list[_Window | None] = [
            self._window(piece, audio) for piece, audio in zip(pieces, heard, strict=True)
        ]
        added: list[list[Token]] = [[] for _ in pieces]
        ready = [index for index, window in enumerate(windows) if window is not None]
        if ready:
            batch = [window for window in windows if window is not None]
            with computing(self._torch):
                for index, tokens in zip(ready, self._recognise(batch), strict=True):
                    added[index] = tokens
        for piece, audio, window in zip(pieces, heard, windows, strict=True):
            self._keep(piece.state, audio, window)
        return added

    def _window(self, piece: Piece, audio: Audio) -> _Window | None:
        """What to encode now, and until where to decode it; None if nothing can be decoded yet."""
        state = piece.state
        end = state.start + len(audio)
        until = end if piece.last else end - RIGHT
        if until <= state.done or len(audio) < SHORTEST:
            return None
        return _Window(state, audio, state.start, until)

    def _keep(self, state: _State, audio: Audio, window: _Window | None) -> None:
        if window is not None:
            state.done = window.until
        first = max(state.start, state.done - LEFT) if self._facts.chunk else state.start
        state.audio, state.start = audio[first - state.start :], first

    def _recognise(self, windows: Sequence[_Window]) -> list[list[Token]]:
        torch, network = self._torch, self._network
        features, mask = self._features([window.audio for window in windows])
        skipped = [(window.state.done - window.start) // FRAME for window in windows]
        encoded = network.encoder(
            input_features=features.to(network.dtype), attention_mask=mask, output_attention_mask=True
        )
        valid = encoded.attention_mask.sum(-1)
        limits = torch.tensor(
            [_frames(window.until - window.start) for window in windows], device=network.device
        )
        lengths = torch.minimum(valid, limits)
        firsts = torch.tensor(skipped, device=network.device)
        emitted = self._decode(encoded.last_hidden_state, firsts, (lengths - firsts).clamp(min=0), windows)
        return [
            tokens_of(one, self._vocabulary, first_frame=window.state.done / FRAME)
            for one, window in zip(emitted, windows, strict=True)
        ]

    def _decode(
        self, frames: Any, firsts: Any, lengths: Any, windows: Sequence[_Window]
    ) -> list[list[Emitted]]:
        """The tokens of ``lengths`` frames of each window after its first ``firsts``."""
        torch = self._torch
        if not int(lengths.max()):
            return [[] for _ in windows]
        places = firsts[:, None] + torch.arange(int(lengths.max()), device=frames.device)
        places = places.clamp(max=frames.shape[1] - 1)[:, :, None].expand(-1, -1, frames.shape[2])
        frames = frames.gather(1, places)
        states = [window.state for window in windows]
        if self._transducer is None:
            logits = self._network.ctc_head(frames)
            blank = self._network.config.pad_token_id
            before = [blank if state.label is None else state.label for state in states]
            emitted = ctc(logits, lengths, blank, before)
            last = logits.argmax(-1).tolist()
            for state, labels, length in zip(states, last, lengths.tolist(), strict=True):
                state.label = labels[length - 1] if length else state.label
            return emitted
        gathered = _gathered(torch, self._transducer, states)
        emitted, after = self._transducer.decode(self._network.encoder_projector(frames), lengths, gathered)
        decoders = [_one(after, index) for index in range(len(states))]
        for state, decoder in zip(states, decoders, strict=True):  # all or none: memory may run out above
            state.decoder = decoder
        return emitted


def _mode(options: LoadOptions, device: str) -> Mode:
    if options.mode == "auto":
        return "buffered" if device == "cuda" or options.chunk_ms else "vad-segmented"
    if options.mode == "cache-aware":
        raise BadConfig(
            f"{options.name} is an offline model: it can be buffered or vad-segmented. For cache-aware streaming "
            "take a streaming checkpoint such as nemotron-speech-streaming-en-0.6b."
        )
    return options.mode


def _chunk(options: LoadOptions) -> int:
    chunk_ms = options.chunk_ms or CHUNK_MS
    if chunk_ms % 80 or not 80 <= chunk_ms <= CHUNK_MS:
        raise BadConfig(f"--chunk-ms is {chunk_ms}; give a multiple of 80 from 80 to {CHUNK_MS}.")
    return ms_to_samples(chunk_ms)


def _frames(samples: int) -> int:
    """Frames that begin within so many samples."""
    return -(-samples // FRAME)


def _gathered(torch: Any, transducer: Transducer, states: Sequence[_State]) -> Decoder:
    fresh = transducer.start(1)
    each = [state.decoder or fresh for state in states]
    return Decoder(
        torch.cat([one.hidden for one in each], 1),
        torch.cat([one.cell for one in each], 1),
        torch.cat([one.predicted for one in each]),
        torch.cat([one.symbols for one in each]),
        torch.cat([one.skip for one in each]),
    )


def _one(decoder: Decoder, index: int) -> Decoder:
    these = slice(index, index + 1)
    return Decoder(
        decoder.hidden[:, these].contiguous(),
        decoder.cell[:, these].contiguous(),
        decoder.predicted[these],
        decoder.symbols[these],
        decoder.skip[these],
    )
