"""What generators measure, as plain data that passes between processes as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

REFUSED = frozenset({"at_capacity", "going_away", "rate_limited"})
"""Codes of a gateway that declines a session for now, politely: no errors, and counted apart."""


@dataclass(slots=True)
class Session:
    """One attempt at a session. Times are milliseconds, None where the event did not come.

    Args:
        outcome: ``done``, ``cut`` (ended by the generator before its time) or a code.
        retry_after_s: What a refusal said about trying again.
        disconnected: The connection ended without the gateway's close frame.
        ready: From opening the socket to ``ready``: TCP, TLS, admission and the engine's stream.
        first_partial: From sending the frame in which the first partial's audio ends to the partial.
        done: From ``stop`` to ``done``.
        rtfx: Seconds of audio for each second from the first frame to ``done``; at the pace of speech
            a little below 1.
    """

    outcome: str = ""
    retry_after_s: float | None = None
    disconnected: bool = False
    ready: float | None = None
    first_partial: float | None = None
    done: float | None = None
    rtfx: float | None = None
    audio_s: float = 0.0
    partials: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return self.ready is None and self.outcome in REFUSED

    @property
    def failed(self) -> bool:
        return self.outcome not in ("done", "cut") and not self.refused


@dataclass(slots=True)
class Log:
    """All that one generator process did in a step.

    Args:
        late: Milliseconds by which frames were sent after their time, in the measured window.
        audio_s: Audio sent in the measured window.
        cpu_s: CPU time the process used in it.
        held: Sessions that were open at its end.
    """

    sessions: list[Session] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    audio_s: float = 0.0
    cpu_s: float = 0.0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to stream to, and how. ``key`` is secret.

    Args:
        silence_ms: The silence that ends an utterance, as the sessions ask for it; 0 leaves it to the engine.
    """

    url: str
    key: str = field(default="", repr=False)
    ca: str = ""
    insecure: bool = False
    timeout_s: float = 30.0
    silence_ms: int = 500


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a step's sessions start, are measured and end, in seconds from its beginning.

    Starts are spread evenly over ``spread_s``, and so are ends, so that neither frames nor openings come in
    bursts, and every user speaks during the whole of the measured window.
    """

    users: int
    spread_s: float
    warm_up_s: float
    seconds: float
    session_s: float

    @property
    def measured_from(self) -> float:
        return self.spread_s + self.warm_up_s

    @property
    def measured_until(self) -> float:
        return self.measured_from + self.seconds

    @property
    def total_s(self) -> float:
        return self.measured_until + self.spread_s

    def starts(self, user: int) -> float:
        return self.spread_s * user / self.users

    def ends(self, user: int) -> float:
        return self.measured_until + self.starts(user)

    def first_session_s(self, user: int) -> float:
        """Shorter than the others by a share that differs from user to user, so that they do not all begin
        their second session at once.
        """
        return self.session_s * max(0.1, user * _GOLDEN % 1)


_GOLDEN = 0.6180339887


@dataclass(frozen=True, slots=True)
class Job:
    """What one generator process does: the ``users`` (by number) of a step."""

    target: Target
    schedule: Schedule
    users: list[int]
    clips: list[str]


def job_to_json(job: Job) -> bytes:
    return orjson.dumps(asdict(job))


def job_from_json(text: bytes) -> Job:
    fields: dict[str, Any] = orjson.loads(text)
    return Job(Target(**fields["target"]), Schedule(**fields["schedule"]), fields["users"], fields["clips"])


def log_to_json(log: Log) -> bytes:
    return orjson.dumps(asdict(log))


def log_from_json(text: bytes) -> Log:
    fields: dict[str, Any] = orjson.loads(text)
    return Log(**fields | {"sessions": [Session(**session) for session in fields["sessions"]]})
