"""Riva's behaviour over real gRPC: what each request is answered with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest

from engines import (
    Conversation,
    audio_requests,
    engine_over,
    finals,
    interims,
    recognise,
    scripted_engine,
    streaming_config,
    stub_of,
    texts,
    tone_speech,
)
from perch.engine.server import EngineServer
from perch.inference.recogniser import Capabilities
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser
from perch.riva.proto import AudioEncoding, asr

INVALID = grpc.StatusCode.INVALID_ARGUMENT
SPEECH = tone_speech("hello perch", "red green blue")
SILENCE = bytes(3200)


async def test_every_audio_message_gets_one_response_and_the_end_at_most_one_more() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        for request in audio_requests(SPEECH):
            assert isinstance(await conversation.say(request), asr.StreamingRecognizeResponse)
        last = await conversation.hang_up()
        assert texts(finals(last)) == [" red green blue"]
        assert len(last) == 1
        assert await conversation.outcome() == (grpc.StatusCode.OK, "")


async def test_without_interim_results_it_is_one_response_per_message_all_the_same() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SPEECH, interim_results=False)
    assert interims(responses) == []
    assert texts(finals(responses)) == ["hello perch", " red green blue"]
    assert len(responses) - len(audio_requests(SPEECH)) in {0, 1}


async def test_later_utterances_begin_with_a_space_so_that_transcripts_can_be_joined() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SPEECH)
    assert "".join(texts(finals(responses))) == "hello perch red green blue"
    assert texts(interims(responses))[-1] == " red green blue"


async def test_a_whole_recording_in_one_message_is_answered_in_one_response_spaces_included() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SPEECH + SILENCE * 20, chunk=10**9)
    assert [texts(response.results) for response in responses] == [["hello perch", " red green blue"]]


async def test_audio_processed_grows_and_no_word_ends_after_it() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SPEECH)
    processed = [result.audio_processed for response in responses for result in response.results]
    assert processed == sorted(processed)
    for result in finals(responses):
        assert all(word.end_time <= result.audio_processed * 1000 for word in result.alternatives[0].words)
        assert result.channel_tag == 1
        assert list(result.alternatives[0].language_code) == ["en-US"]


async def test_the_id_of_the_first_message_is_on_every_response() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        first = streaming_config()
        first.id.value = "call-7"
        await conversation.call.write(first)
        responses = await conversation.speak(SPEECH) + await conversation.hang_up()
    assert {response.id.value for response in responses} == {"call-7"}


async def test_a_message_may_end_inside_a_sample() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SPEECH, chunk=3201)
    assert "".join(texts(finals(responses))) == "hello perch red green blue"


async def test_force_eou_makes_the_final_come_with_its_own_message() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        spoken = await conversation.speak(tone_speech("hello perch")[: -2 * 16 * 200])
        assert finals(spoken) == []
        forced = asr.StreamingRecognizeRequest(audio_content=b"", runtime_config={"force_eou": "true"})
        assert texts(finals([await conversation.say(forced)])) == ["hello perch"]
        assert await conversation.hang_up() == []
        assert await conversation.outcome() == (grpc.StatusCode.OK, "")


async def test_silence_ends_with_one_empty_final() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SILENCE * 10)
    assert [len(response.results) for response in responses] == [0] * 10 + [1]
    assert texts(finals(responses)) == [""]


async def test_empty_messages_are_answered_too() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        response = await conversation.say(asr.StreamingRecognizeRequest(audio_content=b""))
        assert not response.results


# --- refusals


async def refusal(*requests: Any, **engine: Any) -> tuple[grpc.StatusCode, str]:
    async with scripted_engine(**engine) as server, stub_of(server) as stub:
        call = stub.StreamingRecognize(iter(requests), timeout=30)
        async for _ in call:
            pass
        return await call.code(), await call.details()


async def refused(*requests: Any, **engine: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusing:
        await refusal(*requests, **engine)
    return refusing.value.code(), str(refusing.value.details())


async def test_a_stream_without_any_message_is_refused() -> None:
    assert await refused() == (INVALID, "no messages received")


async def test_audio_before_the_configuration_is_refused() -> None:
    assert await refused(*audio_requests(SILENCE)) == (
        INVALID,
        "first message must contain streaming_config",
    )


async def test_a_second_configuration_is_refused() -> None:
    code, details = await refused(streaming_config(), *audio_requests(SILENCE), streaming_config())
    assert (code, details) == (INVALID, "only the first message may contain streaming_config")


@pytest.mark.parametrize("language", ["en-GB", "ru-RU", "multi"])
async def test_a_language_that_is_not_served_is_refused_in_rivas_words(language: str) -> None:
    code, details = await refused(streaming_config(language_code=language))
    assert code is INVALID
    assert details == (
        "Error: Unavailable model requested given these parameters: "
        f"language_code={language}; sample_rate=16000; type=online; "
    )


@pytest.mark.parametrize("language", ["", "en-US", "en-us"])
async def test_a_language_may_be_left_to_the_engine(language: str) -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        responses = await recognise(stub, SPEECH, language_code=language)
    assert texts(finals(responses)) == ["hello perch", " red green blue"]


async def test_any_model_name_is_accepted_unless_the_operator_says_otherwise() -> None:
    livekit = "parakeet-1.1b-en-US-asr-streaming-silero-vad-sortformer"
    async with scripted_engine() as server, stub_of(server) as stub:
        assert texts(finals(await recognise(stub, SPEECH, model=livekit)))[0] == "hello perch"
    code, details = await refused(streaming_config(model=livekit), accept_any_model=False)
    assert code is INVALID
    assert f"Unavailable model requested given these parameters: model={livekit}; " in details
    async with scripted_engine(accept_any_model=False) as server, stub_of(server) as stub:
        assert texts(finals(await recognise(stub, SPEECH, model="scripted")))[0] == "hello perch"


@pytest.mark.parametrize("name", ["Scripted", "BEEPS"])
async def test_a_model_is_known_by_its_names_in_any_case(name: str) -> None:
    known = replace(CAPABILITIES, aliases=("beeps",))
    async with speaking(known, accept_any_model=False) as server, stub_of(server) as stub:
        assert texts(finals(await recognise(stub, SPEECH, model=name)))[0] == "hello perch"


@pytest.mark.parametrize(
    ("languages", "asked", "told"),
    [
        (("bg", "en", "fr"), "", []),
        (("bg", "en", "fr"), "fr-CA", ["fr-CA"]),
        (("fr",), "", ["fr"]),
        (("en-US", "en-GB"), "", ["en"]),
    ],
)
async def test_a_language_nobody_named_is_told_only_if_the_model_has_no_other(
    languages: tuple[str, ...], asked: str, told: list[str]
) -> None:
    async with speaking(replace(CAPABILITIES, languages=languages)) as server, stub_of(server) as stub:
        live = finals(await recognise(stub, SPEECH, language_code=asked))
        whole = (await offline(stub, SPEECH, language_code=asked)).results
    assert [list(result.alternatives[0].language_code) for result in (live[0], whole[0])] == [told, told]


@asynccontextmanager
async def speaking(capabilities: Capabilities, **config: Any) -> AsyncIterator[EngineServer]:
    """An engine of tone words that says this of itself."""
    recogniser = ScriptedRecogniser(capabilities)
    async with engine_over(recogniser, **config) as server:
        yield server
    await recogniser.aclose()


@pytest.mark.parametrize("rate", [1, 7_999, 96_001])
async def test_an_impossible_sample_rate_is_refused(rate: int) -> None:
    code, details = await refused(streaming_config(sample_rate_hertz=rate))
    assert code is INVALID
    assert str(rate) in details


async def test_stereo_is_refused() -> None:
    code, details = await refused(streaming_config(audio_channel_count=2))
    assert code is INVALID
    assert "audio_channel_count is 2" in details


async def test_audio_that_is_not_what_was_declared_is_refused() -> None:
    config = streaming_config(encoding=AudioEncoding.FLAC)
    code, details = await refused(config, *audio_requests(SILENCE))
    assert code is INVALID
    assert "flac" in details


async def test_a_full_engine_refuses_the_next_stream_and_says_when_to_come_again() -> None:
    async with scripted_engine(slots=1) as server, stub_of(server) as stub:
        first = Conversation(stub)
        await first.configure()
        await first.speak(SILENCE)
        second = Conversation(stub)
        await second.configure()
        code, details = await second.outcome()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "try again" in details
        assert ("retry-after-ms", "1000") in list(await second.call.trailing_metadata() or ())
        await first.hang_up()
        assert texts(finals(await recognise(stub, SPEECH)))[0] == "hello perch"


async def test_an_idle_sequence_is_forgotten_as_triton_forgets_it_if_so_configured() -> None:
    async with scripted_engine(idle_sequence_s=0.5) as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        await conversation.speak(SILENCE)
        await asyncio.sleep(0.7)  # the idleness itself
        await conversation.call.write(*audio_requests(SILENCE))
        code, details = await conversation.outcome()
    assert code is INVALID
    assert "must specify the START flag" in details


# --- whole files


async def offline(stub: Any, audio: bytes, **fields: Any) -> Any:
    config = {"encoding": AudioEncoding.LINEAR_PCM, "sample_rate_hertz": 16_000, **fields}
    request = asr.RecognizeRequest(config=asr.RecognitionConfig(**config), audio=audio)
    request.id.value = "file-1"
    return await stub.Recognize(request)


async def test_a_whole_file_is_one_result_per_utterance() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        response = await offline(stub, SPEECH, enable_word_time_offsets=True, max_alternatives=2)
        assert server.scheduler.taken == 0
    assert [result.alternatives[0].transcript for result in response.results] == [
        "hello perch",
        " red green blue",
    ]
    assert [word.start_time for word in response.results[1].alternatives[0].words] == [2100, 2280, 2460]
    assert response.results[1].audio_processed == pytest.approx(len(SPEECH) / 32_000)
    assert response.id.value == "file-1"


async def test_an_empty_file_is_one_empty_result() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        response = await offline(stub, b"")
    assert [result.alternatives[0].transcript for result in response.results] == [""]


async def test_a_file_larger_than_allowed_is_refused() -> None:
    async with scripted_engine(max_message_bytes=10_000) as server, stub_of(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusing:
            await offline(stub, bytes(20_000))
    assert refusing.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_unknown_language_for_a_file_is_an_offline_refusal() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refusing:
            await offline(stub, SPEECH, language_code="ru-RU")
    assert refusing.value.code() is INVALID
    assert str(refusing.value.details()).endswith("language_code=ru-RU; sample_rate=16000; type=offline; ")


# --- models


async def test_models_are_listed_with_what_nvidias_clients_look_for() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        response = await stub.GetRivaSpeechRecognitionConfig(asr.RivaSpeechRecognitionConfigRequest())
    online, offline_ = response.model_config
    assert online.model_name == offline_.model_name == "scripted"
    assert (online.parameters["type"], offline_.parameters["type"]) == ("online", "offline")
    assert online.parameters["language_code"] == "en-US"
    assert (online.parameters["streaming"], online.parameters["offline"]) == ("True", "False")
    assert online.parameters["sample_rate"] == "16000"
    assert online.parameters["notice"]


@pytest.mark.parametrize(
    ("name", "count"), [("scripted", 2), ("SCRIPTED", 2), ("Beeps", 2), ("no-such-model", 0)]
)
async def test_a_model_asked_for_by_name_is_listed_if_it_exists(name: str, count: int) -> None:
    known = replace(CAPABILITIES, aliases=("beeps",))
    async with speaking(known) as server, stub_of(server) as stub:
        request = asr.RivaSpeechRecognitionConfigRequest(model_name=name)
        response = await stub.GetRivaSpeechRecognitionConfig(request)
    assert len(response.model_config) == count


# --- keys and metadata


async def list_models(stub: Any, *metadata: tuple[str, str]) -> grpc.StatusCode:
    call = stub.GetRivaSpeechRecognitionConfig(asr.RivaSpeechRecognitionConfigRequest(), metadata=metadata)
    code: grpc.StatusCode = await call.code()
    return code


async def test_any_metadata_is_accepted() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        assert (
            await list_models(stub, ("function-id", "abc"), ("authorization", "Bearer x"))
            is grpc.StatusCode.OK
        )


async def test_a_key_is_required_once_configured_and_may_come_twice() -> None:
    key = ("authorization", "Bearer s3cret")
    async with scripted_engine(api_key="s3cret") as server, stub_of(server) as stub:
        assert await list_models(stub) is grpc.StatusCode.UNAUTHENTICATED
        assert await list_models(stub, ("authorization", "Bearer wrong")) is grpc.StatusCode.UNAUTHENTICATED
        assert await list_models(stub, ("authorization", "s3cret")) is grpc.StatusCode.UNAUTHENTICATED
        assert await list_models(stub, key) is grpc.StatusCode.OK
        assert await list_models(stub, key, key) is grpc.StatusCode.OK
        conversation = Conversation(stub)
        with suppress(grpc.aio.AioRpcError):  # it may be refused before it has said anything
            await conversation.configure()
        assert (await conversation.outcome())[0] is grpc.StatusCode.UNAUTHENTICATED
