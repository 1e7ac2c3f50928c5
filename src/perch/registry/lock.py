"""One process at a time pulls or removes the same weights."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from perch.errors import ModelUnavailable

_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Lock:
    """A file that is locked while somebody works; the system unlocks it when that process ends, however."""

    path: Path

    @contextmanager
    def taken_now(self) -> Iterator[None]:
        """Hold it.

        Raises:
            ModelUnavailable: Somebody else does.
        """
        with self._opened() as descriptor:
            if not _try(descriptor):
                raise ModelUnavailable("These weights are being pulled by another process; wait for its end.")
            yield

    @asynccontextmanager
    async def taken(self, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        """Hold it, after whoever does now; ``on_wait`` is called once if somebody does."""
        with self._opened() as descriptor:
            if not _try(descriptor):
                on_wait()
                # The kernel tells only a thread that waits inside it, and that one cannot be cancelled.
                while not _try(descriptor):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_AGAIN_S)
            yield

    @contextmanager
    def _opened(self) -> Iterator[int]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)  # which unlocks; the file stays, or two could hold two files of one name


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
