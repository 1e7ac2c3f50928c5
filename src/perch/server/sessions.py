"""What is open in this process, and waiting for it to be over."""

import asyncio
from collections.abc import Iterator
from typing import Protocol

from perch.errors import PerchError


class Open(Protocol):
    """A connection, or the transcription of a recording."""

    def check_idle(self) -> None:
        """End it if nothing has come from its client for too long."""
        ...

    def notify(self, code: str, message: str) -> None:
        """Tell its client something it need not act on."""
        ...

    def abort(self, error: PerchError) -> None:
        """End it from outside."""
        ...


class OpenSessions:
    """A set whose emptiness can be awaited."""

    def __init__(self) -> None:
        self._open: set[Open] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Open]:
        return iter(tuple(self._open))

    def add(self, session: Open) -> None:
        self._open.add(session)
        self._empty.clear()

    def discard(self, session: Open) -> None:
        self._open.discard(session)
        if not self._open:
            self._empty.set()

    async def wait_empty(self) -> None:
        await self._empty.wait()
