"""One client's stream, without I/O: what is allowed, what is counted, what is said.

The state table below is the whole protocol of a session. A command that is not in its state's row is the
client's mistake, and nothing changes::

    NEW ──start──▶ STREAMING ──stop──▶ DRAINING ──(engine ended)──▶ CLOSED
                      │ audio, finalize, ping                          ▲
                      │ (and start, to replace an implicit one)        │
                      └──────────────── failure ───────────────────────┘

A session outlives the socket it began on: ``receive_resume`` takes it up on another, ``snapshot`` and
``restored`` in another process.
"""

from dataclasses import dataclass
from enum import Enum, auto

from perch import errors
from perch.core.audio import RATE, samples_to_seconds, seconds_to_samples
from perch.core.messages import (
    Ack,
    Audio,
    Backend,
    Command,
    Done,
    Event,
    Failed,
    Finalize,
    Finalized,
    Limits,
    Notice,
    Partial,
    Ping,
    Pong,
    Ready,
    Reply,
    Resume,
    ResumeOffer,
    SessionConfig,
    Start,
    Stop,
)
from perch.core.outbox import EventsForgotten, Outbox, OutboxFull, SentEvents
from perch.core.speech import Hypothesis
from perch.core.transcript import SegmentNumbers, Transcript, TranscriptState


class State(Enum):
    NEW = auto()
    STREAMING = auto()
    DRAINING = auto()
    CLOSED = auto()


TRANSITIONS: dict[State, dict[type[Command], State]] = {
    State.NEW: {Start: State.STREAMING, Ping: State.NEW, Reply: State.NEW},
    State.STREAMING: {
        Start: State.STREAMING,
        Audio: State.STREAMING,
        Finalize: State.STREAMING,
        Ping: State.STREAMING,
        Reply: State.STREAMING,
        Stop: State.DRAINING,
    },
    # Stop again: a client that comes back cannot know whether its stop was heard.
    State.DRAINING: {Ping: State.DRAINING, Reply: State.DRAINING, Stop: State.DRAINING},
    State.CLOSED: {},
}

_ADVICE = {
    State.NEW: 'send {"type": "start"} first',
    State.STREAMING: "the session has already started",
    State.DRAINING: "the session is finishing after stop; open a new one",
    State.CLOSED: "the session is over; open a new one",
}

_ACK_EVERY = RATE


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """Everything a session is, but its backend and limits, which are those of the process it is in."""

    state: State
    config: SessionConfig
    accepted: int
    acked: int
    transcripts: tuple[TranscriptState, ...]
    following_segment: int
    sent: SentEvents


