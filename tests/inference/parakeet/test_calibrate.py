"""How many streams a model carries: what is tried, and what ends the trials."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from perch.inference.parakeet import calibrate as calibration
from perch.inference.parakeet.calibrate import Trial, calibrate, carried, warm_up
from perch.inference.parakeet.model import Facts, Piece, Token

CHUNK = 1_600


class Windowed:
    """Implements ``Model``: encodes ``context`` samples beside each piece, as soon as they were heard."""

    def __init__(self, context: int, *, most: int = 64, problem: Exception | None = None) -> None:
        self.facts = Facts("windowed", "test", "cpu", "buffered", CHUNK, "rnnt", context=context)
        self.most = most
        self.problem = problem or RuntimeError("input has more than 2**31 numbers")
        self.encoded: list[int] = []
        self.last: list[bool] = []

    def reserve(self, slots: int) -> None:
        """Any number fits."""

    def begin(self) -> list[int]:
        return []

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        if len(pieces) > self.most:
            raise self.problem
        for piece in pieces:
            piece.state.append(len(piece.audio))
            self.encoded.append(min(sum(piece.state), self.facts.context + CHUNK))
            self.last.append(piece.last)
        return [[] for _ in pieces]

    def end(self, state: list[int]) -> None:
        """Nothing is held."""


@pytest.mark.parametrize("context", [0, 1, CHUNK, 5 * CHUNK, 5 * CHUNK + 1])
def test_only_steps_on_whole_windows_are_timed(monkeypatch: pytest.MonkeyPatch, context: int) -> None:
    """A stream's first windows are short, and streams are carried for longer than that."""
    model = Windowed(context)
    timed: list[list[int]] = []

    def median(times: list[float]) -> float:
        timed.append(model.encoded[-len(times) :])
        return 0.0

    monkeypatch.setattr(calibration, "_median", median)
    assert calibrate(model, most=1, besides=0, report=lambda _: None) == 1
    assert timed == [[context + CHUNK] * 3]


@pytest.mark.parametrize("most", [1, 2, 5, 64, 560])
def test_as_many_as_may_be_are_tried(most: int) -> None:
    assert calibrate(Windowed(0, most=1_000), most=most, besides=0, report=lambda _: None) == most


class Whole(Windowed):
    """Takes whole utterances, and so many seconds for each of a step."""

    def __init__(self, each_s: float) -> None:
        super().__init__(0)
        self.facts = replace(self.facts, mode="vad-segmented", chunk=0)
        self.each_s = each_s
        self.now = 0.0
        self.steps: list[int] = []

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        self.now += self.each_s * len(pieces)
        self.steps.append(len(pieces))
        return super().step(pieces)


@pytest.mark.parametrize(
    ("each_s", "streams", "steps"),
    [
        (0.2, 15, {1: 4, 2: 4, 4: 4, 8: 2, 16: 2}),
        (0.17, 17, {1: 4, 2: 4, 4: 4, 8: 3, 16: 2}),  # 32 would take 5.4 s, and 3 is the limit
    ],
)
def test_no_more_time_is_spent_than_it_takes_to_know(
    monkeypatch: pytest.MonkeyPatch, each_s: float, streams: int, steps: dict[int, int]
) -> None:
    model = Whole(each_s)
    monkeypatch.setattr(calibration, "perf_counter", lambda: model.now)
    assert calibrate(model, most=64, besides=0, report=lambda _: None) == streams
    assert Counter(model.steps) == steps


def test_a_librarys_own_limit_is_one_for_the_streams() -> None:
    reports: list[str] = []
    assert calibrate(Windowed(0, most=5), most=64, besides=0, report=reports.append) == 4
    assert reports[-1] == "calibrating: 8 streams are too many: input has more than 2**31 numbers"


@pytest.mark.parametrize(
    ("most", "problem"),
    [(0, RuntimeError("not even one")), (4, RuntimeError("CUDA error: misaligned address"))],
)
def test_what_is_no_limit_refuses_the_model(most: int, problem: Exception) -> None:
    with pytest.raises(RuntimeError, match=str(problem)):
        calibrate(Windowed(0, most=most, problem=problem), most=64, besides=0, report=lambda _: None)


def test_a_model_is_warmed_up_by_an_utterance_of_two_pieces() -> None:
    model = Windowed(0)
    warm_up(model)
    assert model.last == [False, True]
    assert np.sum(model.encoded) == 2 * CHUNK


@pytest.mark.parametrize(
    ("trials", "streams"),
    [
        ([Trial(1, 0.9)], 1),
        ([Trial(1, 0.1), Trial(2, 0.2), Trial(4, 0.4)], 4),
        ([Trial(1, 0.1), Trial(2, 0.3), Trial(4, 0.7)], 3),
        ([], 1),
    ],
)
def test_carried_streams_fit_the_limit(trials: list[Trial], streams: int) -> None:
    assert carried(trials, 0.5) == streams
