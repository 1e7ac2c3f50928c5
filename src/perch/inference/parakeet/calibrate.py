"""How many streams a loaded model carries on this machine, found by trying.

Real-time factors from elsewhere do not hold for another processor, another precision or a machine that
does other things too. So the model is timed on noise at growing numbers of streams before it serves.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from perch.core.audio import RATE
from perch.inference.parakeet.device import is_lost
from perch.inference.parakeet.model import Audio, Model, Piece

BUDGET = 0.6
"""The part of a piece's duration that a step of all streams may take: the rest is for decoding more
tokens than noise has, for speech detection and for the machine's other work."""

WHOLE = 5 * RATE
"""Samples of the utterances tried where an utterance is one piece."""

_TIMED_STEPS = 3
_TIMED_S = 3.0
"""Of whole utterances, which take seconds, only as many steps are timed as fit into this; one at least."""

_FAR = 1.5
"""What is foreseen to take so many times the limit is not tried."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """So many streams stepped together took so many seconds."""

    streams: int
    seconds: float


def calibrate(model: Model, *, most: int, besides: int, report: Report) -> int:
    """Streams at the same time, from 1 to ``most``, that fit beside so many utterances of recordings.

    Those are not stepped, but have their room in every trial. At least 1, whether or not that fits: to make
    the room that is served with is for the caller.
    """
    length = model.facts.chunk or WHOLE
    limit = BUDGET * length / RATE
    trials: list[Trial] = []
    for streams in _tried(most):
        if (seconds := foreseen(trials, streams)) > _FAR * limit:
            trials.append(Trial(streams, seconds))
            break
        try:
            trials.append(Trial(streams, _time(model, streams, besides, length)))
        except MemoryError:
            report(f"calibrating: there is no memory for {streams} streams")
            break
        except RuntimeError as problem:  # a limit of a library's own, which fewer streams are below
            if not trials or is_lost(problem):
                raise
            report(f"calibrating: {streams} streams are too many: {problem}")
            break
        report(
            f"calibrating: {streams} streams in {trials[-1].seconds * 1000:.0f} ms, limit {limit * 1000:.0f} ms"
        )
        if trials[-1].seconds > limit:
            break
    return carried(trials, limit)


def _tried(most: int) -> Iterator[int]:
    """1, 2, 4, …, ``most``."""
    streams = 1
    while streams < most:
        yield streams
        streams *= 2
    yield most


def foreseen(trials: list[Trial], streams: int) -> float:
    """Seconds of a step of so many, on the line through the last two trials; 0 before there are two."""
    if len(trials) < 2:
        return 0.0
    before, last = trials[-2:]
    each = (last.seconds - before.seconds) / (last.streams - before.streams)
    return last.seconds + each * (streams - last.streams)


def carried(trials: list[Trial], limit: float) -> int:
    """The streams that fit into ``limit`` seconds a step, at least one.

    Between the last trial that fits and the first that does not, time is taken to grow evenly.
    """
    fits = [trial for trial in trials if trial.seconds <= limit]
    if not fits:
        return 1
    best = fits[-1]
    over = [trial for trial in trials if trial.streams > best.streams]
    if not over:
        return best.streams
    share = (limit - best.seconds) / (over[0].seconds - best.seconds)
    return best.streams + int(share * (over[0].streams - best.streams))


def warm_up(model: Model) -> None:
    """One utterance of noise, so that what cannot work breaks now, and the first caller waits no longer than any.

    Raises:
        Exception: Whatever the library raises.
    """
    noise = _noise(model.facts.chunk or WHOLE)
    if model.facts.chunk:
        state = model.begin()
        _step(model, [state], noise, last=False)
        _step(model, [state], noise, last=True)
    else:
        _step(model, [model.begin()], noise, last=True)


def _time(model: Model, streams: int, besides: int, length: int) -> float:
    """Seconds of a step as long as any will be, the median of some after one that warms up."""
    noise, chunk = _noise(length), model.facts.chunk
    model.reserve(streams + besides)
    if chunk == 0:
        return _median(_whole_steps(model, streams, noise))
    growing = -(-model.facts.context // chunk)
    states = [model.begin() for _ in range(streams)]
    try:
        times = [_step(model, states, noise, last=False) for _ in range(growing + 1 + _TIMED_STEPS)]
    finally:
        for state in states:
            model.end(state)
    return _median(times[growing + 1 :])


def _whole_steps(model: Model, streams: int, noise: Audio) -> list[float]:
    """Seconds of steps of whole utterances, after one that warms up and tells how many there is time for."""

    def step() -> float:
        return _step(model, [model.begin() for _ in range(streams)], noise, last=True)

    fitting = int(_TIMED_S / max(step(), 1e-9))
    return [step() for _ in range(max(1, min(_TIMED_STEPS, fitting)))]


def _noise(samples: int) -> Audio:
    return np.random.default_rng(0).normal(0.0, 0.02, samples).astype(np.float32)


def _step(model: Model, states: list[object], audio: Audio, *, last: bool) -> float:
    start = perf_counter()
    model.step([Piece(state, audio, last) for state in states])
    took = perf_counter() - start
    if last:
        for state in states:
            model.end(state)
    return took


def _median(times: list[float]) -> float:
    return sorted(times)[len(times) // 2]
