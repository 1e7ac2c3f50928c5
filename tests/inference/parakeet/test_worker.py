"""The worker's loop over a model that fails: who is told, what is tried again, when the process ends."""

import gc
import socket
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import pytest

from perch.inference.parakeet import wire, worker
from perch.inference.parakeet.device import is_full, is_lost
from perch.inference.parakeet.model import Facts, Piece, Token

PIECE = 320


class Ended(BaseException):
    """In place of the process."""


class FailingModel:
    """Implements ``Model``: its state is the utterance's number, and ``check`` raises for steps that fail."""

    def __init__(self, check: Callable[[Sequence[int]], None]) -> None:
        self.facts = Facts("failing", "test", "cpu", "cache-aware", PIECE, "rnnt")
        self.check = check
        self.steps: list[list[int]] = []
        self.begun = 0

    def reserve(self, slots: int) -> None:
        """Any number fits."""

    def begin(self) -> int:
        self.begun += 1
        return self.begun

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        numbers = [piece.state for piece in pieces]
        self.steps.append(numbers)
        self.check(numbers)
        return [[Token("▁ok", 0)] for _ in pieces]

    def end(self, state: int) -> None:
        """Nothing is held."""


class Serving:
    """A worker over ``model``, stepped by whoever asks it."""

    def __init__(self, model: Any) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._worker = worker.Worker(self._theirs, model, wire.Loaded(model.facts, 64, 4))
        self._deframer = wire.Deframer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()

    def answers(self, keys: Iterable[int]) -> list[bytes]:
        """What is answered to utterances of one piece, which all come at once."""
        audio = np.zeros(PIECE, "<i2").tobytes()
        kinds: dict[int, bytes] = dict.fromkeys(keys, b"")
        self._ours.sendall(b"".join(wire.message(wire.LAST, key, audio) for key in kinds))
        self._worker._receive(block=True)
        while self._worker._batcher:
            self._worker._step(self._worker._batcher.take(), self._worker._batcher)
        while not all(kinds.values()):
            kinds |= {key: kind for kind, key, _ in self._deframer.feed(self._ours.recv(65_536))}
        return list(kinds.values())


def serve(model: Any, utterances: int, *, each_alone: bool = False) -> list[bytes]:
    """What is answered to so many utterances, that come at once or one after the other."""
    keys = range(1, utterances + 1)
    with Serving(model) as serving:
        if not each_alone:
            return serving.answers(keys)
        return [kind for key in keys for kind in serving.answers([key])]


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        raise Ended

    monkeypatch.setattr("os._exit", end)
    return statuses


def test_one_that_fails_does_so_alone_and_is_found_by_halves() -> None:
    def check(numbers: Sequence[int]) -> None:
        if 3 in numbers:
            raise ValueError("not this one")

    model = FailingModel(check)
    answers = serve(model, 16)
    assert [number for number, kind in enumerate(answers, 1) if kind == wire.FAILED] == [3]
    assert len(model.steps) == 1 + 2 * 4


def test_where_memory_runs_out_no_later_step_is_as_large() -> None:
    def check(numbers: Sequence[int]) -> None:
        if len(numbers) > 5:
            raise MemoryError

    model = FailingModel(check)
    with Serving(model) as serving:
        assert serving.answers(range(1, 33)) == [wire.FINAL] * 32
        model.steps.clear()
        assert serving.answers(range(33, 65)) == [wire.FINAL] * 32
    assert max(map(len, model.steps)) <= 5


def test_what_a_failed_step_held_is_free_when_its_halves_are_tried() -> None:
    """The memory that ran out is held by the exception's frames, and would not be there for the next try."""
    held: list[weakref.ref[Any]] = []

    def check(numbers: Sequence[int]) -> None:
        gc.disable()
        assert all(reference() is None for reference in held)
        activations = np.zeros(1_000)
        held.append(weakref.ref(activations))
        if len(numbers) > 1:
            raise MemoryError

    try:
        assert serve(FailingModel(check), 4) == [wire.FINAL] * 4
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "told",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "Non-zero status code returned while running Conv node. CUDA failure 700: an illegal memory access",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_a_gpu_that_is_lost_ends_the_process(ended: list[int], told: str) -> None:
    """CUDA refuses everything after it, so only another process can go on."""

    def check(numbers: Sequence[int]) -> None:
        if 2 in numbers:
            raise RuntimeError(told)

    with pytest.raises(Ended):
        serve(FailingModel(check), 3)
    assert ended == [70]


def test_a_model_that_fails_whoever_comes_ends_the_process(ended: list[int]) -> None:
    def check(numbers: Sequence[int]) -> None:
        if numbers[0] > 1:
            raise RuntimeError("of a kind that nobody thought of")

    with pytest.raises(Ended):
        serve(FailingModel(check), 20, each_alone=True)
    assert ended == [70]


def test_some_that_fail_are_not_the_models_fault(ended: list[int]) -> None:
    def check(numbers: Sequence[int]) -> None:
        if numbers[0] % 8:
            raise RuntimeError("seven in a row")

    answers = serve(FailingModel(check), 24, each_alone=True)
    assert answers == [wire.FINAL if number % 8 == 0 else wire.FAILED for number in range(1, 25)]
    assert not ended


def test_memory_that_runs_out_is_not_a_lost_gpu() -> None:
    assert not is_lost(MemoryError("CUDA error: out of memory"))
    assert not is_lost(RuntimeError("CUDA failure 2: out of memory ; GPU=0"))
    assert is_full(RuntimeError("CUDA failure 2: out of memory ; GPU=0"))
    assert not is_lost(RuntimeError("shapes do not match"))
