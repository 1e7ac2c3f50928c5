"""Voices and detectors none of whose answers is waited for longer than a deadline."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from perch.errors import EngineFailed
from perch.inference.recogniser import Recognition, SpeechDetector, Voice

T = TypeVar("T")


async def in_time(answer: Awaitable[T], timeout_s: float) -> T:
    """What the recogniser answers.

    Raises:
        EngineFailed: It did not answer within ``timeout_s``.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError as error:
        raise EngineFailed(f"The recogniser did not answer in {timeout_s:g} s.") from error


class TimedVoice:
    """``Voice`` with every answer under ``timeout_s`` seconds: a stuck worker fails its stream."""

    def __init__(self, voice: Voice, *, timeout_s: float) -> None:
        self._voice = voice
        self._timeout_s = timeout_s

    async def feed(self, pcm: bytes) -> str | None:
        return await in_time(self._voice.feed(pcm), self._timeout_s)

    async def finish(self) -> Recognition:
        return await in_time(self._voice.finish(), self._timeout_s)


class TimedDetector:
    """``SpeechDetector`` under the same rule."""

    def __init__(self, detector: SpeechDetector, *, timeout_s: float) -> None:
        self._detector = detector
        self._timeout_s = timeout_s

    async def probabilities(self, pcm: bytes) -> Sequence[float]:
        return await in_time(self._detector.probabilities(pcm), self._timeout_s)
