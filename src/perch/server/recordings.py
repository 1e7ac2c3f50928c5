"""One recording from a file to its transcript, by the road that live audio takes.

It is decoded in a thread, piece by piece, no faster than the engine takes it and its caller may send it, so a
recording of any length takes the memory of a minute.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from aiohttp import web

from perch import errors
from perch.asr.base import ASRClient, ASRStream
from perch.audio.files import channels_of, decode_file, probe
from perch.core.audio import RATE, bytes_to_samples, samples_to_seconds
from perch.core.messages import Final, Notice
from perch.core.speech import Hypothesis, RecognitionConfig
from perch.core.transcript import SegmentNumbers, Transcript
from perch.server.admission import Lease

_PIECE = 10 * RATE
_AHEAD = 30 * RATE
_LONGEST_S = 4 * 3600.0
_MOST_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Transcribed:
    """What was said on each channel, and how long the recording is."""

    channels: tuple[tuple[Final, ...], ...]
    samples: int


class Recording:
    """The transcription of one uploaded recording, counted among the open sessions.

    Args:
        client: The engine.
        lease: Its place; what it sends is counted on it.
        request: Whose it is: a client that goes away ends it. None if nobody waits.
        on_final: Called with each final as it comes.
        on_progress: Called with the seconds that the engine has taken, and those there are, if known.
    """

    def __init__(
        self,
        client: ASRClient,
        lease: Lease,
        request: web.Request | None,
        *,
        on_final: Callable[[Final], None] = lambda _: None,
        on_progress: Callable[[float, float | None], None] = lambda *_: None,
    ) -> None:
        self._client = client
        self._lease = lease
        self._request = request
        self._on_final = on_final
        self._on_progress = on_progress
        self._aborted: asyncio.Future[errors.PerchError] = asyncio.get_running_loop().create_future()
        self._samples = 0

    def check_idle(self) -> None:
        """Its client has sent all there is."""

    def notify(self, code: str, message: str) -> None:
        """There is nobody to tell before the answer."""

    def abort(self, error: errors.PerchError) -> None:
        """End it from outside."""
        if not self._aborted.done():
            self._aborted.set_result(error)

    async def transcribe(
        self,
        file: BinaryIO,
        recognition: RecognitionConfig,
        *,
        separate: bool = False,
        longest_s: float = _LONGEST_S,
    ) -> Transcribed:
        """Recognise ``file``, each of its channels by itself if they are to be kept ``separate``.

        Raises:
            BadAudio: It is no recording, or longer than ``longest_s``.
            PerchError: It cannot be recognised, or has been aborted.
        """
        count = await asyncio.to_thread(_channels, file) if separate else None
        total_s = await asyncio.to_thread(_length, file)
        streams = [self._client.stream(recognition, recording=True) for _ in range(count or 1)]
        numbers = SegmentNumbers()
        transcripts = [Transcript(channel=k, numbers=numbers) for k in range(len(streams))]
        finals: list[list[Final]] = [[] for _ in streams]

        def deliver(channel: int, heard: Hypothesis | Notice) -> None:
            if isinstance(heard, Hypothesis):
                for event in transcripts[channel].receive(heard):
                    if isinstance(event, Final) and event.text:
                        finals[channel].append(event)
                        self._on_final(event)

        pieces = decode_file(file, chunk=_PIECE, max_seconds=longest_s, channels=count)
        work = [self._feed(pieces, streams, total_s)]
        work += [stream.run(partial(deliver, channel)) for channel, stream in enumerate(streams)]
        await self._together(work)
        return Transcribed(tuple(tuple(said) for said in finals), self._samples)

    async def _together(self, work: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Do all of ``work``; the first failure, an abort or a client that has gone ends it."""
        tasks = {asyncio.create_task(one) for one in work}
        watching = asyncio.create_task(self._until_ended())
        try:
            waiting = {*tasks, watching}
            while waiting != {watching}:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in {*tasks, watching}:
                task.cancel()
            await asyncio.wait({*tasks, watching})

    async def _until_ended(self) -> None:
        """Until something outside ends it, which is raised."""
        while True:
            done, _ = await asyncio.wait([self._aborted], timeout=1.0)
            if done:
                raise self._aborted.result()
            if self._request is None:
                continue
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise errors.BadMessage("The client has gone.")

    async def _feed(
        self, pieces: Generator[bytes, None, None], streams: Sequence[ASRStream], total_s: float | None
    ) -> None:
        try:
            await self._feed_all(pieces, streams, total_s)
        finally:
            pieces.close()

    async def _feed_all(
        self, pieces: Generator[bytes, None, None], streams: Sequence[ASRStream], total_s: float | None
    ) -> None:
        while piece := await _in_thread(pieces):
            for stream, pcm in zip(streams, _apart(piece, len(streams)), strict=True):
                stream.send(pcm)
            self._samples += bytes_to_samples(len(piece)) // len(streams)
            await self._spend(samples_to_seconds(bytes_to_samples(len(piece))))
            for stream in streams:
                await stream.room(_AHEAD)
            self._on_progress(samples_to_seconds(self._samples), total_s)
        for stream in streams:
            stream.end()

    async def _spend(self, seconds: float) -> None:
        """A caller with a limit per minute waits for it: its recording is not refused half way."""
        try:
            self._lease.spend(seconds)
        except errors.RateLimited as limited:
            await asyncio.sleep(limited.retry_after or 1.0)


async def _in_thread(pieces: Iterator[bytes]) -> bytes:
    """The next piece. Who cancels this waits for the thread: the file it reads must outlive it."""
    reading = asyncio.ensure_future(asyncio.to_thread(next, pieces, b""))
    try:
        return await asyncio.shield(reading)
    finally:
        await asyncio.wait([reading])


def _channels(file: BinaryIO) -> int:
    found = channels_of(file)
    file.seek(0)
    if not 1 <= found <= _MOST_CHANNELS:
        raise errors.BadAudio(f"The recording has {found} channels; send up to {_MOST_CHANNELS}.")
    return found


def _length(file: BinaryIO) -> float | None:
    seconds = probe(file)
    file.seek(0)
    return seconds


def _apart(piece: bytes, channels: int) -> list[bytes]:
    if channels == 1:
        return [piece]
    samples = np.frombuffer(piece, dtype="<i2").reshape(-1, channels)
    return [samples[:, channel].tobytes() for channel in range(channels)]
