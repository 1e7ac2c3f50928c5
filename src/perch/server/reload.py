"""Files that may change while the gateway runs, looked at by one task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

_EVERY_S = 1.0

Stamp = tuple[tuple[int, int, int] | None, ...]


class Reloadable(Protocol):
    """What is read from files."""

    def stamp(self) -> Stamp:
        """What tells one version of its files from the next; may block."""
        ...

    async def reload(self) -> None:
        """Take the files as they are now; keep what it has, and say so in the log, if they are no good."""
        ...


def stamp_of(*paths: Path) -> Stamp:
    """Time, size and inode of each file; None for one that is not there."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@asynccontextmanager
async def watching(*things: Reloadable, every_s: float = _EVERY_S) -> AsyncIterator[None]:
    """Reload each of ``things`` within about ``every_s`` of a change, while the block runs."""
    task = asyncio.create_task(_watch(things, every_s), name="file-watch") if things else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _reload(thing: Reloadable) -> None:
    try:
        await thing.reload()
    except Exception:
        log.exception("reload_broke")  # what is not reloaded goes on as it was, and so must the watch


async def _watch(things: tuple[Reloadable, ...], every_s: float) -> None:
    seen: list[Stamp | None] = [None] * len(things)
    while True:
        for index, thing in enumerate(things):
            stamp = await asyncio.to_thread(thing.stamp)  # a network file system may take its time
            if stamp != seen[index]:
                if seen[index] is not None:
                    await _reload(thing)
                seen[index] = stamp
        await asyncio.sleep(every_s)
