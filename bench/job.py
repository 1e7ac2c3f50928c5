"""What a load generator is asked, and what it answers: JSON between two processes."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.events import Heard

Road = Literal["direct", "gateway"]


@dataclass(frozen=True, slots=True)
class Job:
    """Streams at real-time pace along one road.

    Args:
        road: Straight to the engine, or through the gateway.
        address: ``host:port`` of whichever it is.
        streams: How many at the same time.
        seconds: How long to measure, once all of them run.
        partials: False asks the gateway to leave them out.
        watch: Processes whose CPU time is measured, by name.
    """

    road: Road
    address: str
    streams: int
    seconds: float
    partials: bool = True
    watch: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamLog:
    """One stream: when each frame was sent, and what was heard."""

    sent: list[float]
    heard: list[Heard]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job came to.

    Args:
        streams: Every frame and every partial and final, from the first to the last.
        start: When all streams were running and measuring began.
        end: When it ended.
        frames: Frames sent between the two.
        messages: Messages received between the two, of any kind.
        cpu_s: CPU seconds between the two, of the generator, of every process watched, and of all others.
        late_ms: How late frames were sent (p50, p99): more than a few ms is a generator without CPU.
        lag_ms: How late the generator's event loop woke up (p50, p99).
        failures: Why streams failed; empty in a good run.
    """

    streams: list[StreamLog]
    start: float
    end: float
    frames: int
    messages: int
    cpu_s: dict[str, float]
    late_ms: tuple[float, float]
    lag_ms: tuple[float, float]
    failures: list[str]

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def cpu_ms_per_stream_second(self, process: str) -> float:
        return 1000 * self.cpu_s[process] / (self.seconds * len(self.streams))

    def cpu_us_per_frame(self, process: str) -> float:
        return 1e6 * self.cpu_s[process] / max(self.frames, 1)


def job_to_json(job: Job) -> str:
    return json.dumps(asdict(job))


def job_from_json(text: str | bytes) -> Job:
    return Job(**json.loads(text))


def outcome_to_json(outcome: Outcome) -> bytes:
    return json.dumps(asdict(outcome)).encode()


def outcome_from_json(text: bytes) -> Outcome:
    fields: dict[str, Any] = json.loads(text)
    logs = [
        StreamLog(log["sent"], [Heard(*heard) for heard in log["heard"]]) for log in fields.pop("streams")
    ]
    return Outcome(streams=logs, **fields)
