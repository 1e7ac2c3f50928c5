"""Slots: how many streams are recognised at once, counted exactly.

A slot is leased together with its voice and given back only when that voice is closed, so what is
counted is what the recogniser holds. A caller who is cancelled, fails or never closes leaks nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from perch.core.speech import RecognitionConfig
from perch.engine.voice import TimedVoice, in_time
from perch.errors import EngineFailed, EngineFull
from perch.inference.recogniser import Recogniser, Voice

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0


class Room:
    """Room for so many at a time, counted exactly. One per process.

    Args:
        most: How many there is room for.
        what: What they are, for whoever comes too late.
    """

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self._what = what
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place, for as long as the block lasts.

        Raises:
            EngineFull: Every place is taken.
        """
        if self._taken >= self.most:
            raise EngineFull(
                f"This engine has {self.most} {self._what} at work, and no room for more; try again shortly.",
                retry_after=RETRY_AFTER_S,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Scheduler:
    """Hands out voices of one recogniser, at most ``slots`` at a time. One per process."""

    def __init__(self, recogniser: Recogniser, *, slots: int, timeout_s: float) -> None:
        self._recogniser = recogniser
        self._timeout_s = timeout_s
        self._closing: set[asyncio.Task[None]] = set()
        self._all_free = asyncio.Event()
        self._all_free.set()
        self.slots = slots
        self.taken = 0

    @asynccontextmanager
    async def lease(self, config: RecognitionConfig) -> AsyncIterator[TimedVoice]:
        """A voice and the slot it occupies, for as long as the block lasts.

        Leaving the block closes the voice even if the caller is cancelled again meanwhile.

        Raises:
            EngineFull: Every slot is taken.
            EngineFailed: The recogniser is not running, or did not open a voice in time.
        """
        self._take()
        try:
            voice = await in_time(self._recogniser.open(config), self._timeout_s)
        except BaseException:
            self._give_back()
            raise
        try:
            yield TimedVoice(voice, timeout_s=self._timeout_s)
        finally:
            await asyncio.shield(self._start_closing(voice))

    async def aclose(self) -> None:
        """Wait until every slot is given back: a cancelled call takes a moment to end."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._all_free.wait()
        except TimeoutError:
            log.warning("%d streams did not end", self.taken)

    def _take(self) -> None:
        if self.taken >= self.slots:
            raise EngineFull(
                f"All {self.slots} streams of this engine are in use; try again shortly.",
                retry_after=RETRY_AFTER_S,
            )
        self.taken += 1
        self._all_free.clear()

    def _give_back(self) -> None:
        self.taken -= 1
        if not self.taken:
            self._all_free.set()

    def _start_closing(self, voice: Voice) -> asyncio.Task[None]:
        task = asyncio.create_task(self._close(voice), name="close voice")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _close(self, voice: Voice) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await voice.aclose()
        except (TimeoutError, EngineFailed) as error:
            log.warning("a voice did not close: %r", error)
        finally:
            self._give_back()
