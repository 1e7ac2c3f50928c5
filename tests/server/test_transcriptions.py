"""Recordings over HTTP: every format, streamed answers, channels, limits and refusals, on a real engine."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio.recordings import encode, riff
from engine.test_recording import engine as model_engine
from engines import LONG_PAUSE, scripted_engine
from gateways import Gateway, gateway
from perch.asr.mock import MockASRClient
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.audio.tones import synthesise
from perch.core.messages import Backend, Final
from perch.core.speech import RecognitionConfig, Word
from perch.errors import BadConfig, ClientFault
from perch.protocols import rest_openai
from perch.server.config import AdmissionConfig, GatewayConfig
from perch.server.lifecycle import drain
from server.test_dialects import stereo

SAID = ["hello bird", "stop now"]
TEXT = " ".join(SAID)
PCM = synthesise(SAID, LONG_PAUSE)
WAV = riff(PCM)
PATH = "/v1/audio/transcriptions"


@asynccontextmanager
async def serving(config: GatewayConfig | None = None) -> AsyncIterator[Gateway]:
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,), backend=Backend("engine")))
        async with gateway(client, config) as at:
            yield at


def form(file: bytes | None = WAV, **fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            data.add_field(name.replace("__", "[]"), one)
    if file is not None:
        data.add_field("file", io.BytesIO(file), filename="a.wav", content_type="audio/wav")
    return data


async def post(at: Gateway, file: bytes | None = WAV, **fields: Any) -> tuple[int, str]:
    async with at.client.post(at.http + PATH, data=form(file, **fields)) as response:
        return response.status, await response.text()


async def opened(at: Gateway) -> None:
    """Until the gateway has begun with a recording."""
    async with asyncio.timeout(30):
        while not len(at.parts.sessions):  # noqa: ASYNC110 - of no interest to the product
            await asyncio.sleep(0.01)


async def test_json_and_text() -> None:
    async with serving() as at:
        status, body = await post(at, model="whisper-1")
        assert status == 200
        assert json.loads(body) == {
            "text": TEXT,
            "usage": {"type": "duration", "seconds": pytest.approx(len(PCM) / 32_000, abs=0.01)},
        }
        assert await post(at, response_format="text") == (200, TEXT + "\n")


async def test_subtitles_have_the_times_of_the_words() -> None:
    async with serving() as at:
        _, srt = await post(at, response_format="srt")
        _, vtt = await post(at, response_format="vtt")
    assert srt.startswith("1\n00:00:00,3")
    assert " --> " in srt
    assert [line for line in srt.splitlines() if line in SAID] == SAID
    assert vtt.startswith("WEBVTT\n\n00:00:00.3")


async def test_verbose_json_has_segments_and_words_as_asked_for() -> None:
    async with serving() as at:
        _, body = await post(
            at, response_format="verbose_json", timestamp_granularities__=["word", "segment"]
        )
        both = json.loads(body)
        _, body = await post(at, response_format="verbose_json")
    assert [segment["text"] for segment in both["segments"]] == SAID
    assert [word["word"] for word in both["words"]] == TEXT.split()
    starts = [word["start"] for word in both["words"]]
    assert starts == sorted(starts)
    assert starts[0] == pytest.approx(0.3, abs=0.05)
    assert "words" not in json.loads(body)


async def test_a_model_that_spells_says_when_each_part_of_a_word_was_spoken() -> None:
    async with model_engine() as (engine, _):
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,), backend=Backend("engine")))
        async with gateway(client) as at:
            granularities = ["word", "char"]
            status, body = await post(
                at, response_format="verbose_json", timestamp_granularities__=granularities
            )
            kept = await later(at, WAV, granularity="char")
            _, plain = await post(at, response_format="verbose_json", timestamp_granularities__="word")
    told = json.loads(body)
    assert status == 200
    assert [word["word"] for word in told["words"]] == TEXT.split()
    assert "".join(one["char"] for one in told["chars"]) == TEXT.replace(" ", "")
    assert [one["char"] for one in told["chars"][:2]] == ["h", "ello"]
    first, second, *_ = told["chars"]
    assert told["words"][0]["start"] == first["start"] < first["end"] == second["start"] < second["end"]
    assert second["end"] == told["words"][0]["end"]
    assert [one for segment in kept["segments"] for one in segment["chars"]] == told["chars"]
    assert json.loads(plain)["words"] == told["words"]


async def test_of_a_model_that_does_not_spell_no_characters_can_be_had() -> None:
    async with serving() as at:
        status, body = await post(at, response_format="verbose_json", timestamp_granularities__="char")
    assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")
    assert "word or segment" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3", "webm", "m4a", "mp4"])
async def test_any_common_file_is_understood(kind: str) -> None:
    async with serving() as at:
        status, body = await post(at, encode(kind, PCM))
    assert (status, json.loads(body)["text"]) == (200, TEXT)


async def test_a_streamed_answer_adds_up_and_tells_of_progress() -> None:
    async with serving() as at:
        status, body = await post(at, stream="true")
    assert status == 200
    lines = [line for line in body.splitlines() if line]
    assert any(line.startswith(": ") and " of " in line for line in lines), "progress, as comments"
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    events = [json.loads(line) for line in data]
    assert "".join(event["delta"] for event in events[:-1]) == TEXT
    assert (events[-1]["type"], events[-1]["text"]) == ("transcript.text.done", TEXT)


async def test_a_mistake_is_refused_with_what_would_be_right() -> None:
    """004-30; C.2: errors in the shape OpenAI's clients know."""
    async with serving() as at:
        for fields, part in (
            ({"response_format": "xml"}, "verbose_json"),
            ({"language": "fr"}, "only supports English"),
            ({"model": "mine"}, "scripted"),
            ({"timestamp_granularities__": "letter"}, "word, segment and char"),
            ({"stream": "perhaps"}, "true or false"),
        ):
            status, body = await post(at, WAV, **fields)
            error = json.loads(body)["error"]
            assert (status, error["type"]) == (400, "invalid_request_error")
            assert part in error["message"]
        for file in (b"", b"no audio at all", WAV[:30] * 2, None):
            status, body = await post(at, file)
            assert status == 400
            assert json.loads(body)["error"]["code"] in {"bad_audio", "bad_message"}
        async with at.client.post(at.http + PATH, json={"file": "x"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "bad_message")
        async with at.client.post(at.http + "/v1/audio/translations", data=form()) as response:
            assert response.status == 501


async def test_a_recording_beyond_the_limit_is_refused_while_it_comes() -> None:
    config = GatewayConfig(max_upload_bytes=100_000)
    async with serving(config) as at:
        status, body = await post(at, bytes(300_000))
        assert (status, json.loads(body)["error"]["code"]) == (413, "message_too_big")

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield bytes(10_000)

        async with at.client.post(at.http + "/v1/listen", data=endless()) as response:
            assert response.status == 413
        assert len(at.parts.sessions) == 0


async def test_a_recording_takes_a_place_and_is_refused_when_there_is_none() -> None:
    config = GatewayConfig(admission=AdmissionConfig(max_sessions=1))
    async with serving(config) as at, at.client.ws_connect(at.ws) as socket:
        await socket.send_bytes(bytes(3200))
        await socket.receive()
        async with at.client.post(at.http + PATH, data=form()) as response:
            assert response.status == 503
            assert "Retry-After" in response.headers


async def test_a_drain_ends_a_recording_with_a_retryable_answer() -> None:
    async with serving() as at:
        long = riff(synthesise(["hello bird"], LONG_PAUSE) + bytes(32_000 * 3000))
        posting = asyncio.create_task(post(at, long))
        await opened(at)
        await drain(at.parts, 0.05, asyncio.Event())
        status, body = await posting
        assert (status, json.loads(body)["error"]["code"]) == (503, "going_away")


async def test_a_client_that_goes_away_frees_its_place() -> None:
    async with serving() as at:
        long = riff(bytes(32_000 * 3000))
        posting = asyncio.create_task(post(at, long))
        await opened(at)
        posting.cancel()
        async with asyncio.timeout(30):
            await at.parts.sessions.wait_empty()
        assert at.parts.admission.active == 0


async def test_memory_does_not_grow_with_the_recording() -> None:
    """C.2: a large upload goes to disk, and its samples come back a piece at a time."""
    minutes = 40
    file = riff(bytes(32_000 * 60 * minutes))
    async with serving() as at:
        await post(at)
        before = psutil.Process().memory_info().rss
        status, body = await post(at, file)
        grown = psutil.Process().memory_info().rss - before
    assert status == 200
    assert json.loads(body)["usage"]["seconds"] == 60 * minutes
    assert grown < len(file), "the engine and the test are in this process too"


async def test_a_mock_says_so() -> None:
    async with gateway(MockASRClient()) as at:
        _, body = await post(at)
        assert json.loads(body)["mock"] is True


# --- answers that come later ----------------------------------------------------------------------------


async def later(at: Gateway, file: bytes, granularity: str = "", **headers: str) -> dict[str, Any]:
    """A transcription to its end, asked for until then."""
    headers["Prefer"] = "respond-async"
    async with at.client.post(
        at.http + PATH, data=form(file, timestamp_granularities__=granularity), headers=headers
    ) as response:
        body = await response.json()
        assert response.status == 201, body
    assert body["id"].startswith("job_")
    async with asyncio.timeout(20):
        while body["status"] in {"pending", "running"}:
            await asyncio.sleep(0.02)
            async with at.client.get(f"{at.http}{PATH}/{body['id']}", headers=headers) as response:
                body = await response.json()
    result: dict[str, Any] = body
    return result


async def test_an_answer_may_come_later() -> None:
    """004-28, 004-29."""
    async with serving() as at:
        job = await later(at, WAV)
        assert (job["status"], job["text"]) == ("completed", TEXT)
        assert [segment["text"] for segment in job["segments"]] == SAID
        words = [word for segment in job["segments"] for word in segment["words"]]
        assert [word["word"] for word in words] == TEXT.split()
        assert at.parts.admission.active == 0
        failed = await later(at, b"no audio at all")
        assert (failed["status"], failed["error"]["code"]) == ("failed", "bad_audio")
        async with at.client.get(f"{at.http}{PATH}/job_0") as response:
            assert response.status == 404


async def test_a_transcription_is_its_callers_alone() -> None:
    async with serving(GatewayConfig(api_keys=("one", "two"))) as at:
        job = await later(at, WAV, "", **{"X-API-Key": "one"})
        async with at.client.get(f"{at.http}{PATH}/{job['id']}", headers={"X-API-Key": "two"}) as response:
            assert response.status == 404


# --- Deepgram --------------------------------------------------------------------------------------------


async def test_deepgrams_answer_for_a_recording() -> None:
    async with serving() as at:
        url = at.http + "/v1/listen?model=nova-3&utterances=true"
        async with at.client.post(url, data=WAV, headers={"Content-Type": "audio/wav"}) as response:
            body = await response.json()
    [channel] = body["results"]["channels"]
    assert channel["alternatives"][0]["transcript"] == TEXT
    assert [one["transcript"] for one in body["results"]["utterances"]] == SAID
    assert body["metadata"]["duration"] == pytest.approx(len(PCM) / 32_000, abs=0.01)
    assert len(body["metadata"]["sha256"]) == 64


async def test_deepgrams_channels_apart() -> None:
    other = synthesise(["open the door"], LONG_PAUSE)
    async with serving() as at:
        url = at.http + "/v1/listen?multichannel=true"
        async with at.client.post(url, data=riff(stereo(PCM, other), channels=2)) as response:
            body = await response.json()
    said = [channel["alternatives"][0]["transcript"] for channel in body["results"]["channels"]]
    assert said == [TEXT, "open the door"]


async def test_an_address_is_not_fetched_unless_the_operator_allows_it() -> None:
    """X-10."""
    async with serving() as at:
        async with at.client.post(
            at.http + "/v1/listen", json={"url": "https://example.com/a.wav"}
        ) as response:
            assert (response.status, (await response.json())["err_code"]) == (400, "URL_REFUSED")
        async with at.client.post(at.http + "/v1/listen", json=["x"]) as response:
            assert response.status == 400


# --- what NIM's clients ask ------------------------------------------------------------------------------


async def test_nims_health_and_metadata() -> None:
    async with serving() as at:
        for path in ("live", "ready"):
            async with at.client.get(f"{at.http}/v1/health/{path}") as response:
                assert response.status == 200
        async with at.client.get(f"{at.http}/v1/metadata") as response:
            assert (await response.json())["modelInfo"][0]["shortName"] == "scripted"


# --- values ----------------------------------------------------------------------------------------------


def test_speakers_are_told_apart_or_the_request_is_refused() -> None:
    wanted = rest_openai.Wanted(RecognitionConfig(), "diarized_json")
    words = (Word("a", 0, 10, speaker=1), Word("b", 10, 20, speaker=1), Word("c", 20, 30, speaker=2))
    body = rest_openai.answer(wanted, [Final(0, "a b c", 0, 30, words)], 30)
    assert isinstance(body, dict)
    assert [(turn["speaker"], turn["text"]) for turn in body["segments"]] == [
        ("speaker_1", "a b"),
        ("speaker_2", "c"),
    ]
    with pytest.raises(BadConfig, match="speakers"):
        rest_openai.answer(wanted, [Final(0, "a", 0, 30, (Word("a", 0, 10),))], 30)


@given(fields=st.lists(st.tuples(st.sampled_from([
    "model", "language", "response_format", "stream", "timestamp_granularities[]", "keywords[]", "x",
]), st.text(max_size=20)), max_size=8))  # fmt: skip
def test_any_fields_are_understood_or_refused(fields: list[tuple[str, str]]) -> None:
    try:
        rest_openai.parse(fields, RecognitionConfig(), [])
    except ClientFault as error:
        if not error.message:
            raise


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=400))
def test_any_body_gets_a_coded_answer(body: bytes) -> None:
    async def main() -> None:
        async with gateway(MockASRClient()) as at:
            for kind in ("multipart/form-data; boundary=x", "audio/wav", "application/json"):
                for path in (PATH, "/v1/listen"):
                    async with at.client.post(
                        at.http + path, data=body, headers={"Content-Type": kind}
                    ) as answer:
                        assert answer.status in {400, 413}
                        assert await answer.json()

    asyncio.run(main())
