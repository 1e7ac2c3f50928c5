"""RivaASRClient against a real gRPC server: what it sends, what it makes of the answers, how it fails."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from engines import engine_over, scripted_engine
from fakes.riva_server import ScriptedRiva, response, result, serving
from perch import errors
from perch.asr.attempt import AttemptTimeouts
from perch.asr.pool import PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.asr.stream import StreamConfig
from perch.audio.tones import synthesise
from perch.core.messages import Final, Partial
from perch.core.speech import Endpointing, HotWords, RecognitionConfig
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser
from perch.riva.proto import AudioEncoding, asr
from transports import channel

pytestmark = pytest.mark.usefixtures("transport")

QUICK = StreamConfig(outage_s=0.5, retry_delay_s=0.01, max_retry_delay_s=0.02)
SPEECH = synthesise(["open the door", "a door"])


async def pieces(audio: bytes, size: int = 3200) -> AsyncIterator[bytes]:
    for position in range(0, len(audio), size):
        yield audio[position : position + size]


def client(address: str, **config: object) -> RivaASRClient:
    usual = {"endpoints": (address,), "stream": QUICK, "channel": channel()}
    return RivaASRClient(RivaConfig(**(usual | config)))  # type: ignore[arg-type]


async def transcribed(
    riva: RivaASRClient, audio: bytes = bytes(6400), **options: object
) -> list[Partial | Final]:
    try:
        stream = riva.stream_transcribe(pieces(audio), 16_000, **options)  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            return [event async for event in stream]
    finally:
        await riva.aclose()


async def test_partials_come_before_their_final_and_segments_count_up() -> None:
    async with scripted_engine() as engine:
        events = await transcribed(client(engine.address), SPEECH)
    finals = [event for event in events if event.is_final]
    assert [event.text for event in finals] == ["open the door", "a door"]
    assert [event.segment for event in finals] == [0, 1]
    for segment in (0, 1):
        kinds = [event.is_final for event in events if event.segment == segment]
        assert kinds == sorted(kinds)
        assert not kinds[0]


async def test_every_sample_reaches_the_engine_exactly_once() -> None:
    riva = ScriptedRiva()
    audio = bytes(range(256)) * 301
    async with serving(riva) as address:
        await transcribed(client(address), audio)
    assert riva.calls[0].audio == audio


async def test_all_results_of_a_response_are_used() -> None:
    first = response(result("stable part", stability=0.9), result(" unstable tail", stability=0.1))
    last = response(
        result("one", final=True, words=[("one", 0, 400)]),
        result("two", final=True, words=[("two", 500, 900)]),
        result("three"),
    )
    heard = asyncio.Event()
    riva = ScriptedRiva(lambda number, _: [first] if number == 1 else (), at_end=[last])

    async def until_heard() -> AsyncIterator[bytes]:
        yield bytes(3200)
        await heard.wait()

    async with serving(riva) as address:
        asking = client(address)
        events = []
        async for event in asking.stream_transcribe(until_heard(), 16_000):
            events.append(event)
            heard.set()
        await asking.aclose()
    assert [(event.is_final, event.text) for event in events] == [
        (False, "stable part unstable tail"),
        (True, "one"),
        (True, "two"),
        (False, "three"),
        (True, "three"),
    ], "a partial the engine leaves behind is all there is of that utterance"


async def test_milliseconds_become_samples_and_unset_confidence_is_none() -> None:
    final = result("hi", final=True, words=[("hi", 480, 960)], audio_processed=1.5)
    async with serving(ScriptedRiva(at_end=[response(final)])) as address:
        [event] = await transcribed(client(address))
    assert isinstance(event, Final)
    assert (event.words[0].start, event.words[0].end) == (7680, 15_360)
    assert event.words[0].confidence is None
    assert event.confidence is None


async def test_a_given_confidence_is_passed_on_unchanged() -> None:
    final = result("hi", final=True, words=[("hi", 0, 10)], confidence=-0.5)
    async with serving(ScriptedRiva(at_end=[response(final)])) as address:
        [event] = await transcribed(client(address))
    assert isinstance(event, Final)
    assert event.confidence == -0.5


@pytest.mark.parametrize(
    ("listed", "default", "wanted", "sent"),
    [
        ("fr-FR", "en-US", "", "fr-FR"),
        ("fr-FR", "en-US", "auto", "fr-FR"),
        ("fr-FR, en-US", "en-US", "auto", "en-US"),
        ("fr-FR, en-US", "ja", "", "fr-FR"),
        ("fr-FR", "multi", "", "multi"),
        ("fr-FR", "en-US", "de", "de"),
        ("", "en-US", "", "en-US"),
    ],
)
async def test_without_a_language_riva_is_asked_for_one_that_its_model_speaks(
    listed: str, default: str, wanted: str, sent: str
) -> None:
    riva = ScriptedRiva(languages=listed)
    async with serving(riva) as address:
        asking = client(address, language=default)
        await asking.models()
        await transcribed(asking, config=RecognitionConfig(language=wanted))
    assert riva.calls[-1].config.language_code == sent


@pytest.mark.parametrize(
    ("languages", "wanted", "told"),
    [(("bg", "en"), "auto", ""), (("bg", "en"), "", "en-US"), (("fr",), "auto", "fr"), (("fr",), "", "fr")],
)
async def test_an_engine_of_perch_is_left_to_say_what_is_spoken_if_nobody_named_it(
    languages: tuple[str, ...], wanted: str, told: str
) -> None:
    recogniser = ScriptedRecogniser(replace(CAPABILITIES, languages=languages))
    async with engine_over(recogniser) as engine:
        asking = client(engine.address)
        await asking.models()
        events = await transcribed(asking, SPEECH, config=RecognitionConfig(language=wanted))
    await recogniser.aclose()
    assert {event.language for event in events if isinstance(event, Final)} == {told}


async def test_everything_a_caller_chooses_reaches_riva() -> None:
    wanted = RecognitionConfig(
        language="es-US",
        model="m",
        punctuation=True,
        profanity_filter=True,
        verbatim=False,
        max_alternatives=3,
        hotwords=(HotWords(("antiberta", "abodybuilder"), 20.0),),
        max_speakers=4,
        endpointing=Endpointing(stop_history_ms=480, stop_threshold=0.9),
        custom={"neural_vad.onset": "0.65"},
    )
    riva = ScriptedRiva()
    async with serving(riva) as address:
        await transcribed(client(address), config=wanted, hotwords=["perch"], enable_partials=False)
    sent = riva.calls[0].config
    assert (sent.language_code, sent.model, sent.max_alternatives) == ("es-US", "m", 3)
    assert (sent.encoding, sent.sample_rate_hertz, sent.audio_channel_count) == (
        AudioEncoding.LINEAR_PCM,
        16_000,
        1,
    )
    assert sent.enable_automatic_punctuation
    assert sent.profanity_filter
    assert not sent.verbatim_transcripts
    assert sent.enable_word_time_offsets
    assert [(list(c.phrases), c.boost) for c in sent.speech_contexts] == [
        (["antiberta", "abodybuilder"], 20),
        (["perch"], 0),
    ]
    assert (
        sent.diarization_config.enable_speaker_diarization,
        sent.diarization_config.max_speaker_count,
    ) == (True, 4)
    assert (sent.endpointing_config.stop_history, sent.endpointing_config.HasField("start_history")) == (
        480,
        False,
    )
    assert dict(sent.custom_configuration) == {"neural_vad.onset": "0.65"}
    assert not riva.calls[0].requests[0].streaming_config.interim_results


async def test_bearer_and_metadata_are_sent_on_every_rpc() -> None:
    riva = ScriptedRiva(offline=asr.RecognizeResponse())
    async with serving(riva) as address:
        asking = client(address, api_key="sekret", metadata=(("Function-Id", "abc"),))
        await asking.models()
        await asking.recognize(bytes(320), RecognitionConfig())
        await transcribed(asking)
    assert len(riva.calls) == 3
    for call in riva.calls:
        assert ("authorization", "Bearer sekret") in call.metadata
        assert ("function-id", "abc") in call.metadata
    assert "sekret" not in repr(RivaConfig(api_key="sekret"))


async def test_models_lists_what_the_server_says() -> None:
    async with serving(ScriptedRiva()) as address:
        asking = client(address)
        [model] = await asking.models()
        await asking.aclose()
    assert (model.name, model.languages, model.streaming, model.offline) == (
        "parakeet-fake",
        ("en-US", "es-US"),
        True,
        False,
    )


async def test_nothing_listening_is_an_error_not_a_connection() -> None:
    asking = client("127.0.0.1:9")
    with pytest.raises(errors.EngineUnavailable):
        await asking.models()
    with pytest.raises(errors.EngineUnavailable):
        await transcribed(asking)


async def test_opening_is_tried_again_when_the_failure_is_transient() -> None:
    final = response(result("hello", final=True, words=[("hello", 0, 100)]))
    riva = ScriptedRiva(at_end=[final], failures=2)
    async with serving(riva) as address:
        [event] = await transcribed(client(address), SPEECH)
    assert event.text == "hello"
    assert riva.calls[2].audio == SPEECH, "the audio of the failed attempts is sent again, whole"


async def test_opening_is_not_tried_again_when_the_configuration_is_wrong() -> None:
    details = "Error: Unavailable model requested given these parameters: language_code=xx; "
    riva = ScriptedRiva(failures=9, status=grpc.StatusCode.INVALID_ARGUMENT, details=details)
    async with serving(riva) as address:
        with pytest.raises(errors.ModelUnavailable, match="language_code=xx"):
            await transcribed(client(address))
    assert len(riva.calls) == 1


async def test_retries_are_bounded() -> None:
    riva = ScriptedRiva(failures=99)
    async with serving(riva) as address:
        with pytest.raises(errors.EngineUnavailable):
            await transcribed(client(address))
    assert len(riva.calls) > 1


async def test_audio_that_breaks_every_engine_is_given_up() -> None:
    def answer(number: int, _: object) -> list[object]:
        if number == 2:
            raise RuntimeError("engine bug")
        return [response(result("a", stability=0.5))] if number == 1 else []

    riva = ScriptedRiva(answer)
    async with serving(riva) as address:
        with pytest.raises(errors.EngineFault):
            await transcribed(client(address, pool=PoolConfig(fail_max=100)), SPEECH)
    assert len(riva.calls) == StreamConfig().max_fruitless + 1


class Unfinished(ScriptedRiva):
    """Says a word, and does not come to an end."""

    async def StreamingRecognize(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for answer in super().StreamingRecognize(requests, context):
            yield answer
        await asyncio.Event().wait()


async def test_a_stream_that_no_engine_finishes_is_given_up() -> None:
    """Each says something first, so none of them is an engine that breaks at once."""
    riva = Unfinished(lambda number, _: [response(result("a", stability=0.5))] if number == 1 else [])
    hasty = AttemptTimeouts(finish_s=2.5)
    async with serving(riva) as address:
        with pytest.raises(errors.EngineFault):
            await transcribed(client(address, timeouts=hasty, stream=StreamConfig(max_fruitless=1)), SPEECH)
    assert len(riva.calls) == 2


async def test_the_breaker_opens_and_lets_one_probe_through_later() -> None:
    riva = ScriptedRiva(failures=2)
    async with serving(riva) as address:
        impatient = StreamConfig(outage_s=0.001, retry_delay_s=0.001)
        asking = client(address, pool=PoolConfig(fail_max=2, reset_timeout_s=60.0), stream=impatient)

        async def once() -> None:
            async for _ in asking.stream_transcribe(pieces(bytes(3200)), 16_000):
                pass

        for _ in range(2):
            with pytest.raises(errors.EngineUnavailable):
                await once()
        assert "open" in repr(asking.pool.endpoints)
        with pytest.raises(errors.EngineUnavailable) as refused:
            await once()
        assert refused.value.retry_after == 60.0
        assert len(riva.calls) == 2, "an open breaker does not try"
        asking.pool.endpoints[0].opened_at -= 60.0  # as if it were that long ago
        with asking.pool.lease() as probed:
            with pytest.raises(errors.EngineUnavailable):
                await once()
            asking.pool.answered(probed)
        await once()
        assert "closed" in repr(asking.pool.endpoints)
        await asking.aclose()


async def test_streams_are_spread_over_connections_below_the_cap() -> None:
    riva = ScriptedRiva()
    async with serving(riva) as address:
        asking = client(address, channel=channel(streams_per_channel=2))
        release = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield bytes(3200)
            await release.wait()

        async def one() -> None:
            async for _ in asking.stream_transcribe(slow(), 16_000):
                pass

        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(one())
            async with asyncio.timeout(30):
                while len(riva.calls) < 5:  # noqa: ASYNC110 - waits for the server to have seen them
                    await asyncio.sleep(0.01)
            [channels] = asking._channels.values()
            assert channels.streams == [2, 2, 1]
            release.set()
        await asking.aclose()


async def test_abandoning_the_events_ends_the_call() -> None:
    riva = ScriptedRiva(lambda number, _: [response(result(f"partial {number}"))] if number else [])
    async with serving(riva) as address:
        asking = client(address)
        stream = asking.stream_transcribe(pieces(bytes(320_000)), 16_000)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            await riva.ended.wait()
        assert [endpoint.active for endpoint in asking.pool.endpoints] == [0]
        await asking.aclose()


async def test_a_failing_source_of_audio_is_the_callers_error() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(3200)
        raise OSError("microphone unplugged")

    async with serving(ScriptedRiva()) as address:
        asking = client(address)
        with pytest.raises(OSError, match="unplugged"):
            async for _ in asking.stream_transcribe(broken(), 16_000):
                pass
        await asking.aclose()


async def test_a_black_hole_is_given_up_after_the_deadline() -> None:
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    impatient = AttemptTimeouts(connect_s=0.2)
    asking = client(
        f"127.0.0.1:{port}", timeouts=impatient, rpc_timeout_s=0.2, stream=StreamConfig(outage_s=0.01)
    )
    with pytest.raises(errors.EngineFault):
        await asking.models()
    with pytest.raises(errors.EngineUnavailable, match="in time"):
        await transcribed(asking)
    for writer in writers:
        writer.close()
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(tmp_path: Path, authority: trustme.CA, name: str) -> tuple[Path, Path, Path]:
    """CA, certificate and key as files."""
    issued = authority.issue_cert(name)
    paths = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.cert_pem.write_to_path(paths[0])
    issued.cert_chain_pems[0].write_to_path(paths[1])
    issued.private_key_pem.write_to_path(paths[2])
    return paths


def server_credentials(authority: trustme.CA, *, mutual: bool) -> grpc.ServerCredentials:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes() if mutual else None, mutual)


async def test_tls_verifies_the_server(tmp_path: Path, authority: trustme.CA) -> None:
    root, _, _ = files(tmp_path, authority, "client")
    async with serving(ScriptedRiva(), server_credentials(authority, mutual=False)) as address:
        trusting = client(address, channel=channel(root_cert=root))
        assert await trusting.models()
        await trusting.aclose()
        stranger = client(address, channel=channel(tls=True))
        with pytest.raises(errors.EngineUnavailable):
            await stranger.models()
        await stranger.aclose()


async def test_mutual_tls_needs_the_clients_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    root, cert, key = files(tmp_path, authority, "client")
    async with serving(ScriptedRiva(), server_credentials(authority, mutual=True)) as address:
        known = client(address, channel=channel(root_cert=root, client_cert=cert, client_key=key))
        assert await known.models()
        await known.aclose()
        nobody = client(address, channel=channel(root_cert=root))
        with pytest.raises(errors.EngineUnavailable):
            await nobody.models()
        await nobody.aclose()


async def test_a_recording_is_recognised_whole(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_wav(path, SPEECH)
    async with scripted_engine() as engine:
        asking = client(engine.address)
        finals = await asking.transcribe_file(path)
        await asking.aclose()
    assert [final.text for final in finals] == ["open the door", "a door"]
    assert finals[1].words[0].start > finals[0].words[-1].end


async def test_an_engine_without_an_offline_model_is_streamed_to(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_wav(path, SPEECH)
    riva = ScriptedRiva(at_end=[response(result("streamed", final=True, words=[("streamed", 0, 100)]))])
    async with serving(riva) as address:
        asking = client(address)
        finals = await asking.transcribe_file(path)
        await asking.aclose()
    assert [final.text for final in finals] == ["streamed"]
    assert riva.calls[1].audio == SPEECH


def write_wav(path: Path, pcm: bytes) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(pcm)


async def test_mock_mode_is_the_same_interface_and_labels_itself() -> None:
    mock = RivaASRClient(mock_mode=True)
    loud = (b"\x00\x40\x00\xc0" * 800) * 10
    events = [event async for event in mock.stream_transcribe(pieces(loud + bytes(32_000)), 16_000)]
    assert events[-1].is_final
    assert events[-1].text.startswith("mock")
    assert mock.backend.kind == "mock"
    silence = [event async for event in mock.stream_transcribe(pieces(bytes(96_000)), 16_000)]
    assert silence == []


async def test_the_loop_is_never_blocked_while_streaming() -> None:
    worst = 0.0

    async def probe() -> None:
        nonlocal worst
        while True:
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - due)

    async def paced() -> AsyncIterator[bytes]:
        async for piece in pieces(SPEECH):
            yield piece
            await asyncio.sleep(0.02)

    async with serving(ScriptedRiva(lambda number, _: [response(result(f"w{number}"))])) as address:
        asking = client(address)
        probing = asyncio.create_task(probe())
        began = time.monotonic()
        async for _ in asking.stream_transcribe(paced(), 16_000):
            pass
        took = time.monotonic() - began
        probing.cancel()
        await asyncio.wait([probing])
        await asking.aclose()
    assert worst < took / 2, "a blocking call would stall the loop for the whole stream"
