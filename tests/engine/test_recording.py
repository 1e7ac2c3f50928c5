"""Recordings over real gRPC: utterances side by side in the model's process, answers in their order."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engines import Conversation, engine_over, finals, recognise, stub_of, texts, tone_speech
from perch.core.speech import RecognitionConfig
from perch.engine.server import EngineServer
from perch.inference.parakeet.model import LoadOptions
from perch.inference.parakeet.recogniser import ModelRecogniser
from perch.inference.scripted import ToneDetector
from perch.riva import convert
from perch.riva.proto import asr

UTTERANCES = ["zero one", "two", "three four five", "six", "seven eight", "nine"] * 4
SPEECH = tone_speech(*UTTERANCES)
AS_RECORDING = {convert.RECORDING: "true"}


class Tones(ModelRecogniser):
    """Silero hears no speech in tones."""

    def detector(self) -> ToneDetector:  # type: ignore[override]
        return ToneDetector()


@asynccontextmanager
async def engine(chunk_ms: int | None = None, **config: Any) -> AsyncIterator[tuple[EngineServer, Tones]]:
    recogniser = await Tones.start("tones", LoadOptions("nowhere", "tones", chunk_ms=chunk_ms), slots=1)
    try:
        async with engine_over(recogniser, **config) as server:
            assert isinstance(recogniser, Tones)
            yield server, recogniser
    finally:
        await recogniser.aclose()


@pytest.mark.parametrize("chunk_ms", [None, 320])
async def test_a_recording_is_answered_in_order_with_times_on_its_clock(chunk_ms: int | None) -> None:
    async with engine(chunk_ms) as (server, _), stub_of(server) as stub:
        config = asr.RecognitionConfig(
            sample_rate_hertz=16_000, language_code="en-US", enable_word_time_offsets=True
        )
        response = await stub.Recognize(asr.RecognizeRequest(config=config, audio=SPEECH))
    assert "".join(texts(response.results)).split() == " ".join(UTTERANCES).split()
    words = [word for result in response.results for word in result.alternatives[0].words]
    starts = [word.start_time for word in words]
    assert starts == sorted(starts)
    assert starts[-1] > 1000 * (len(SPEECH) / 32_000 - 3)


async def test_recordings_need_no_slot_and_streams_go_on_beside_them() -> None:
    async with engine() as (server, _), stub_of(server) as stub:
        live = Conversation(stub)
        await live.configure()
        await live.speak(tone_speech("hello"))  # the only slot
        recordings = await asyncio.gather(
            *(recognise(stub, SPEECH, custom_configuration=AS_RECORDING) for _ in range(3))
        )
        for responses in recordings:
            assert "".join(texts(finals(responses))).split() == " ".join(UTTERANCES).split()
        assert "".join(texts(finals(await live.hang_up()))) in {"", "hello"}


async def test_many_recordings_leave_room_for_streams_and_for_questions() -> None:
    async with engine(recordings=2, spare_rpcs=2) as (server, _), stub_of(server) as stub:
        open_ones = [Conversation(stub) for _ in range(2)]
        for one in open_ones:
            await one.configure(custom_configuration=AS_RECORDING)
            await one.speak(tone_speech("one"))
        late = Conversation(stub)
        await late.configure(custom_configuration=AS_RECORDING)
        code, details = await late.refusal()
        assert code.name == "RESOURCE_EXHAUSTED"
        assert "2 recordings" in details
        assert (
            await stub.GetRivaSpeechRecognitionConfig(asr.RivaSpeechRecognitionConfigRequest())
        ).model_config
        assert "".join(texts(finals(await recognise(stub, tone_speech("two"))))) == "two"
        for one in open_ones:
            assert "".join(texts(finals(await one.hang_up()))) in {"", "one"}
        response = await stub.Recognize(
            asr.RecognizeRequest(
                config=asr.RecognitionConfig(sample_rate_hertz=16_000, language_code="en-US"),
                audio=tone_speech("nine"),
            )
        )
        assert texts(response.results) == ["nine"]


async def test_a_recording_that_is_cancelled_leaves_nothing_behind() -> None:
    async with engine() as (server, recogniser), stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure(custom_configuration=AS_RECORDING)
        await conversation.speak(SPEECH)
        conversation.call.cancel()
        assert (await recogniser.recognise(tone_speech("nine"))).text == "nine"
        voice = await recogniser.open(RecognitionConfig())
        await voice.aclose()


async def test_a_model_that_dies_under_a_recording_fails_it_and_the_next_one_is_recognised() -> None:
    async with engine() as (server, recogniser), stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure(custom_configuration=AS_RECORDING)
        os.kill(recogniser.pid, signal.SIGKILL)
        code, _ = await conversation.speak_until_it_ends(SPEECH)
        assert code.name in {"UNAVAILABLE", "INTERNAL", "ABORTED"}
        async with asyncio.timeout(30):
            await recogniser.wait_unhealthy()
            await recogniser.wait_healthy()
        assert (await recogniser.recognise(tone_speech("one"))).text == "one"
