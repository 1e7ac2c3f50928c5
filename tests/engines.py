"""Engines for tests: the real server on loopback, and an asyncio client for one stream."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc

from perch.audio.tones import DEFAULT_TIMING, Timing, synthesise
from perch.core.speech import RecognitionConfig
from perch.engine.config import EngineConfig
from perch.engine.server import EngineServer
from perch.inference.recogniser import Recogniser, Recognition
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser, ScriptedVoice
from perch.riva.proto import AudioEncoding, asr, asr_grpc

CHUNK = 3_200
"""Bytes of 100 ms, as NVIDIA's scripts send them."""

LONG_PAUSE = Timing(pause_s=1.5, tail_s=0.3)
"""Between utterances: longer than the silence that ends one."""


class _SlowVoice(ScriptedVoice):
    def __init__(self, recogniser: "SlowFinals") -> None:
        super().__init__(recogniser)
        self._finish_s = recogniser.finish_s

    async def finish(self) -> Recognition:
        await asyncio.sleep(self._finish_s)
        return await super().finish()


class SlowFinals(ScriptedRecogniser):
    """Takes so many seconds for each final, as a busy model may."""

    def __init__(self, finish_s: float = 2.0) -> None:
        super().__init__()
        self.finish_s = finish_s

    async def open(self, config: RecognitionConfig) -> ScriptedVoice:
        await (await super().open(config)).aclose()
        return _SlowVoice(self)


@asynccontextmanager
async def engine_over(recogniser: Recogniser, **config: Any) -> AsyncIterator[EngineServer]:
    """An engine over ``recogniser`` on a free port, with ``EngineConfig`` fields from ``config``."""
    settings = {"port": 0, "stop_grace_s": 0.0, **config}
    async with EngineServer(recogniser, EngineConfig(**settings)) as server:
        yield server


@asynccontextmanager
async def scripted_engine(*, slots: int = 16, **config: Any) -> AsyncIterator[EngineServer]:
    """An engine that recognises tone words (see ``perch.audio.tones``)."""
    recogniser = ScriptedRecogniser(replace(CAPABILITIES, slots=slots))
    try:
        async with engine_over(recogniser, **config) as server:
            yield server
    finally:
        await recogniser.aclose()


@asynccontextmanager
async def stub_of(server: EngineServer) -> AsyncIterator[Any]:
    """NVIDIA's generated stub on a fresh asyncio channel to ``server``."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield asr_grpc.RivaSpeechRecognitionStub(channel)


def streaming_config(*, interim_results: bool = True, **fields: Any) -> Any:
    """A first request; ``fields`` are those of ``RecognitionConfig``."""
    settings = {
        "encoding": AudioEncoding.LINEAR_PCM,
        "sample_rate_hertz": 16_000,
        "audio_channel_count": 1,
        "enable_word_time_offsets": True,
        **fields,
    }
    return asr.StreamingRecognizeRequest(
        streaming_config=asr.StreamingRecognitionConfig(
            config=asr.RecognitionConfig(**settings), interim_results=interim_results
        )
    )


def audio_requests(audio: bytes, chunk: int = CHUNK) -> list[Any]:
    return [
        asr.StreamingRecognizeRequest(audio_content=audio[i : i + chunk]) for i in range(0, len(audio), chunk)
    ]


class Conversation:
    """One ``StreamingRecognize`` call: requests one at a time, and the response to each."""

    def __init__(self, stub: Any, **call_options: Any) -> None:
        self.call = stub.StreamingRecognize(**call_options)

    async def configure(self, **config: Any) -> None:
        await self.call.write(streaming_config(**config))

    async def say(self, request: Any) -> Any:
        """Send ``request``, return its response."""
        await self.call.write(request)
        return await self.call.read()

    async def speak(self, audio: bytes, chunk: int = CHUNK) -> list[Any]:
        """Send ``audio`` in messages of ``chunk`` bytes, return the response to each."""
        return [await self.say(request) for request in audio_requests(audio, chunk)]

    async def speak_until_it_ends(self, audio: bytes) -> tuple[grpc.StatusCode, str]:
        """Say ``audio`` over and over; return how the call ended.

        Nothing is written after the end: grpc.aio would take its own failure to send for the server's status.
        """
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for request in itertools.cycle(audio_requests(audio)):
                if await self.say(request) is grpc.aio.EOF:
                    break
        return await self.outcome()

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        """How a call ended that was refused for its configuration."""
        with suppress(grpc.aio.AioRpcError):
            assert await self.call.read() is grpc.aio.EOF
        return await self.outcome()

    async def hang_up(self) -> list[Any]:
        """Half-close; return what is still said."""
        await self.call.done_writing()
        rest = []
        while (response := await self.call.read()) is not grpc.aio.EOF:
            rest.append(response)
        return rest

    async def outcome(self) -> tuple[grpc.StatusCode, str]:
        return await self.call.code(), await self.call.details()


async def recognise(stub: Any, audio: bytes, *, chunk: int = CHUNK, **config: Any) -> list[Any]:
    """A whole stream: every response."""
    conversation = Conversation(stub)
    await conversation.configure(**config)
    responses = await conversation.speak(audio, chunk)
    return responses + await conversation.hang_up()


def finals(responses: Sequence[Any]) -> list[Any]:
    return [result for response in responses for result in response.results if result.is_final]


def interims(responses: Sequence[Any]) -> list[Any]:
    return [result for response in responses for result in response.results if not result.is_final]


def texts(results: Sequence[Any]) -> list[str]:
    return [result.alternatives[0].transcript for result in results]


def tone_speech(*utterances: str, timing: Timing = LONG_PAUSE) -> bytes:
    """16 kHz PCM of tone words."""
    return synthesise(utterances, timing)


__all__ = [
    "CHUNK",
    "DEFAULT_TIMING",
    "LONG_PAUSE",
    "Conversation",
    "audio_requests",
    "engine_over",
    "finals",
    "interims",
    "recognise",
    "scripted_engine",
    "streaming_config",
    "stub_of",
    "texts",
    "tone_speech",
]
