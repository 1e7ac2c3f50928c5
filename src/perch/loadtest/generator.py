"""The load generator, a process of its own so that nothing else in it can make a frame late.

``python -m perch.loadtest.generator`` reads a job (one line of JSON), says ``ready``, reads the time at which to
begin (a line, of the machine's monotonic clock), says every half second how it goes, and writes its log.
"""

import asyncio
import os
import resource
import ssl
import sys
from array import array
from contextlib import suppress
from pathlib import Path
from time import perf_counter, process_time
from urllib.parse import urlsplit

import orjson
import uvloop

from perch.loadtest import clips
from perch.loadtest.pacer import Pacer
from perch.loadtest.records import Job, Log, Session, Target, job_from_json, log_to_json
from perch.loadtest.session import StreamSession, opening

_PROGRESS_S = 0.5
_PAUSE_S = 1.0
"""Between a session that failed and the user's next, so that a broken gateway is not stormed."""
_LEAST_S = 1.0
"""A session shorter than this is not begun at the end of a step."""


class Generator:
    """Holds ``job.users`` sessions open for as long as the schedule says."""

    def __init__(self, job: Job, recordings: list[clips.Clip], begin: float) -> None:
        self._job = job
        self._clips = recordings
        self._begin = begin
        self._window = (begin + job.schedule.measured_from, begin + job.schedule.measured_until)
        self._address = urlsplit(job.target.url)
        self._opening = opening(job.target)
        self._tls = tls_context(job.target)
        self._late = array("d")
        self._audio_s = 0.0
        self._pacer = Pacer(self._count)
        self._sessions: list[Session] = []
        self._open: set[StreamSession] = set()

    async def run(self) -> Log:
        """The whole step. Cancelling it cuts sessions off, and still returns what there is."""
        cpu = asyncio.create_task(self._cpu())
        pacing = asyncio.create_task(self._pacer.run())
        telling = asyncio.create_task(self._tell())
        users = [asyncio.create_task(self._user(number)) for number in self._job.users]
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*users)
        finally:
            held = len(self._open)
            for task in (*users, pacing, telling):
                task.cancel()
            await asyncio.gather(*users, pacing, telling, return_exceptions=True)
        used = cpu.result() if cpu.done() else 0.0
        cpu.cancel()
        return Log(self._sessions, [round(late, 2) for late in self._late], self._audio_s, used, held)

    # --- one user after another session ------------------------------------------------------------------

    async def _user(self, number: int) -> None:
        schedule = self._job.schedule
        ends = self._begin + schedule.ends(number)
        length = schedule.first_session_s(number)
        turn = 0
        await _sleep_until(self._begin + schedule.starts(number))
        while ends - perf_counter() > _LEAST_S or turn == 0:
            session = await self._session(number, turn, min(perf_counter() + length, ends))
            length = schedule.session_s
            turn += 1
            if session.refused:
                return  # it was told to come back later, or to go elsewhere
            if session.failed:
                await asyncio.sleep(_PAUSE_S)

    async def _session(self, number: int, turn: int, until: float) -> Session:
        stream: StreamSession | None = None
        try:
            stream = await self._connect()
            await self._converse(stream, number, turn, until)
            record = stream.record
        except (OSError, TimeoutError) as error:
            record = Session(_cannot_connect(error))
        except asyncio.CancelledError:
            record = stream.record if stream is not None else Session()
            record.outcome = record.outcome or "cut"
            raise
        finally:
            if stream is not None:
                stream.leave()
                self._open.discard(stream)
            self._sessions.append(record)
        return record

    async def _connect(self) -> StreamSession:
        address = self._address
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._job.target.timeout_s):
            _, stream = await loop.create_connection(
                lambda: StreamSession(self._opening, self._is_measured),
                address.hostname or "",
                address.port or (443 if self._tls else 80),
                ssl=self._tls,
            )
        self._open.add(stream)
        return stream

    async def _converse(self, stream: StreamSession, number: int, turn: int, until: float) -> None:
        timeout_s = self._job.target.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await stream.ready.wait()
            if not stream.over:
                clip = self._clips[(number + turn) % len(self._clips)]
                await self._pacer.speak(stream, clip, turn, until)
                stream.stop()
            async with asyncio.timeout(timeout_s):
                await stream.ended.wait()
        except TimeoutError:
            stream.fail("silent")

    # --- what is counted -------------------------------------------------------------------------------

    def _is_measured(self, sent: float) -> bool:
        return self._window[0] <= sent < self._window[1]

    def _count(self, due: float, sent: float) -> None:
        if self._is_measured(due):
            self._late.append(1000 * (sent - due))
            self._audio_s += clips.FRAME_S

    async def _cpu(self) -> float:
        """CPU seconds of this process in the measured window."""
        await _sleep_until(self._window[0])
        before = process_time()
        await _sleep_until(self._window[1])
        return process_time() - before

    async def _tell(self) -> None:
        while True:
            failed = sum(session.failed for session in self._sessions)
            refused = sum(session.refused for session in self._sessions)
            say({"open": len(self._open), "failed": failed, "refused": refused})
            await asyncio.sleep(_PROGRESS_S)


def tls_context(target: Target) -> ssl.SSLContext | None:
    """How to trust the gateway; None for one without TLS."""
    if urlsplit(target.url).scheme != "wss":
        return None
    context = ssl.create_default_context(cafile=target.ca or None)
    if target.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def raise_open_files() -> int:
    """Allow this process as many open files as the system lets it have; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def say(progress: dict[str, int] | str) -> None:
    sys.stdout.buffer.write(orjson.dumps(progress) + b"\n")
    sys.stdout.buffer.flush()


def _cannot_connect(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "connect_timeout"
    return f"cannot_connect ({os.strerror(error.errno) if error.errno else type(error).__name__})"


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(due - perf_counter(), 0))


async def _until_told(task: asyncio.Task[Log]) -> Log:
    """The log of ``task``; when standard input ends, the parent wants it now."""
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def cancel() -> None:
        loop.remove_reader(stdin)  # an end stays readable, and the task is to be cancelled once
        task.cancel()

    loop.add_reader(stdin, cancel)
    try:
        return await task
    finally:
        loop.remove_reader(stdin)


async def _main() -> None:
    raise_open_files()
    stdin = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: ASYNC230, SIM115 - reads no further than a line
    job = job_from_json(stdin.readline())
    recordings = clips.load([Path(name) for name in job.clips])
    say("ready")
    if not (begin := stdin.readline()):
        return  # the step was given up before it began
    log = await _until_told(asyncio.create_task(Generator(job, recordings, float(begin)).run()))
    sys.stdout.buffer.write(log_to_json(log) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the parent decides
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
