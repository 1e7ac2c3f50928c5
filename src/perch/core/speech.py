"""What goes into any recogniser and what comes out: shared by gateway, client and engine.

Positions are samples at ``core.audio.RATE`` from the first sample of the stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class HotWords:
    """Phrases to prefer, and by how much. The scale of ``boost`` is the model's own (Riva: 0 to 100)."""

    phrases: tuple[str, ...]
    boost: float = 0.0


@dataclass(frozen=True, slots=True)
class Endpointing:
    """When an utterance begins and ends. None leaves a value to the engine.

    The windows are milliseconds because they are Riva's own settings, not positions: see
    ``EndpointingConfig`` in riva_asr.proto. Thresholds are fractions from 0 to 1.
    """

    start_history_ms: int | None = None
    start_threshold: float | None = None
    stop_history_ms: int | None = None
    stop_threshold: float | None = None
    stop_history_eou_ms: int | None = None
    stop_threshold_eou: float | None = None


@dataclass(frozen=True, slots=True)
class RecognitionConfig:
    """What a caller asks of a recogniser. Empty ``language`` or ``model`` means the engine's default."""

    language: str = ""
    model: str = ""
    interim_results: bool = True
    word_times: bool = True
    character_times: bool = False
    """Ask for ``Word.characters``, which few engines know."""
    punctuation: bool = False
    profanity_filter: bool = False
    verbatim: bool = True
    max_alternatives: int = 1
    hotwords: tuple[HotWords, ...] = ()
    max_speakers: int | None = None
    """Diarization is asked for when this is set."""
    endpointing: Endpointing | None = None
    custom: Mapping[str, str] = field(default_factory=dict)
    """Engine-specific keys, passed through unread (Riva's ``custom_configuration``)."""


@dataclass(frozen=True, slots=True)
class Characters:
    """Those characters of a word that the model wrote at once, and their place on the stream's clock."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its place on the stream's clock. An unknown confidence or speaker is None."""

    text: str
    start: int
    end: int
    confidence: float | None = None
    speaker: int | None = None
    characters: tuple[Characters, ...] = ()
    """All of the word's, in order; nothing if they were not asked for or the engine does not know."""

    def moved(self, place: Callable[[int], int]) -> "Word":
        """The word on another clock, on which ``place`` says where each position is."""
        characters = tuple(
            replace(one, start=place(one.start), end=place(one.end)) for one in self.characters
        )
        return replace(self, start=place(self.start), end=place(self.end), characters=characters)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One recognition result for the current utterance.

    A partial replaces the one before it; a final is never revised. ``end`` is how far into the
    stream the engine had listened when it said so, or None if it did not say.
    """

    text: str
    is_final: bool
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    stability: float = 0.0
    end: int | None = None
    language: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model an engine serves. ``parameters`` is whatever else the engine says about it."""

    name: str
    languages: tuple[str, ...] = ()
    streaming: bool = True
    offline: bool = False
    sample_rate: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names it answers to."""
        return tuple(name for name in self.parameters.get("aliases", "").split(",") if name)

    def answers_to(self, name: str) -> bool:
        """Whether ``name`` is one of its names, in any case."""
        return name.lower() in {known.lower() for known in (self.name, *self.aliases)}

    @property
    def is_of_perch(self) -> bool:
        """Whether an engine of Perch tells of it: one that says what it does with a stream."""
        return "streaming_mode" in self.parameters

    @property
    def slots(self) -> int | None:
        """Streams it carries at the same time, if the engine says so."""
        told = self.parameters.get("slots", "")
        return int(told) if told.isdecimal() else None

    @property
    def takes_recordings(self) -> bool:
        """Whether the engine has a way of its own for recordings, beside its streams."""
        return self.parameters.get("recordings", "0") not in {"", "0"}
