"""The road of one stream as an engine drives it, at full speed: detector, endpointer, voice."""

from dataclasses import dataclass, field

from perch.core.audio import samples_to_bytes
from perch.core.speech import RecognitionConfig
from perch.inference.endpointer import Begin, Decision, End, Endpointer
from perch.inference.recogniser import Recogniser, Recognition, Voice

CHUNK = 3200
"""Bytes of 100 ms."""


@dataclass
class Transcript:
    """What came of one stream."""

    finals: list[Recognition] = field(default_factory=list)
    partials: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals if final.text)


async def transcribe(recogniser: Recogniser, pcm: bytes) -> Transcript:
    """Recognise ``pcm`` with a voice of its own."""
    voice = await recogniser.open(RecognitionConfig(language="en-US"))
    try:
        return await transcribe_with(voice, recogniser, pcm)
    finally:
        await voice.aclose()


async def transcribe_with(voice: Voice, recogniser: Recogniser, pcm: bytes) -> Transcript:
    detector = recogniser.detector()
    stream = _Stream(voice, Endpointer(None, detector.frame), pcm)
    for at in range(0, len(pcm), CHUNK):
        await stream.follow(stream.endpointer.feed(await detector.probabilities(pcm[at : at + CHUNK])))
    await stream.follow(stream.endpointer.close(len(pcm) // 2))
    return stream.transcript


async def say(voice: Voice, pcm: bytes) -> Recognition:
    """A whole utterance at once."""
    await voice.feed(pcm)
    return await voice.finish()


class _Stream:
    def __init__(self, voice: Voice, endpointer: Endpointer, pcm: bytes) -> None:
        self.voice = voice
        self.endpointer = endpointer
        self.pcm = pcm
        self.given = 0
        self.transcript = Transcript()

    async def follow(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Begin):
                self.given = decision.at
            elif isinstance(decision, End):
                await self.give(decision.at)
                self.transcript.finals.append(await self.voice.finish())
        if self.endpointer.ready is not None:
            await self.give(self.endpointer.ready)

    async def give(self, until: int) -> None:
        if until > self.given:
            text = await self.voice.feed(self.pcm[samples_to_bytes(self.given) : samples_to_bytes(until)])
            self.given = until
            if text is not None:
                self.transcript.partials.append(text)
