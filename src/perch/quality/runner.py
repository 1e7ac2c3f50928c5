"""All clips of a manifest against one server."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from perch.quality.client import Target, stream
from perch.quality.figures import Figures, measure
from perch.quality.manifest import Clip
from perch.quality.recording import record
from perch.quality.usage import Meter, Usage, watching


@dataclass(frozen=True, slots=True)
class Plan:
    """How to send the clips: how often each, how many at once, and how many times as fast as speech."""

    repeats: int = 1
    jobs: int = 1
    pace: float = 1.0
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan: the figures in the order of the clips, and what the server used for all of them."""

    plan: Plan
    ready: dict[str, Any]
    figures: Sequence[Figures]
    usage: Usage | None = None
    manifest: str = ""
    server: str = ""
    covers: str = ""
    """Which processes ``usage`` is about."""

    @property
    def audio_s(self) -> float:
        return sum(one.audio_s for one in self.figures)


async def measure_all(
    http: aiohttp.ClientSession,
    target: Target,
    clips: Sequence[Clip],
    *,
    plan: Plan,
    meter: Meter,
    tell: Callable[[Figures], None],
) -> tuple[list[Figures], Usage | None]:
    """Send every clip; ``tell`` hears of each as it is done.

    Raises:
        BadAudio: A clip is no audio.
        OSError: A clip cannot be read.
    """
    slots = asyncio.Semaphore(plan.jobs)

    async def one(clip: Clip, repeat: int) -> Figures:
        async with slots:
            recording = await asyncio.to_thread(record, clip)
            async with watching(meter, gpu=plan.gpu) as watch:
                heard = await stream(http, target, recording, pace=plan.pace)
        usage = watch.used if plan.jobs == 1 else None
        figures = measure(clip, recording, heard, repeat=repeat, usage=usage)
        tell(figures)
        return figures

    async with watching(meter, gpu=plan.gpu) as whole:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(one(clip, repeat))
                for repeat in range(1, plan.repeats + 1)
                for clip in clips
            ]
    return [task.result() for task in tasks], whole.used
