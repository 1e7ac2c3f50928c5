"""What a client can ask of a session and what a session can tell a client, whatever the dialect.

Positions are samples at ``core.audio.RATE`` from the first sample of the session.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from perch.core.audio import AudioFormat
from perch.core.speech import RecognitionConfig, Word

# --- client → session --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Everything a client may choose for one session."""

    audio: AudioFormat = field(default_factory=AudioFormat)
    recognition: RecognitionConfig = field(default_factory=RecognitionConfig)
    partials: bool = True
    words: bool = True


@dataclass(frozen=True, slots=True)
class Start:
    """Begin with ``config``. An implicit start was nobody's wish and may be replaced before any audio."""

    config: SessionConfig
    implicit: bool = False


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples as the client sent them, in the format it declared.

    Channels are interleaved in ``payload``, or it is all of one ``channel`` (from 0) where a dialect sends
    each by itself.
    """

    payload: bytes
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Finalize:
    """End the current utterance now; the session goes on."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No more audio will come: recognise what was accepted, then finish."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a ``Pong`` in the session's own event order."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Take up the session ``token`` names, whose events the client has up to ``last_seq``."""

    token: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A frame that only the dialect understands, in the order of the session's events.

    A codec returns it among the commands of a frame, and is given it back as an event to send.
    """

    text: str


Command = Start | Audio | Finalize | Stop | Ping | Resume | Reply

# --- session → client --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What a session may use, told to the client in ``ready``. Seconds and bytes, because people read it."""

    max_message_bytes: int = 1 << 20
    max_session_s: float = 4 * 3600.0
    idle_timeout_s: float = 300.0
    lag_warn_s: float = 5.0
    lag_limit_s: float = 1800.0
    spool_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class ResumeOffer:
    """A client that loses its socket may come back with ``token`` within ``ttl_s`` seconds."""

    token: str
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model does with a stream, as far as its engine says."""

    streaming_mode: str
    """``cache-aware``: each frame is encoded once; ``buffered``: in overlapping windows; ``vad-segmented``: each
    utterance when it is over."""
    chunk_ms: int | None = None
    """Audio of one step: words come that often."""
    lookahead_ms: int | None = None
    """Audio after a word that must be there before the word can be."""
    word_times: bool = True
    punctuation: bool = False
    partials: bool | None = None
    """Whether words come before their utterance is over; None if the engine does not say."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What recognises: ``kind`` is riva, engine or mock; ``notice`` is what a user must know about it."""

    kind: str
    model: str = ""
    notice: str = ""
    abilities: Mapping[str, Abilities] = field(default_factory=dict)
    """By model; those of which the engine says nothing are not there."""


@dataclass(frozen=True, slots=True)
class Ready:
    backend: Backend
    config: SessionConfig
    limits: Limits
    resume: ResumeOffer | None = None
    received: int = 0
    """Samples, in the client's own rate, that are safe here: a client that resumes goes on from there."""


@dataclass(frozen=True, slots=True)
class Partial:
    """The current segment's text so far; replaces the partial before it."""

    segment: int
    text: str
    start: int
    end: int
    stability: float = 0.0
    channel: int = 0
    is_final: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Final:
    """A finished segment; never revised."""

    segment: int
    text: str
    start: int
    end: int
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    language: str = ""
    channel: int = 0
    heard: int = 0
    """How far the engine had listened when it said so: past ``end`` by the quiet that ended the utterance."""
    is_final: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech had begun by this position."""

    segment: int
    at: int
    channel: int = 0


@dataclass(frozen=True, slots=True)
class UtteranceEnd:
    segment: int
    at: int
    channel: int = 0


@dataclass(frozen=True, slots=True)
class Finalized:
    """What was asked for by ``Finalize`` has been said: finals cover the audio up to this position, or it
    held no speech. Only dialects that ask for it are told.
    """

    at: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Audio up to this position is safe here: a client that resumes need not send it again."""

    audio: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a client may want to show, and need not act on."""

    code: str
    message: str
    resume: ResumeOffer | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    """The session ends because of this."""

    code: str
    message: str
    retryable: bool
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """Every accepted sample was recognised and every final sent. Always the last event."""

    audio: int
    segments: int
    text: str


Event = (
    Ready
    | Partial
    | Final
    | SpeechStarted
    | UtteranceEnd
    | Finalized
    | Ack
    | Notice
    | Pong
    | Reply
    | Failed
    | Done
)
