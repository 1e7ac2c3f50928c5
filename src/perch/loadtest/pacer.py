"""Sends each session's frame every 100 ms, for thousands of sessions at the cost of one timer each millisecond.

A task with a sleep of its own for each session would spend more on waking up than on sending.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter

from perch.loadtest.clips import FRAME_S, Clip
from perch.loadtest.session import StreamSession

_BUCKETS = 100
_TICK_S = FRAME_S / _BUCKETS


@dataclass(slots=True, eq=False)
class _Speaker:
    session: StreamSession
    frames: Iterator[bytes]
    until: float
    finished: asyncio.Event


class Pacer:
    """A wheel: each speaker stands in one of a hundred places, and is due once in every turn.

    Args:
        sent: Told of each frame: when it was due and when it was written.
    """

    def __init__(self, sent: Callable[[float, float], None]) -> None:
        self._sent = sent
        self._places: list[list[_Speaker]] = [[] for _ in range(_BUCKETS)]
        self._began = perf_counter()
        self._ticks = 0

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            due = self._began + self._ticks * _TICK_S
            if (wait := due - perf_counter()) > 0:
                await asyncio.sleep(wait)
            elif self._ticks % _BUCKETS == 0:
                await asyncio.sleep(0)  # behind: the answers have to be read all the same
            self._tick(due)
            self._ticks += 1

    async def speak(self, session: StreamSession, clip: Clip, offset: int, until: float) -> None:
        """Send ``clip`` from frame ``offset`` on, over and over, until that time or the session's end."""
        frames = cycle(clip.frames)
        speaker = _Speaker(session, islice(frames, offset % len(clip.frames), None), until, asyncio.Event())
        place = self._places[(self._ticks - 1) % _BUCKETS]  # first due in one turn: 100 ms have been spoken
        place.append(speaker)
        try:
            await speaker.finished.wait()
        finally:
            if speaker in place:
                place.remove(speaker)

    def _tick(self, due: float) -> None:
        place = self._places[self._ticks % _BUCKETS]
        for speaker in place:
            if speaker.session.over or due > speaker.until:
                speaker.finished.set()
            else:
                self._sent(due, speaker.session.send(next(speaker.frames)))
        if any(speaker.finished.is_set() for speaker in place):
            place[:] = [speaker for speaker in place if not speaker.finished.is_set()]
