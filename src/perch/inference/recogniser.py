"""The interface every local recogniser implements, and what it may promise.

One ``Recogniser`` is shared by all callers of an engine process; one ``Voice`` belongs to one caller
and carries that caller's state (an adapted channel mean, a decoder's cache) over its utterances and
to nobody else. The engine finds utterances with a ``SpeechDetector`` and calls a voice in this order,
never concurrently for one voice::

    voice = await recogniser.open(config)
    text = await voice.feed(pcm)       # zero or more times: the hypothesis so far, None if unchanged
    final = await voice.finish()       # the utterance is over; the next feed() begins another
    await voice.aclose()

Failures are ``perch.errors.EngineFailed`` (it broke) and ``EngineFull`` (every slot is taken).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from perch.core.speech import ModelInfo, RecognitionConfig, Word


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a recogniser is and can do, as data: published by the engine, read by clients."""

    model: str
    languages: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    streaming_mode: str = "vad-segmented"
    partials: bool = True
    """Whether a stream has words before its utterance is over; the mode alone does not tell."""
    word_times: bool = True
    punctuation: bool = False
    slots: int = 1
    """Streams recognised at the same time; one more is refused."""
    recordings: int = 0
    """Utterances of recordings recognised at the same time, beside the streams; 0 if there is no such way."""
    max_utterance: int = 15 * 16_000
    """Samples after which an utterance is ended even if speech goes on."""
    notice: str = ""
    """What a user must know before relying on it; shown in ``ready``, on the page and in the README."""
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recognition:
    """The final text of one utterance. Word positions are samples from the utterance's first sample."""

    text: str
    words: tuple[Word, ...] = ()
    confidence: float | None = None


class SpeechDetector(Protocol):
    """Says where speech is, for one stream. Stateful: feed it a stream in order, once."""

    async def probabilities(self, pcm: bytes) -> Sequence[float]:
        """The speech probability of each further frame of ``frame`` samples that ``pcm`` completes.

        ``pcm`` is 16-bit mono at 16 kHz, of any length; samples short of a frame wait for the next call.
        """
        ...

    @property
    def frame(self) -> int:
        """Samples per probability."""
        ...


class Voice(Protocol):
    """One caller's recognition."""

    async def feed(self, pcm: bytes) -> str | None:
        """Take more of the current utterance; return its text so far, or None if it has not changed.

        The text is the stable prefix: a word once shown is rarely taken back.

        Raises:
            EngineFailed: The recogniser died; the voice is unusable.
        """
        ...

    async def finish(self) -> Recognition:
        """End the current utterance and return its final text (empty if nothing was said).

        Raises:
            EngineFailed: The recogniser died; the voice is unusable.
        """
        ...

    async def aclose(self) -> None:
        """Give the slot back. Safe to call twice, and after a failure."""
        ...


class Recogniser(Protocol):
    """A loaded model, shared by every stream of the process."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def healthy(self) -> bool:
        """False from the moment a worker dies until it is replaced."""
        ...

    async def open(self, config: RecognitionConfig) -> Voice:
        """A voice for one caller.

        Raises:
            EngineFull: Every slot is taken.
            EngineFailed: The recogniser is not running.
        """
        ...

    def detector(self) -> SpeechDetector:
        """A fresh speech detector for one stream."""
        ...

    async def wait_unhealthy(self) -> str:
        """Return, with the reason, as soon as the recogniser stops being healthy."""
        ...

    async def aclose(self) -> None:
        """Stop the workers. Open voices fail."""
        ...


@runtime_checkable
class RecordingRecogniser(Recogniser, Protocol):
    """A recogniser that takes utterances of recordings whole, as many at once as fill the machine."""

    async def recognise(self, pcm: bytes) -> Recognition:
        """The text of a whole utterance, at most ``Capabilities.max_utterance`` samples.

        Raises:
            EngineFailed: The recogniser is not running, or failed on it.
        """
        ...


def model_info(capabilities: Capabilities) -> ModelInfo:
    """How ``GetRivaSpeechRecognitionConfig`` describes a recogniser."""
    return ModelInfo(
        name=capabilities.model,
        languages=capabilities.languages,
        streaming=True,
        offline=True,
        sample_rate=16_000,
        parameters=capabilities.parameters,
    )
