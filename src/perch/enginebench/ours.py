"""Perch's side: streams of a model in its worker process, by the road that the engine takes, without gRPC."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import perf_counter

from perch.core.audio import ms_to_samples, samples_to_bytes
from perch.core.speech import RecognitionConfig
from perch.enginebench import proc
from perch.enginebench.figures import Answer, Round, Said
from perch.enginebench.script import Cue, cues
from perch.inference.parakeet.recogniser import ModelRecogniser, ModelVoice

_WARM_CUES = 3


class Ours:
    """A loaded model and what is said to it."""

    def __init__(self, recogniser: ModelRecogniser, clips: Sequence[bytes]) -> None:
        self._recogniser = recogniser
        self._clips = clips
        self._chunk = chunk_of(recogniser)

    async def warm(self, streams: int) -> None:
        """Let libraries do what they do only once, with as many streams as will be measured."""
        await asyncio.gather(*(self._warm(script) for script in self._script(streams)))

    async def live(self, streams: int, seconds: float) -> Round:
        """Every piece is sent when its last sample is spoken."""
        began, cpu_before = perf_counter(), proc.cpu_s(self._recogniser.pid)
        told = Round(streams, seconds)
        await asyncio.gather(*(self._live(told, script, began) for script in self._script(streams)))
        told.seconds = max(seconds, perf_counter() - began)
        self._measure(told, cpu_before)
        return told

    async def flat_out(self, streams: int, seconds: float) -> Round:
        """Every piece is sent when the one before it is answered, until ``seconds`` have passed."""
        began, cpu_before = perf_counter(), proc.cpu_s(self._recogniser.pid)
        told = Round(streams, seconds)
        await asyncio.gather(*(self._flat_out(told, script, began) for script in self._script(streams)))
        told.seconds = perf_counter() - began
        self._measure(told, cpu_before)
        return told

    async def offline(self, files: int) -> Round:
        """Whole utterances, all handed over at once."""
        began, cpu_before = perf_counter(), proc.cpu_s(self._recogniser.pid)
        told = Round(files, 0.0)
        await asyncio.gather(*(self._file(told, number % len(self._clips), began) for number in range(files)))
        told.seconds = perf_counter() - began
        self._measure(told, cpu_before)
        return told

    def _script(self, streams: int) -> list[Iterator[Cue]]:
        lengths = [len(clip) // 2 for clip in self._clips]
        return [cues(lengths, chunk=self._chunk, stream=stream, streams=streams) for stream in range(streams)]

    async def _warm(self, script: Iterator[Cue]) -> None:
        voice = await self._open()
        try:
            for _ in range(_WARM_CUES):
                await self._say(voice, next(script))
        finally:
            await voice.aclose()

    async def _live(self, told: Round, script: Iterator[Cue], began: float) -> None:
        voice = await self._open()
        try:
            while (cue := next(script)).due < told.seconds:
                wait = began + cue.due - perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                elif perf_counter() - began >= told.seconds:
                    told.answers.append(Answer(cue.due, told.seconds, told.seconds, 0, cue.last))
                    continue  # what was still to be sent is late by at least as much
                await self._timed(told, voice, cue, began, cue.due)
        finally:
            await voice.aclose()

    async def _flat_out(self, told: Round, script: Iterator[Cue], began: float) -> None:
        voice = await self._open()
        try:
            while (now := perf_counter() - began) < told.seconds:
                await self._timed(told, voice, next(script), began, now)
        finally:
            await voice.aclose()

    async def _timed(self, told: Round, voice: ModelVoice, cue: Cue, began: float, due: float) -> None:
        sent = perf_counter() - began
        text = await self._say(voice, cue)
        told.answers.append(Answer(due, sent, perf_counter() - began, cue.samples, cue.last))
        if text is not None:
            told.said.append(Said(cue.clip, cue.end, text))

    async def _say(self, voice: ModelVoice, cue: Cue) -> str | None:
        """Send a piece; at an utterance's end its text."""
        pcm = self._clips[cue.clip][samples_to_bytes(cue.start) : samples_to_bytes(cue.end)]
        await voice.feed(pcm)
        return (await voice.finish()).text if cue.last else None

    async def _file(self, told: Round, clip: int, began: float) -> None:
        pcm = self._clips[clip]
        sent = perf_counter() - began
        recognition = await self._recogniser.recognise(pcm)
        told.answers.append(Answer(sent, sent, perf_counter() - began, len(pcm) // 2, last=True))
        told.said.append(Said(clip, len(pcm) // 2, recognition.text))

    async def _open(self) -> ModelVoice:
        return await self._recogniser.open(RecognitionConfig())

    def _measure(self, told: Round, cpu_before: float) -> None:
        with suppress(FileNotFoundError):  # it has just ended, and somebody says so
            told.cpu_s = proc.cpu_s(self._recogniser.pid) - cpu_before
            told.resident_mib = proc.resident_mib(self._recogniser.pid)


def chunk_of(recogniser: ModelRecogniser) -> int:
    """Samples of a piece; 0 if an utterance is one."""
    return ms_to_samples(int(recogniser.capabilities.parameters.get("chunk_ms", "0")))
