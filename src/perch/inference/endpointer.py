"""Where utterances begin and end, decided from speech probabilities alone: no audio, no clock.

The rules are Riva's, with a speech detector in the place of its blank symbol: an utterance begins when
``start_threshold`` of the last ``start_history`` is speech, and ends when ``stop_threshold`` of the last
``stop_history`` is not. ``stop_history_eou`` says early, and without ending anything, that it probably
will. What Riva leaves to its decoder is here too: audio kept before the first speech (``pre_roll``), after
the last (``post_roll``), and a bound on length, which cuts where speech is least likely.

Use::

    for decision in endpointer.feed(probabilities): ...   # Begin, EarlyEnd, End, in stream order
    give the voice audio up to endpointer.ready           # while an utterance is open
    for decision in endpointer.close(total_samples): ...  # the stream is over

Never give the voice audio past ``ready``: an ``End`` may still fall anywhere after it.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from perch.core.audio import RATE, ms_to_samples
from perch.core.speech import Endpointing


@dataclass(frozen=True, slots=True)
class Begin:
    """An utterance begins with sample ``at``, which was some time ago."""

    at: int


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """The utterance has probably ended at sample ``at``: worth telling, not yet final.

    If speech goes on nevertheless, it may be said again later in the same utterance.
    """

    at: int


@dataclass(frozen=True, slots=True)
class End:
    """The utterance ends before sample ``at``. ``cut`` if only because it had become too long."""

    at: int
    cut: bool = False


Decision = Begin | EarlyEnd | End

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds when a caller's ``Endpointing`` does not say otherwise."""

    start_history_ms: int = 300
    start_threshold: float = 0.2
    stop_history_ms: int = 800
    stop_threshold: float = 0.98
    onset: float = 0.3
    """A frame at least this probable counts as speech while no utterance is open."""
    offset: float = 0.2
    """A frame at least this probable counts as speech inside an utterance."""
    pre_roll_ms: int = 500
    post_roll_ms: int = 500
    max_utterance: int = 15 * RATE
    """Samples. A longer utterance is cut in two."""
    cut_window_ms: int = 2000
    """How far before the bound a cut may be, in search of a pause."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A share of a number of frames."""

    frames: int
    needed: int

    @classmethod
    def of(cls, history_ms: int, threshold: float, frame: int, longest: int | None = None) -> "_Window":
        frames = max(1, round(ms_to_samples(history_ms) / frame))
        if longest is not None:
            frames = max(1, min(frames, longest // frame))
        # The epsilon keeps 0.2 of 10 frames at 2: the product may come out a hair above.
        return cls(frames, min(frames, max(1, ceil(threshold * frames - 1e-9))))


@dataclass(slots=True)
class _Utterance:
    """The open utterance: its first sample, the end of its last speech, whether its end was foretold."""

    start: int
    spoken_until: int
    foretold: bool = False


class Endpointer:
    """Turns one stream's speech probabilities into utterances: ordered, disjoint, bounded in length.

    Args:
        config: The caller's wishes; None, zero and negative values leave a setting to ``defaults``.
        frame: Samples per probability.
        defaults: The engine's own settings.
    """

    def __init__(self, config: Endpointing | None, frame: int, defaults: Defaults | None = None) -> None:
        wish, rest = config or Endpointing(), defaults or Defaults()
        self._frame = frame
        self._onset, self._offset = rest.onset, rest.offset
        self._pre_roll, self._post_roll = ms_to_samples(rest.pre_roll_ms), ms_to_samples(rest.post_roll_ms)
        self._longest = rest.max_utterance
        self._cut_frames = max(1, min(ms_to_samples(rest.cut_window_ms), self._longest // 2) // frame)

        stop_threshold = _positive(wish.stop_threshold) or rest.stop_threshold
        self._start = _Window.of(
            _positive(wish.start_history_ms) or rest.start_history_ms,
            _positive(wish.start_threshold) or rest.start_threshold,
            frame,
            longest=self._longest // 4,
        )
        self._stop = _Window.of(
            _positive(wish.stop_history_ms) or rest.stop_history_ms,
            stop_threshold,
            frame,
        )
        self._early = _early_window(wish, stop_threshold, frame)

        self._seen = 0
        self._floor = 0
        self._utterance: _Utterance | None = None
        self._speech: deque[bool] = deque(maxlen=max(self._start.frames, self._stop.frames))
        self._recent: deque[float] = deque(maxlen=self._cut_frames)

    @property
    def ready(self) -> int | None:
        """The sample before which audio surely belongs to the open utterance; None while none is open."""
        if self._utterance is None:
            return None
        cut_from = self._utterance.start + self._longest - (self._cut_frames + 1) * self._frame
        return min(self._end(self._utterance), cut_from)

    @property
    def needed_from(self) -> int:
        """The first sample that a coming utterance, or the rest of this one, may still contain."""
        ready = self.ready
        if ready is not None:
            return ready
        return max(self._floor, self._seen - self._start.frames * self._frame - self._pre_roll)

    def feed(self, probabilities: Iterable[float]) -> list[Decision]:
        """Take the probabilities of the next frames; return what they decide."""
        decisions: list[Decision] = []
        for probability in probabilities:
            self._seen += self._frame
            self._recent.append(probability)
            if self._utterance is None:
                decisions += self._listen(probability)
            else:
                decisions += self._follow(self._utterance, probability)
        return decisions

    def close(self, total: int) -> list[Decision]:
        """The stream is over after ``total`` samples: end what is open."""
        if self._utterance is None:
            return []
        self._seen = max(self._seen, total)
        return [self._finish(self._end(self._utterance))]

    def _listen(self, probability: float) -> list[Decision]:
        self._speech.append(probability >= self._onset)
        window = list(self._speech)[-self._start.frames :]
        if sum(window) < self._start.needed:
            return []
        first_speech = self._seen - (len(window) - window.index(True)) * self._frame
        return [self._begin(max(self._floor, first_speech - self._pre_roll))]

    def _follow(self, utterance: _Utterance, probability: float) -> list[Decision]:
        spoken = probability >= self._offset
        self._speech.append(spoken)
        if spoken:
            utterance.spoken_until = self._seen
            utterance.foretold = False
        if self._is_silent(self._stop):
            return [self._finish(self._end(utterance))]
        if self._seen + self._frame > utterance.start + self._longest:
            return self._cut(utterance)
        if self._early is not None and not utterance.foretold and self._is_silent(self._early):
            utterance.foretold = True
            return [EarlyEnd(self._end(utterance))]
        return []

    def _cut(self, utterance: _Utterance) -> list[Decision]:
        """Split a long utterance at the least probable of the last frames, and go on with the rest."""
        frames_back = len(self._recent) - self._least_probable()
        at = self._seen - frames_back * self._frame + self._frame // 2
        if utterance.spoken_until <= at:
            return [self._finish(self._end(utterance))]
        spoken_until = utterance.spoken_until
        ended = self._finish(at, cut=True)
        begun = self._begin(at)
        assert self._utterance is not None
        self._utterance.spoken_until = spoken_until
        return [ended, begun]

    def _least_probable(self) -> int:
        recent = list(self._recent)
        return recent.index(min(recent))

    def _begin(self, at: int) -> Begin:
        self._utterance = _Utterance(at, self._seen)
        self._speech.clear()
        return Begin(at)

    def _finish(self, at: int, *, cut: bool = False) -> End:
        self._utterance = None
        self._floor = at
        self._speech.clear()
        return End(at, cut)

    def _end(self, utterance: _Utterance) -> int:
        """Where the utterance would end if nobody spoke again."""
        return min(self._seen, utterance.spoken_until + self._post_roll)

    def _is_silent(self, window: _Window) -> bool:
        """Whether enough of the window is not speech. Frames from before the utterance do not count."""
        recent = list(self._speech)[-window.frames :]
        return len(recent) - sum(recent) >= window.needed


def _early_window(wish: Endpointing, stop_threshold: float, frame: int) -> _Window | None:
    history = _positive(wish.stop_history_eou_ms)
    if history is None:
        return None
    return _Window.of(history, _positive(wish.stop_threshold_eou) or stop_threshold, frame)


def _positive(value: _Number | None) -> _Number | None:
    """Riva's clients write zero or less for "the engine's default"."""
    return value if value is not None and value > 0 else None
