"""From what was answered when to figures, and what they say. No clock, no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from perch.core.audio import RATE


@dataclass(frozen=True, slots=True)
class Answer:
    """One piece of one stream. Times are seconds of the round."""

    due: float
    """When its last sample was spoken; in a round as fast as it goes, when it was sent."""
    sent: float
    answered: float
    samples: int
    """0 if the round ended before the piece was taken: then it was late by at least so much."""
    last: bool = False
    """It ended an utterance."""

    @property
    def latency(self) -> float:
        return self.answered - self.due


@dataclass(frozen=True, slots=True)
class Said:
    """What was recognised in an utterance."""

    clip: int
    samples: int
    text: str
    tokens: int | None = None
    """None if the road does not tell: a worker process sends text."""


@dataclass(slots=True)
class Round:
    """One measured stretch of one side."""

    streams: int
    seconds: float
    """From its start to its end."""
    answers: list[Answer] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    """The utterances that came to their end."""
    cpu_s: float = 0.0
    resident_mib: float = 0.0

    @property
    def audio_s(self) -> float:
        """Seconds of audio that were taken, of all streams."""
        return sum(answer.samples for answer in self.answers) / RATE


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles in milliseconds; None of nothing."""

    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """Streams at the pace of speech, on one side."""

    streams: int
    limit_ms: float
    """What p95 may be: the length of a piece."""
    latency: Spread
    """Of every piece, from its last sample being spoken to its answer."""
    final: Spread
    """Of those that ended an utterance."""
    busy: float
    """Share of the time since the first piece in which something was being computed: 1 is all there is."""
    rtf: float | None
    """Seconds of computing for each second of audio, over all streams."""
    cpu: float | None
    """CPU seconds for each second of one stream."""
    resident_mib: float

    @property
    def held(self) -> bool:
        """Text kept up with speech."""
        return self.latency.p95 is not None and self.latency.p95 <= self.limit_ms


@dataclass(frozen=True, slots=True)
class Pace:
    """What a decoder had to write for each second of audio: random weights write other amounts than speech."""

    words_per_s: float | None = None
    tokens_per_s: float | None = None
    """None if the road does not tell."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the utterances that both sides heard, how many are the same words."""

    same: int
    of: int


def spread(seconds: Iterable[float]) -> Spread:
    values = list(seconds)
    if not values:
        return Spread(0)
    p50, p95, p99 = (round(1000 * float(one), 1) for one in np.percentile(values, (50, 95, 99)))
    return Spread(len(values), p50, p95, p99)


def live(rounds: Sequence[Round], limit_ms: float) -> Live:
    """The figures of one number of streams from all rounds on one side."""
    answers = [answer for each in rounds for answer in each.answers]
    audio_s = sum(each.audio_s for each in rounds)
    seconds = sum(each.seconds - min((one.due for one in each.answers), default=0.0) for each in rounds)
    computing = sum(busy(each.answers) for each in rounds)
    return Live(
        streams=rounds[0].streams,
        limit_ms=limit_ms,
        latency=spread(answer.latency for answer in answers),
        final=spread(answer.latency for answer in answers if answer.last),
        busy=computing / seconds,
        rtf=_share(computing, audio_s),
        cpu=_share(sum(each.cpu_s for each in rounds), audio_s),
        resident_mib=max(each.resident_mib for each in rounds),
    )


def busy(answers: Iterable[Answer]) -> float:
    """Seconds in which at least one piece was sent and not yet answered: somebody was computing."""
    total, until = 0.0, float("-inf")
    for answer in sorted((one for one in answers if one.samples), key=lambda one: one.sent):
        total += max(0.0, answer.answered - max(answer.sent, until))
        until = max(until, answer.answered)
    return total


def throughput(rounds: Sequence[Round]) -> float | None:
    """Seconds of audio taken in each second, of all streams together."""
    return _share(sum(each.audio_s for each in rounds), sum(each.seconds for each in rounds))


def carried(steps: Iterable[Live]) -> int:
    """The most streams that kept up with speech, below the fewest that did not."""
    held: dict[int, bool] = {}
    for step in steps:  # what was tried twice and held once, held: a pause of the machine is no limit
        held[step.streams] = held.get(step.streams, False) or step.held
    kept_up = takewhile(held.__getitem__, sorted(held))
    return max(kept_up, default=0)


def per_added_stream(resident_mib: Mapping[int, float]) -> float | None:
    """MiB that each further stream takes, by the fewest and the most that were measured."""
    few, many = min(resident_mib, default=0), max(resident_mib, default=0)
    return (resident_mib[many] - resident_mib[few]) / (many - few) if many > few else None


def ratio(ours: float | None, plain: float | None) -> float | None:
    """How much more the worker process does than the plain loop; None if there is nothing to divide by."""
    return ours / plain if ours is not None and plain else None


def pace(said: Sequence[Said]) -> Pace:
    """How much there was to decode."""
    heard_s = sum(one.samples for one in said) / RATE
    tokens = [one.tokens for one in said if one.tokens is not None]
    return Pace(
        words_per_s=_share(sum(len(one.text.split()) for one in said), heard_s),
        tokens_per_s=_share(sum(tokens), heard_s) if len(tokens) == len(said) else None,
    )


def agreement(ours: Iterable[Said], plain: Iterable[Said]) -> Agreement:
    """Whether the two sides heard the same: figures of a road that drops audio are worth nothing."""
    left = {said.clip: said.text.split() for said in ours}
    right = {said.clip: said.text.split() for said in plain}
    both = left.keys() & right.keys()
    return Agreement(sum(left[clip] == right[clip] for clip in both), len(both))


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
