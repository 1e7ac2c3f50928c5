"""The engine over the real recogniser: real words, and real processes that die."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engines import Conversation, engine_over, finals, recognise, stub_of, texts
from perch.engine.server import EngineServer
from perch.inference.embedded import EmbeddedRecogniser
from perch.riva.proto import AudioEncoding

SPEECH = Path(__file__).parents[3] / "shared" / "speech"
NOISE = bytes(range(256)) * 50  # 400 ms of no word in particular
SOON = 20.0  # seconds: of what is done in a moment, on a machine that has other work
REPAIR_S = 20.0
Status = health_pb2.HealthCheckResponse


class AlwaysSpeech:
    """A detector that hears speech in everything, so that every frame reaches the worker."""

    frame = 512

    async def probabilities(self, pcm: bytes) -> Sequence[float]:
        return [1.0] * (len(pcm) // 2 // self.frame)


@pytest.fixture
async def recogniser() -> AsyncIterator[EmbeddedRecogniser]:
    embedded = await EmbeddedRecogniser.start(slots=3)
    yield embedded
    await embedded.aclose()


@pytest.fixture
async def server(
    recogniser: EmbeddedRecogniser, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EngineServer]:
    monkeypatch.setattr(recogniser, "detector", AlwaysSpeech)
    async with engine_over(recogniser) as running:
        yield running


def workers(recogniser: EmbeddedRecogniser) -> list[int]:
    return [child.pid for child in psutil.Process(recogniser.pid).children()]


async def next_status(watch: object, seconds: float) -> int:
    async with asyncio.timeout(seconds):
        answer = await watch.read()  # type: ignore[attr-defined]
    return int(answer.status)


async def test_a_killed_worker_ends_its_stream_and_no_other_and_health_says_so_soon(
    recogniser: EmbeddedRecogniser, server: EngineServer
) -> None:
    async with stub_of(server) as stub, grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert await next_status(watch, SOON) == Status.SERVING
        doomed, spared = Conversation(stub), Conversation(stub)
        await doomed.configure()
        await doomed.speak(NOISE)
        (victim,) = workers(recogniser)
        await spared.configure()
        await spared.speak(NOISE)

        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(SOON):
            code, _ = await doomed.speak_until_it_ends(NOISE)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert await next_status(watch, SOON) == Status.NOT_SERVING

        await spared.speak(NOISE)
        await spared.hang_up()
        assert await spared.call.code() is grpc.StatusCode.OK
        assert await next_status(watch, REPAIR_S) == Status.SERVING
        watch.cancel()
        assert server.scheduler.taken == 0


async def test_a_killed_recogniser_ends_its_streams_and_serves_again_after_its_repair(
    recogniser: EmbeddedRecogniser, server: EngineServer
) -> None:
    async with stub_of(server) as stub, grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert await next_status(watch, SOON) == Status.SERVING
        conversation = Conversation(stub)
        await conversation.configure()
        await conversation.speak(NOISE)

        os.kill(recogniser.pid, signal.SIGKILL)
        assert await next_status(watch, SOON) == Status.NOT_SERVING
        async with asyncio.timeout(SOON):
            code, _ = await conversation.speak_until_it_ends(NOISE)
        assert code is grpc.StatusCode.UNAVAILABLE

        assert await next_status(watch, REPAIR_S) == Status.SERVING
        watch.cancel()
        again = Conversation(stub)
        await again.configure()
        await again.speak(NOISE)
        await again.hang_up()
        assert await again.call.code() is grpc.StatusCode.OK


@pytest.mark.golden
async def test_a_real_voice_is_understood(recogniser: EmbeddedRecogniser) -> None:
    recording = SPEECH / "ps_goforward.wav"
    if not await asyncio.to_thread(recording.exists):
        pytest.skip("the shared speech recordings are not here")
    audio = await asyncio.to_thread(recording.read_bytes)
    async with engine_over(recogniser) as server, stub_of(server) as stub:
        responses = await recognise(
            stub, audio, encoding=AudioEncoding.ENCODING_UNSPECIFIED, sample_rate_hertz=0
        )
    (final,) = finals(responses)
    assert texts([final]) == ["go forward ten meters"]
    times = [time for word in final.alternatives[0].words for time in (word.start_time, word.end_time)]
    assert times == sorted(times)
    assert 300 < times[0] < 700  # the first word begins at about 0.5 s
    assert times[-1] <= final.audio_processed * 1000 < 2_800
