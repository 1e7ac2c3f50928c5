"""From what was sent and heard to latencies. No clock, no I/O.

The latency of an event is the time from sending the frame that brings it about to receiving it. Which
frame that is need not be known beforehand: the engine's answers depend on the audio alone, so it is the
earliest frame that was the last one sent when the event came, over all streams of all runs. One stream
that hears of it within a frame's length, 100 ms, is enough to be exact. What comes after a stream's last
frame tells nothing: the end of the audio may have brought it about.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from bench.events import Heard
from bench.job import Outcome, StreamLog

Event = tuple[int, bool, str]
Causes = Mapping[Event, int]

PERCENTILES = (50, 95, 99)


def causes(outcomes: Iterable[Outcome]) -> dict[Event, int]:
    """The frame, counted from 0, that brings each event about."""
    found: dict[Event, int] = {}
    for outcome in outcomes:
        for log in outcome.streams:
            for event, heard in first_heard(log).items():
                last_sent = bisect_left(log.sent, heard.at) - 1
                if last_sent < len(log.sent) - 1:
                    found[event] = min(found.get(event, last_sent), last_sent)
    return found


def latencies(outcome: Outcome, caused_by: Causes) -> list[float]:
    """Seconds, one for each event of a frame sent while ``outcome`` was measured."""
    found = []
    for log in outcome.streams:
        for event, heard in first_heard(log).items():
            cause = caused_by.get(event, len(log.sent))
            if cause < len(log.sent) and outcome.start <= log.sent[cause] < outcome.end:
                found.append(heard.at - log.sent[cause])
    return found


def first_heard(log: StreamLog) -> dict[Event, Heard]:
    """Each event once: engines may repeat a partial, and the first time is when it was news."""
    found: dict[Event, Heard] = {}
    for heard in log.heard:
        found.setdefault((heard.segment, heard.is_final, heard.text), heard)
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated; 0 of nothing."""
    return float(np.percentile(values, percent)) if len(values) else 0.0


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line nearest to ``points``; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    x, y = np.asarray(points).T
    return float(np.polyfit(x, y, 1)[0])