class Session:
    """The decisions of one session.

    After any ``receive_*`` call, send what ``outbox`` holds to the client.
    """

    def __init__(self, backend: Backend, limits: Limits, resume: ResumeOffer | None = None) -> None:
        self.outbox = Outbox()
        self._numbers = SegmentNumbers()
        self.transcripts = [Transcript(numbers=self._numbers)]
        """One for each channel."""
        self.state = State.NEW
        self.config = SessionConfig()
        self.accepted = 0
        """Samples accepted so far."""
        self._backend = backend
        self._limits = limits
        self._resume = resume
        self._acked = 0
        self._max_samples = seconds_to_samples(limits.max_session_s)
        self._implicit = False
        self._lag_warned = False

    @classmethod
    def restored(
        cls, snapshot: SessionSnapshot, backend: Backend, limits: Limits, resume: ResumeOffer | None
    ) -> "Session":
        """The session ``snapshot`` was taken of."""
        session = cls(backend, limits, resume)
        session.state, session.config = snapshot.state, snapshot.config
        session.accepted, session._acked = snapshot.accepted, snapshot.acked
        session._numbers = SegmentNumbers(snapshot.following_segment)
        session.transcripts = [
            Transcript(state, channel=channel, numbers=session._numbers)
            for channel, state in enumerate(snapshot.transcripts)
        ]
        session.outbox = Outbox(sent=snapshot.sent)
        return session

    def snapshot(self) -> SessionSnapshot:
        """For ``restored``. Nothing may be asked of this session afterwards but to say goodbye."""
        return SessionSnapshot(
            self.state,
            self.config,
            self.accepted,
            self._acked,
            tuple(transcript.state() for transcript in self.transcripts),
            self._numbers.following,
            self.outbox.all_sent(),
        )

    @property
    def is_untouched(self) -> bool:
        """Nothing was asked of it yet, so another session may take its place."""
        return self.state is State.NEW or (
            self.state is State.STREAMING and self._implicit and not self.accepted
        )

    @property
    def resumable(self) -> bool:
        """Whether it can be taken up on another socket: of what is no samples nobody knows where to go on."""
        return self._resume is not None and self.config.audio.encoding.is_samples

    @property
    def segments(self) -> int:
        """Segments finished so far."""
        return sum(transcript.segments for transcript in self.transcripts)

    @property
    def text(self) -> str:
        """All finals of all channels, in the order they began."""
        if len(self.transcripts) == 1:
            return self.transcripts[0].text
        every = [said for transcript in self.transcripts for said in transcript.texts]
        return " ".join(text for _, text in sorted(every, key=lambda said: said[0]))

    def receive_resume(self, last_seq: int, received: int) -> None:
        """A client that has the events up to ``last_seq`` is back: tell it the rest, then where to go on.

        Args:
            last_seq: The number of the last event it has.
            received: Samples, in the client's rate, that it need not send again.

        Raises:
            ResumeUnknown: Too much was missed for all of it to be here.
        """
        try:
            self.outbox.resume_after(last_seq)
        except EventsForgotten as forgotten:
            raise errors.ResumeUnknown(
                "The events since then are no longer kept; start a new session."
            ) from forgotten
        if self.state is not State.CLOSED:
            self.outbox.push(Ready(self._backend, self.config, self._limits, self._resume, received))

    def receive_command(self, command: Command) -> None:
        """Check ``command`` against the state table and answer what needs no engine.

        Raises:
            ClientFault: It is not allowed now; nothing has changed.
        """
        kind = type(command)
        state = TRANSITIONS[self.state].get(kind)
        if state is None:
            raise self._refusal(command)
        if kind is Audio:
            return
        if isinstance(command, Start):
            if self.state is State.STREAMING and (self.accepted or not self._implicit):
                raise self._refusal(command)
            self._start(command)
        elif isinstance(command, Reply):
            self._push(command)
        elif kind is Ping:
            self._push(Pong())
        self.state = state

    def audio_accepted(self, samples: int, lag: int) -> None:
        """Count audio that is now safe, ``lag`` samples of which no engine has taken yet.

        Raises:
            SessionTooLong, LagExceeded: A limit is passed.
        """
        self.accepted += samples
        if self.accepted - self._acked >= _ACK_EVERY:
            self._acked = self.accepted
            self.outbox.push(Ack(self.accepted))
            self._check_limits(lag)

    def receive_hypothesis(self, hypothesis: Hypothesis, channel: int = 0) -> None:
        """Take in an engine's result.

        Raises:
            LagExceeded: The client has not read its events for too long.
        """
        for event in self.transcripts[channel].receive(hypothesis):
            if isinstance(event, Partial) and not self.config.partials:
                continue
            self._push(event)

    def receive_finalized(self, at: int) -> None:
        """All that was said before ``at`` has its final."""
        self._push(Finalized(at))

    def receive_notice(self, code: str, message: str) -> None:
        self.outbox.push(Notice(code, message, self._resume if code == "going_away" else None))

    def receive_engine_end(self) -> None:
        """The engine has recognised everything: say so, last of all."""
        if self.accepted > self._acked:
            self.outbox.push(Ack(self.accepted))
        self.outbox.push(Done(self.accepted, self.segments, self.text))
        self.state = State.CLOSED

    def receive_failure(self, error: errors.PerchError) -> None:
        """The session cannot go on."""
        self.outbox.push(Failed(error.code, error.message, error.retryable, error.retry_after))
        self.state = State.CLOSED

    def _start(self, command: Start) -> None:
        self._implicit = command.implicit
        self.config = command.config
        self._numbers = SegmentNumbers()
        self.transcripts = [
            Transcript(channel=channel, numbers=self._numbers)
            for channel in range(command.config.audio.streams)
        ]
        offer = self._resume if self.resumable else None
        self.outbox.push(Ready(self._backend, command.config, self._limits, offer))

    def _push(self, event: Event) -> None:
        try:
            self.outbox.push(event)
        except OutboxFull as full:
            raise errors.LagExceeded(
                "The client does not read its transcript fast enough; read all events as they come."
            ) from full

    def _refusal(self, command: Command) -> errors.ClientFault:
        if isinstance(command, Resume):
            return errors.ResumeUnknown("There is no session to resume with this token; start a new one.")
        name = type(command).__name__.lower()
        return errors.BadMessage(f"{name} is not allowed now: {_ADVICE[self.state]}.")

    def _check_limits(self, lag: int) -> None:
        if self.accepted > self._max_samples:
            raise errors.SessionTooLong(
                f"The session is longer than {self._limits.max_session_s:g} s; stop it and start another."
            )
        lag_s = samples_to_seconds(lag)
        if lag_s > self._limits.lag_limit_s:
            raise errors.LagExceeded(
                f"Recognition is {lag_s:.0f} s behind the audio, more than {self._limits.lag_limit_s:g} s; "
                "send audio at real-time pace.",
                retry_after=5.0,
            )
        if lag_s > self._limits.lag_warn_s:
            if not self._lag_warned:
                self.outbox.push(Notice("lagging", f"Recognition is {lag_s:.1f} s behind the audio."))
            self._lag_warned = True
        elif lag_s < self._limits.lag_warn_s / 2:
            self._lag_warned = False
