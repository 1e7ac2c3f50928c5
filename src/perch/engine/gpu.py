"""What the GPUs of this machine have in use, asked of the driver's own tool.

The model lives in another process and may be of any library, so no library can tell; ``nvidia-smi`` is in
every container that has a GPU.
"""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits")
DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Of all GPUs that are visible here together, in MiB; by every process, not only this engine's."""

    used: int = 0
    total: int = 0


async def gpu_memory() -> GpuMemory:
    """The memory in use and in all; zeros where there is no GPU or its driver does not answer."""
    try:
        process = await asyncio.create_subprocess_exec(*QUERY, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    except OSError:
        return GpuMemory()
    try:
        async with asyncio.timeout(DEADLINE_S):
            answer, _ = await process.communicate()
    except TimeoutError:
        return GpuMemory()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    return parse(answer.decode(errors="replace")) if process.returncode == 0 else GpuMemory()


def parse(answer: str) -> GpuMemory:
    """The sum over an answer's lines, ``used, total`` each; a GPU that does not say (``[N/A]``) counts nothing."""
    rows = [line.split(",") for line in answer.splitlines()]
    known = [row for row in rows if len(row) == 2 and all(cell.strip().isdigit() for cell in row)]
    return GpuMemory(sum(int(used) for used, _ in known), sum(int(total) for _, total in known))


def in_gigabytes(mebibytes: int) -> str:
    """As registries show it: ``4.2GB``."""
    return f"{mebibytes / 1024:.1f}GB"
