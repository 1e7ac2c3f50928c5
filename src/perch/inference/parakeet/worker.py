"""The process that holds a model: audio of all streams in, text of each out.

One thread takes what the engine sent, steps whatever is ready in one batch, answers, and begins again. A
library that ends the process, a driver that hangs or memory that runs out ends this process and not the
engine, which starts another.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perch.core.audio import RATE
from perch.errors import EngineFailed, PerchError
from perch.inference.parakeet import wire
from perch.inference.parakeet.backends import backend
from perch.inference.parakeet.batcher import Batcher, Due
from perch.inference.parakeet.calibrate import Report, calibrate, warm_up
from perch.inference.parakeet.device import is_full, is_lost
from perch.inference.parakeet.model import LoadOptions, Model, Piece, Token
from perch.inference.parakeet.words import recognition, text_of

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 1 << 30
"""Bytes of a piece of memory, or of all that is free, beyond which glibc gives it back."""
_READ = 1 << 18
_MOST_SLOTS = {"cpu": 64, "cuda": 560}
"""Tried at the most. On a GPU it is not the GPU that ends there, but the one core on which an engine's process
receives the audio of its streams, 1.3 ms for a second of each; ``--slots`` may say otherwise."""
_RECORDINGS = {"cpu": 4, "cuda": 64}
"""Utterances of recordings at the same time. Enough to fill the device, few enough to keep a step short."""
_PATIENCE = 8
"""Steps of the streams that recordings let pass before they take one, when there is no pause between."""
_RESERVED = 8
"""While somebody speaks, recordings get this part of what they otherwise get in a step."""
_MOST_SAMPLES = {"cpu": 120 * RATE, "cuda": 1200 * RATE}
"""Of one step: memory grows with it, and PyTorch's convolutions take no more than 2³¹ numbers, which 2,621
seconds are in the first of a 0.6 B model."""
_MOST_FAILURES = 8
"""Utterances in a row that fail, each alone in its step, though nothing is said against them: it is the model."""
_BROKEN = 70
"""The status of a process that ends itself (``EX_SOFTWARE``), so that the engine starts another."""


@dataclass(slots=True)
class _Utterance:
    state: Any
    is_recorded: bool = False
    tokens: list[Token] = field(default_factory=list)
    samples: int = 0


class Worker:
    """Serves one engine over ``engine`` with ``model`` until the socket closes."""

    def __init__(self, engine: socket.socket, model: Model, loaded: wire.Loaded) -> None:
        facts = model.facts
        self._engine = engine
        self._model = model
        self._facts = facts
        self._deframer = wire.Deframer()
        self._utterances: dict[int, _Utterance] = {}
        samples = _MOST_SAMPLES[_kind(facts.device)]
        self._batcher = Batcher(
            chunk=facts.chunk, most=loaded.slots, most_samples=samples, context=facts.context
        )
        # Cache-aware models have no other way than piece by piece, and streams get their turn between.
        chunk = facts.chunk if facts.mode == "cache-aware" else 0
        self._recordings = Batcher(chunk=chunk, most=loaded.recordings, most_samples=samples)
        self._most_recorded = loaded.recordings
        self._passed = 0
        self._failures = 0

    def run(self) -> None:
        while self._receive(block=not (self._batcher or self._recordings)):
            if self._recordings and (not self._batcher or self._passed >= _PATIENCE):
                self._passed = 0
                self._step(self._recordings.take(self._recorded_at_once()), self._recordings)
            elif self._batcher:
                self._passed += bool(self._recordings)
                self._step(self._batcher.take(), self._batcher)

    def _recorded_at_once(self) -> int:
        """Pieces of recordings in one step: few while somebody speaks, who would wait for all of them."""
        is_live = any(not utterance.is_recorded for utterance in self._utterances.values())
        return max(1, self._most_recorded // _RESERVED) if is_live else self._most_recorded

    def _receive(self, *, block: bool) -> bool:
        """Take what has come, waiting for it if ``block``; False if the engine has hung up."""
        while block or _has_come(self._engine):
            data = self._engine.recv(_READ)
            if not data:
                return False
            for kind, key, body in self._deframer.feed(data):
                self._take(kind, key, body)
            block = False
        return True

    def _take(self, kind: bytes, key: int, body: bytes) -> None:
        if kind == wire.PING:
            self._send(wire.PONG, key, b"")
            return
        if kind == wire.DROP:
            self._forget(key)
            return
        batcher = self._recordings if kind == wire.WHOLE else self._batcher
        if key not in self._utterances:
            try:
                self._utterances[key] = _Utterance(self._model.begin(), is_recorded=kind == wire.WHOLE)
            except Exception as problem:  # noqa: BLE001 it fails this utterance; the others go on
                traceback.print_exception(problem)
                self._fail(key, problem)
                return
            batcher.begin(key)
        audio = np.frombuffer(body, dtype="<i2").astype(np.float32) / np.float32(32_768)
        self._utterances[key].samples += len(audio)
        batcher.add(key, audio, last=kind in (wire.LAST, wire.WHOLE))

    def _step(self, dues: Sequence[Due], batcher: Batcher) -> None:
        """One step of these pieces, or of half of them at a time, so that one that fails does so alone."""
        pieces = [Piece(self._utterances[due.key].state, due.audio, due.last) for due in dues]
        try:
            added = self._model.step(pieces)
        except Exception as problem:  # noqa: BLE001 every kind of failure of a library is one of the piece's
            traceback.print_exception(problem)
            self._check_model(problem, alone=len(dues) == 1)
            if len(dues) == 1:
                self._fail(dues[0].key, problem)
                return
            if is_full(problem):
                batcher.lighten(dues)
        else:
            self._failures = 0
            batcher.succeeded()
            # In one piece: each that is sent wakes the engine, which has one core for all of them.
            self._engine.sendall(b"".join(map(self._answer, dues, added)))
            return
        # Not in the handler: the failed step's memory is held for as long as its exception is.
        half = len(dues) // 2
        self._step(dues[:half], batcher)
        self._step(dues[half:], batcher)

    def _check_model(self, problem: Exception, *, alone: bool) -> None:
        """End the process if it is the model that fails, and not the piece."""
        if alone and not isinstance(problem, PerchError) and not is_full(problem):
            self._failures += 1
        if is_lost(problem) or self._failures >= _MOST_FAILURES:
            sys.stderr.write("The model can compute no more, so its process ends.\n")
            sys.stderr.flush()
            os._exit(_BROKEN)  # not sys.exit: what a broken driver does at exit may hang

    def _answer(self, due: Due, tokens: list[Token]) -> bytes:
        """What there is to say of a piece."""
        utterance = self._utterances[due.key]
        utterance.tokens += tokens
        if due.last:
            final = recognition(utterance.tokens, samples=utterance.samples, times=self._facts.word_times)
            self._forget(due.key)
            return wire.message(wire.FINAL, due.key, wire.pack(final))
        if utterance.is_recorded or self._batcher.is_ready(due.key):
            return b""
        return wire.message(wire.TEXT, due.key, text_of(utterance.tokens).encode())

    def _fail(self, key: int, problem: Exception) -> None:
        self._forget(key)
        message = (
            problem.message if isinstance(problem, PerchError) else f"{type(problem).__name__} in the model"
        )
        self._send(wire.FAILED, key, message.encode())

    def _forget(self, key: int) -> None:
        self._batcher.drop(key)
        self._recordings.drop(key)
        utterance = self._utterances.pop(key, None)
        if utterance is not None:
            self._model.end(utterance.state)

    def _send(self, kind: bytes, key: int, body: bytes) -> None:
        self._engine.sendall(wire.message(kind, key, body))


def _has_come(engine: socket.socket) -> bool:
    return bool(select.select([engine], [], [], 0)[0])


def _kind(device: str) -> str:
    return "cuda" if device.startswith("cuda") else "cpu"


class _HungUp(BaseException):
    """The engine is gone, and with it the need for a model. No ``Exception``, which would be told to it."""


def _tell(engine: socket.socket, kind: bytes, body: bytes) -> None:
    """What there is to say before and when the model is loaded.

    Raises:
        _HungUp: Nobody is there to hear it.
    """
    try:
        engine.sendall(wire.message(kind, body=body))
    except ConnectionError as error:
        raise _HungUp from error


def _load(
    engine: socket.socket, name: str, options: LoadOptions, slots: int | None
) -> tuple[Model, wire.Loaded]:
    def report(progress: str) -> None:
        _tell(engine, wire.PROGRESS, progress.encode())

    report(f"loading {options.name} from {options.path} with {name}")
    model = backend(name)(options)
    _keep_freed_memory()
    kind = _kind(model.facts.device)
    recordings = _RECORDINGS[kind]
    if slots is None:
        slots = calibrate(model, most=_MOST_SLOTS[kind], besides=recordings, report=report)
    slots, recordings = _reserve(model, slots, recordings, report=report)
    warm_up(model)
    return model, wire.Loaded(model.facts, slots, recordings)


def _reserve(model: Model, slots: int, recordings: int, *, report: Report) -> tuple[int, int]:
    """Make room for as many of ``slots`` streams as fit beside the recordings, and return how many of both.

    Where there is not even room for one stream, it is the recordings that become fewer.

    Raises:
        MemoryError: There is no room for one of each.
    """
    while True:
        try:
            model.reserve(slots + recordings)
        except MemoryError:
            if slots > 1:
                report(f"There is no memory for {slots} streams; trying {slots // 2}.")
                slots //= 2
            elif recordings > 1:
                recordings //= 2
            else:
                raise
        else:
            return slots, recordings


def _refusal(problem: Exception) -> bytes:
    if isinstance(problem, PerchError):
        return json.dumps([problem.code, problem.message]).encode()
    if isinstance(problem, MemoryError):
        return json.dumps([EngineFailed.code, "There is not enough memory for the model."]).encode()
    traceback.print_exception(problem)
    told = f"The model cannot be loaded: {type(problem).__name__}: {problem}"
    return json.dumps([EngineFailed.code, told]).encode()


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next step, which needs as much again.

    Otherwise it gives all larger pieces back to the kernel and takes them anew, empty, at every step: on a CPU
    that was a sixth of the time of six streams. After loading, as what that leaves is not needed again.
    """
    if adjust := getattr(ctypes.CDLL(None), "mallopt", None):
        adjust(_M_MMAP_THRESHOLD, _KEPT)
        adjust(_M_TRIM_THRESHOLD, _KEPT)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the engine ends, even while it computes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """``python -m perch.inference.parakeet.worker FD PARENT JSON``, on an inherited socket."""
    engine = socket.socket(fileno=int(sys.argv[1]))
    _die_with(int(sys.argv[2]))
    order = json.loads(sys.argv[3])
    options = LoadOptions(**{**order["options"], "languages": tuple(order["options"]["languages"])})
    with engine, suppress(_HungUp, ConnectionError):  # the latter while an answer is on its way
        try:
            model, loaded = _load(engine, order["backend"], options, order["slots"])
        except Exception as problem:  # noqa: BLE001 whatever it is, the engine is told
            _tell(engine, wire.REFUSED, _refusal(problem))
            return
        _tell(engine, wire.LOADED, wire.pack_loaded(loaded))
        Worker(engine, model, loaded).run()


if __name__ == "__main__":
    main()
