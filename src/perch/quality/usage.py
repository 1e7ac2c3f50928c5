"""What the server uses: its own ``/metrics``, or a process of this machine with all its children."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import aiohttp

from perch.errors import BadConfig

_POLL_S = 1.0
_DEADLINE_S = 5.0
_CPU = re.compile(r"^process_cpu_seconds_total (\S+)", re.MULTILINE)
_MEMORY = re.compile(r"^process_resident_memory_bytes (\S+)", re.MULTILINE)
_NVIDIA_SMI = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of CPU, most bytes of memory and, where there is a GPU, its highest load and memory."""

    cpu_s: float
    memory_bytes: int
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None


class Meter(Protocol):
    """Reads what a server has used so far; None if it does not say."""

    async def read(self) -> Usage | None: ...


@dataclass(frozen=True)
class MetricsMeter:
    """The gateway process alone, by its ``/metrics``: not the engine behind it."""

    http: aiohttp.ClientSession
    url: str
    options: dict[str, object] = field(default_factory=dict)

    async def read(self) -> Usage | None:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self.http.get(self.url, timeout=timeout, **self.options) as answer:  # type: ignore[arg-type]
                return from_metrics(await answer.text()) if answer.status == 200 else None
        return None


class ProcessMeter:
    """A process and all its descendants.

    Of a child that ends, its CPU time up to the last reading still counts.

    Raises:
        BadConfig: There is no such process, or psutil is missing.
    """

    def __init__(self, pid: int) -> None:
        try:
            import psutil  # noqa: PLC0415 an extra
        except ImportError as error:
            raise BadConfig("--pid needs psutil: pip install 'perch-asr[quality]'") from error
        self._psutil = psutil
        try:
            self._root = psutil.Process(pid)
        except psutil.Error as error:
            raise BadConfig(f"There is no process {pid} to measure.") from error
        self._cpu_s: dict[tuple[int, float], float] = {}

    async def read(self) -> Usage | None:
        memory = 0
        with suppress(self._psutil.Error):
            for process in (self._root, *self._root.children(recursive=True)):
                with suppress(self._psutil.Error):
                    times = process.cpu_times()
                    self._cpu_s[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_info().rss
        return Usage(sum(self._cpu_s.values()), memory) if memory else None


class Watch:
    """The readings of a while. ``used`` is known when it is over."""

    def __init__(self) -> None:
        self.used: Usage | None = None
        self._readings: list[Usage] = []

    def add(self, reading: Usage | None) -> None:
        if reading is not None:
            self._readings.append(reading)
            self.used = _between(self._readings)


@asynccontextmanager
async def watching(meter: Meter, *, gpu: bool = False) -> AsyncIterator[Watch]:
    """Read ``meter`` now, every second, and at the end."""
    watch = Watch()
    watch.add(await _reading(meter, gpu=gpu))
    polling = asyncio.create_task(_poll(watch, meter, gpu=gpu))
    try:
        yield watch
    finally:
        polling.cancel()
        await asyncio.wait([polling])
        watch.add(await _reading(meter, gpu=gpu))


def from_metrics(exposition: str) -> Usage | None:
    """The process figures in a Prometheus exposition."""
    cpu, memory = _CPU.search(exposition), _MEMORY.search(exposition)
    return Usage(float(cpu[1]), int(float(memory[1]))) if cpu and memory else None


def from_nvidia_smi(output: str) -> tuple[float, float] | None:
    """Highest load in percent and all memory in MiB, of the lines ``load, memory`` of each GPU."""
    rows = [line.split(",") for line in output.splitlines() if line.count(",") == 1]
    try:
        loads, memory = zip(*[(float(load), float(used)) for load, used in rows], strict=True)
    except ValueError:
        return None  # no GPU, or one that does not tell ("[N/A]")
    return max(loads), sum(memory)


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


async def _poll(watch: Watch, meter: Meter, *, gpu: bool) -> None:
    while True:
        await asyncio.sleep(_POLL_S)
        watch.add(await _reading(meter, gpu=gpu))


async def _reading(meter: Meter, *, gpu: bool) -> Usage | None:
    usage = await meter.read()
    if usage is None or not gpu or (found := await _gpu()) is None:
        return usage
    return replace(usage, gpu_percent=found[0], gpu_memory_mib=found[1])


async def _gpu() -> tuple[float, float] | None:
    with suppress(OSError, TimeoutError):
        process = await asyncio.create_subprocess_exec(
            "nvidia-smi",
            *_NVIDIA_SMI,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_DEADLINE_S):
            output, _ = await process.communicate()
        return from_nvidia_smi(output.decode())
    return None


def _between(readings: Sequence[Usage]) -> Usage:
    loads = [one.gpu_percent for one in readings if one.gpu_percent is not None]
    memory = [one.gpu_memory_mib for one in readings if one.gpu_memory_mib is not None]
    return Usage(
        cpu_s=readings[-1].cpu_s - readings[0].cpu_s,
        memory_bytes=max(one.memory_bytes for one in readings),
        gpu_percent=max(loads, default=None),
        gpu_memory_mib=max(memory, default=None),
    )
