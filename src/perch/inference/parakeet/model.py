"""What a model must do to be served to many streams by one worker process.

A worker holds one ``Model`` and calls it from one thread. Each utterance of each stream has a ``State``
that the model makes and nobody else looks into. Whenever some utterances have enough audio for their
next piece, the worker hands all of these pieces over at once and gets the tokens that each one added::

    state = model.begin()
    tokens = model.step([Piece(state, audio, last=False), …])   # one list of tokens for each piece
    model.end(state)                                             # after the last piece, or at any time before

Decoding is greedy, so tokens are never taken back: the text so far is all tokens so far.

An utterance of a recording is there as a whole: of a model that is not cache-aware it is one piece, however
long, and the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]
"""Mono at 16 kHz, from -1 to 1, shape ``(samples,)``."""

Mode = Literal["cache-aware", "buffered", "vad-segmented"]
"""How a stream becomes text: with the encoder's state carried on, so that each frame is encoded once; in
overlapping windows with the decoder's state carried on; or each utterance at once when it is over."""

FRAME = 1280
"""Samples of one encoder frame of every Parakeet: 80 ms, eight steps of 10 ms."""

WORD_START = "▁"
"""What begins a token that begins a word, in SentencePiece's vocabularies (U+2581)."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text and where it was heard."""

    text: str
    """As in the vocabulary: ``WORD_START`` in front if it begins a word."""
    frame: float
    """Encoder frames from the utterance's first sample to the token's start."""
    frames: float = 1.0
    """How many frames it lasts, as far as the model says (TDT does)."""
    confidence: float | None = None
    """The model's probability of this token, from 0 to 1; None if it does not say."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next audio of one utterance. All but the last are ``Facts.chunk`` samples long."""

    state: Any
    audio: Audio
    last: bool
    """The utterance ends with this piece, which may be of any length, even empty."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a loaded model is, as data."""

    model: str
    backend: str
    """The library that runs it: ``sherpa-onnx``, ``transformers`` or ``nemo``."""
    device: str
    mode: Mode
    chunk: int
    """Samples of a piece; 0 if an utterance is one piece, however long."""
    decoder: str
    """``rnnt``, ``tdt`` or ``ctc``."""
    languages: tuple[str, ...] = ("en-US",)
    lookahead: int = 0
    """Samples after a piece's end that a token of it may wait for."""
    context: int = 0
    """Samples around a piece that are encoded anew with it, once so many have been heard."""
    longest: int = 40 * 16_000
    """Samples of the longest utterance it takes."""
    word_times: bool = True
    confidence: bool = False
    punctuation: bool = True
    parameters: dict[str, str] = field(default_factory=dict)
    """Whatever else an operator wants to know: dtype, threads, layers, context."""


class Model(Protocol):
    """A loaded model. Used by one thread at a time."""

    @property
    def facts(self) -> Facts: ...

    def reserve(self, slots: int) -> None:
        """Make room for so many utterances at once; ``begin`` fits that often. Called while none is open.

        Raises:
            MemoryError: There is not enough memory for so many.
        """
        ...

    def begin(self) -> Any:
        """The state of a new utterance."""
        ...

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        """Take every piece, in one forward pass as far as possible; the tokens each one added.

        If it raises, the worker tries the pieces one at a time: a piece that cannot be taken fails its own
        stream only. A state that has changed although the step failed raises from then on, so that no audio
        is taken twice; all others are as they were.
        """
        ...

    def end(self, state: Any) -> None:
        """Give back what ``begin`` took. Safe after a failed ``step``."""
        ...


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What an operator may choose about how a model is loaded."""

    path: str
    """A folder or file with weights."""
    name: str
    """The public name of the model."""
    languages: tuple[str, ...] = ("en-US",)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_cpu: bool = False
    mode: Mode | Literal["auto"] = "auto"
    chunk_ms: int | None = None
    """Of streaming pieces: 80 to 1120. None is the backend's default."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    threads: int | None = None
    """CPU threads of one forward pass; None is all cores."""
