"""Nothing may be left behind: tasks, descriptors, places, streams on engines, files, memory."""

import asyncio
import ctypes
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psutil

from gateways import Gateway
from perch.asr.pool import EndpointPool

_MIB = 1 << 20
_PATIENCE_S = 10.0
_LOOK_S = 0.05
_LIBC = ctypes.CDLL(None)


@asynccontextmanager
async def no_leaks(*, rss_mib: float = 48.0, patience_s: float = _PATIENCE_S) -> AsyncIterator[None]:
    """Everything the block made in this process is gone soon after it, and memory back to ``rss_mib`` of what it was.

    What is made once and kept (gRPC's poller, imported modules) has to be there before: run the same thing
    once outside.
    """
    with tempfile.TemporaryDirectory() as directory:
        usual, tempfile.tempdir = tempfile.tempdir, directory
        try:
            before = _Census()
            with memory_within(rss_mib):
                yield
                await _until(lambda: _Census().beyond(before), patience_s)
            left = os.listdir(directory)  # noqa: PTH208 - asyncio frowns on paths more
            assert not left, f"temporary files left behind: {left}"
        finally:
            tempfile.tempdir = usual


@contextmanager
def memory_within(mib: float) -> Iterator[None]:
    """After the block this process holds less than ``mib`` more than before it."""
    before = _resident_mib()
    yield
    grown = _resident_mib() - before
    assert grown < mib, f"{grown:.1f} MiB more than before"


async def at_rest(
    gateway: Gateway, pool: EndpointPool | None = None, *, patience_s: float = _PATIENCE_S
) -> None:
    """Wait until the gateway holds no place, no session and no stream on any engine.

    Raises:
        AssertionError: It still does; says what.
    """

    def held() -> dict[str, int]:
        counts = {"leases": gateway.parts.admission.active, "sessions": len(gateway.parts.sessions)}
        for endpoint in [] if pool is None else pool.endpoints:
            counts[f"streams on {endpoint.address}"] = endpoint.active
            counts[f"probes of {endpoint.address}"] = endpoint.probing
        return {name: count for name, count in counts.items() if count}

    await _until(held, patience_s)


class _Census:
    """What this process has open."""

    def __init__(self) -> None:
        gc.collect()
        process = psutil.Process()
        self.tasks = asyncio.all_tasks()
        self.descriptors = process.num_fds()
        self.children = {child.pid for child in process.children() if child.status() != psutil.STATUS_ZOMBIE}

    def beyond(self, before: "_Census") -> dict[str, object]:
        """What there is now and was not ``before``; a task may end, never appear."""
        more = {
            "tasks": [task for task in self.tasks - before.tasks if not task.done()],
            "descriptors": max(0, self.descriptors - before.descriptors),
            "processes": self.children - before.children,
        }
        return {name: items for name, items in more.items() if items}


async def _until(held: Callable[[], object], patience_s: float) -> None:
    """Poll, because nothing announces the end of a descriptor."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while left := held():
        assert loop.time() < deadline, f"left behind: {left}"
        await asyncio.sleep(_LOOK_S)


def _resident_mib() -> float:
    """What is really in use: freed memory that the allocator kept is given back first."""
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
    return float(psutil.Process().memory_info().rss) / _MIB
