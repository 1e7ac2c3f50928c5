"""What clients see when something breaks: a status they understand, soon, and no slot lost."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest

from engines import Conversation, engine_over, finals, recognise, stub_of, texts, tone_speech
from perch.core.speech import RecognitionConfig
from perch.engine.server import EngineServer
from perch.inference.recogniser import Recognition
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser, ScriptedVoice
from perch.riva.proto import AudioEncoding, asr

SPEECH = tone_speech("hello perch", "red green blue")
JUNK = asr.StreamingRecognizeRequest(audio_content=b"junk" * 100)
SOON = 20.0  # seconds: of what is done in a moment, on a machine that has other work


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something another task does; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110 a gRPC server announces nothing
        await asyncio.sleep(0.005)


async def slots_are_free(server: EngineServer) -> None:
    async with asyncio.timeout(SOON):
        await until(lambda: server.scheduler.taken == 0)


async def test_when_the_recogniser_dies_its_streams_end_as_unavailable_soon() -> None:
    recogniser = ScriptedRecogniser()
    async with engine_over(recogniser) as server, stub_of(server) as stub:
        conversations = [Conversation(stub) for _ in range(3)]
        for conversation in conversations:
            await conversation.configure()
            await conversation.speak(SPEECH[:16_000])
        recogniser.fail("killed by a test")
        async with asyncio.timeout(SOON):
            outcomes = await asyncio.gather(*(c.speak_until_it_ends(SPEECH) for c in conversations))
        assert {code for code, _ in outcomes} == {grpc.StatusCode.UNAVAILABLE}
        await slots_are_free(server)


async def test_a_dead_recogniser_refuses_new_streams_as_unavailable() -> None:
    recogniser = ScriptedRecogniser()
    recogniser.fail("killed by a test")
    async with engine_over(recogniser) as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        assert (await conversation.outcome())[0] is grpc.StatusCode.UNAVAILABLE
        await slots_are_free(server)


async def test_a_client_that_cancels_frees_its_slot_at_once() -> None:
    recogniser = ScriptedRecogniser(replace(CAPABILITIES, slots=1))
    async with engine_over(recogniser) as server, stub_of(server) as stub:
        for _ in range(20):
            conversation = Conversation(stub)
            await conversation.configure()
            await conversation.speak(SPEECH[:6400])
            assert server.scheduler.taken == 1
            conversation.call.cancel()
            await slots_are_free(server)
        assert recogniser.open_voices == 0
        assert texts(finals(await recognise(stub, SPEECH)))[0] == "hello perch"


async def test_a_client_that_vanishes_frees_its_slot() -> None:
    recogniser = ScriptedRecogniser()
    async with engine_over(recogniser) as server:
        async with stub_of(server) as stub:
            conversation = Conversation(stub)
            await conversation.configure()
            await conversation.speak(SPEECH[:6400])
            assert server.scheduler.taken == 1
        await slots_are_free(server)


class Broken(ScriptedRecogniser):
    """Opens voices whose ``feed`` does what the test wants."""

    def __init__(self, feed: Callable[[], Any]) -> None:
        super().__init__()
        self._feed = feed

    async def open(self, config: RecognitionConfig) -> ScriptedVoice:
        return BrokenVoice(self, self._feed)


class BrokenVoice(ScriptedVoice):
    def __init__(self, recogniser: ScriptedRecogniser, feed: Callable[[], Any]) -> None:
        super().__init__(recogniser)
        self._break = feed

    async def feed(self, pcm: bytes) -> str | None:
        await self._break()
        return None

    async def finish(self) -> Recognition:
        await self._break()
        return Recognition("")


async def test_a_recogniser_that_hangs_fails_its_stream_by_the_deadline() -> None:
    recogniser = Broken(asyncio.Event().wait)
    async with engine_over(recogniser, voice_timeout_s=0.2) as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        async with asyncio.timeout(SOON):
            code, details = await conversation.speak_until_it_ends(SPEECH)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "0.2 s" in details
        await slots_are_free(server)


async def raise_a_secret() -> None:
    raise RuntimeError("a secret about /etc")


async def test_an_error_of_our_own_is_internal_and_keeps_its_text_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with engine_over(Broken(raise_a_secret)) as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        code, details = await conversation.speak_until_it_ends(SPEECH)
        await slots_are_free(server)
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert "a secret about /etc" in caplog.text


async def test_one_clients_bad_audio_does_not_touch_another_clients_words() -> None:
    async with engine_over(ScriptedRecogniser()) as server, stub_of(server) as stub:

        async def bad() -> grpc.StatusCode:
            conversation = Conversation(stub)
            await conversation.configure(encoding=AudioEncoding.FLAC)
            await conversation.call.write(JUNK)
            return (await conversation.outcome())[0]

        good, *codes = await asyncio.gather(recognise(stub, SPEECH), *(bad() for _ in range(5)))
    assert texts(finals(good)) == ["hello perch", " red green blue"]
    assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}


async def test_many_streams_at_once_each_get_their_own_words() -> None:
    spoken = [["one two", "three"], ["red green blue"], ["hello perch", "goodbye nest", "river"]] * 10
    async with engine_over(ScriptedRecogniser()) as server, stub_of(server) as stub:
        heard = await asyncio.gather(*(recognise(stub, tone_speech(*utterances)) for utterances in spoken))
    assert [[text.strip() for text in texts(finals(responses))] for responses in heard] == spoken


async def test_a_long_file_does_not_keep_other_calls_waiting() -> None:
    config = asr.RecognitionConfig(encoding=AudioEncoding.LINEAR_PCM, sample_rate_hertz=16_000)
    request = asr.RecognizeRequest(config=config, audio=SPEECH * 100)
    async with engine_over(ScriptedRecogniser()) as server, stub_of(server) as stub:
        recognising = asyncio.ensure_future(stub.Recognize(request))
        await until(lambda: server.scheduler.taken == 1)
        assert texts(finals(await recognise(stub, SPEECH)))[0] == "hello perch"
        assert not recognising.done()
        words = " ".join(result.alternatives[0].transcript for result in (await recognising).results).split()
        assert words == ["hello", "perch", "red", "green", "blue"] * 100
