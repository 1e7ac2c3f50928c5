"""Memory that is short when a model is loaded: fewer streams, and no refusal while one fits."""

import socket
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from perch.errors import EngineFailed
from perch.inference.parakeet import wire, worker
from perch.inference.parakeet.calibrate import calibrate
from perch.inference.parakeet.model import Facts, LoadOptions, Piece, Token
from perch.inference.parakeet.transformers_common import computing

OPTIONS = LoadOptions(path="nowhere", name="narrow")
RECORDINGS = 4
"""Of a worker on a CPU."""


class NarrowModel:
    """Implements ``Model``; it has room for ``rows`` utterances, for ``lost`` fewer once it was full."""

    def __init__(self, rows: int, *, lost: int = 0) -> None:
        self.facts = Facts("narrow", "test", "cpu", "cache-aware", 8_960, "rnnt")
        self.rows = rows
        self.lost = lost
        self.reserved: list[int] = []
        self.free = 0

    def reserve(self, slots: int) -> None:
        self.reserved.append(slots)
        if slots > self.rows:
            self.rows, self.lost = self.rows - self.lost, 0
            raise MemoryError
        self.free = slots

    def begin(self) -> None:
        if not self.free:
            raise EngineFailed("Every slot of the model is taken.")
        self.free -= 1

    def step(self, pieces: Sequence[Piece]) -> list[list[Token]]:
        return [[] for _ in pieces]

    def end(self, state: None) -> None:
        del state
        self.free += 1


def load(
    monkeypatch: pytest.MonkeyPatch, model: NarrowModel, slots: int | None
) -> tuple[wire.Loaded, list[str]]:
    """What the worker makes of the model, and what it reports."""
    monkeypatch.setattr(worker, "backend", lambda _: lambda _: model)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            _, loaded = worker._load(theirs, "test", OPTIONS, slots)
        finally:
            theirs.close()
        told = b"".join(iter(lambda: ours.recv(65_536), b""))
    return loaded, [body.decode() for _, _, body in wire.Deframer().feed(told)]


@pytest.mark.parametrize(("rows", "streams"), [(5, 1), (7, 2), (12, 8), (35, 16), (36, 32)])
def test_streams_are_counted_beside_the_recordings(
    monkeypatch: pytest.MonkeyPatch, rows: int, streams: int
) -> None:
    """004-17: sixteen streams and four recordings are twenty rows; memory for them is part of the trial."""
    model = NarrowModel(rows)
    loaded, reports = load(monkeypatch, model, None)
    assert (loaded.slots, loaded.recordings) == (streams, RECORDINGS)
    assert model.free == streams + RECORDINGS
    assert f"calibrating: there is no memory for {2 * streams} streams" in reports


def test_a_trial_that_does_not_fit_ends_the_trials() -> None:
    reports: list[str] = []
    model = NarrowModel(6)
    assert calibrate(model, most=64, besides=3, report=reports.append) == 2
    assert model.reserved == [4, 5, 7]


def test_streams_that_do_not_fit_are_halved_until_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, reports = load(monkeypatch, NarrowModel(10), 50)
    assert loaded.slots == 6
    assert reports[1:] == [
        "There is no memory for 50 streams; trying 25.",
        "There is no memory for 25 streams; trying 12.",
        "There is no memory for 12 streams; trying 6.",
    ]


def test_memory_that_is_gone_after_the_trials_costs_streams_and_not_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, _ = load(monkeypatch, NarrowModel(20, lost=8), None)
    assert loaded.slots == 8


@pytest.mark.parametrize("slots", [None, 1, 8])
@pytest.mark.parametrize(("rows", "recordings"), [(4, 2), (3, 2), (2, 1)])
def test_where_there_is_hardly_room_for_a_stream_there_are_fewer_recordings(
    monkeypatch: pytest.MonkeyPatch, rows: int, recordings: int, slots: int | None
) -> None:
    loaded, _ = load(monkeypatch, NarrowModel(rows), slots)
    assert (loaded.slots, loaded.recordings) == (1, recordings)


def test_no_memory_for_one_of_each_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for slots in (None, 1, 8):
        with pytest.raises(MemoryError):
            load(monkeypatch, NarrowModel(1), slots)


class _Full(RuntimeError):
    """As ``torch.OutOfMemoryError``, which the GPU's allocator raises."""


@pytest.mark.parametrize(
    "problem",
    [
        _Full("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_whatever_runs_out_is_a_memory_error(problem: RuntimeError) -> None:
    """The CPU's allocator and cuBLAS say it with a plain ``RuntimeError``."""
    emptied: list[bool] = []
    torch = SimpleNamespace(
        inference_mode=nullcontext,
        OutOfMemoryError=_Full,
        cuda=SimpleNamespace(empty_cache=lambda: emptied.append(True)),
    )
    with pytest.raises(MemoryError), computing(torch):
        raise problem
    assert bool(emptied) == isinstance(problem, _Full)
    with pytest.raises(RuntimeError, match="shapes"), computing(torch):
        raise RuntimeError("shapes do not match")
