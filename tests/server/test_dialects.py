"""Every dialect over a real socket and a real engine: what its clients send, and what they then have."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest

from engines import LONG_PAUSE, engine_over, scripted_engine
from gateways import DEADLINE_S, Gateway, cut, gateway, transcribe
from perch.asr.mock import MockASRClient
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.audio.tones import synthesise
from perch.core.messages import Backend
from perch.core.speech import RecognitionConfig
from perch.inference.scripted import ScriptedRecogniser, ScriptedVoice
from perch.protocols.deepgram import DeepgramProtocol
from perch.server.config import GatewayConfig
from perch.server.lifecycle import drain

SAID = ["hello bird", "stop now"]
TEXT = " ".join(SAID)
PCM = synthesise(SAID, LONG_PAUSE)
OTHER = synthesise(["open the door"], LONG_PAUSE)


@asynccontextmanager
async def serving(config: GatewayConfig | None = None) -> AsyncIterator[Gateway]:
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,), backend=Backend("engine")))
        async with gateway(client, config) as at:
            yield at


@asynccontextmanager
async def connected(at: Gateway, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = at.http.replace("http", "ws") + path
    async with asyncio.timeout(DEADLINE_S), at.client.ws_connect(url, **options) as socket:
        yield socket


async def rest_of(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    """Everything until the server closes."""
    return [json.loads(message.data) async for message in socket]


async def until(socket: aiohttp.ClientWebSocketResponse, **fields: Any) -> list[dict[str, Any]]:
    """Everything until a frame that has ``fields``, that one included."""
    heard: list[dict[str, Any]] = []
    while not heard or any(heard[-1].get(name) != value for name, value in fields.items()):
        heard.append(await socket.receive_json())
    return heard


def append(pcm: bytes, **fields: Any) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode(), **fields}


def stereo(left: bytes, right: bytes) -> bytes:
    length = max(len(left), len(right))
    channels = [np.frombuffer(pcm.ljust(length, b"\0"), dtype="<i2") for pcm in (left, right)]
    return np.stack(channels, axis=1).tobytes()


def triple(pcm: bytes) -> bytes:
    """From 16 to 48 kHz, roughly."""
    return np.repeat(np.frombuffer(pcm, dtype="<i2"), 3).tobytes()


def at_24k(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    positions = np.arange(len(samples) * 3 // 2) * 2 / 3
    return np.interp(positions, np.arange(len(samples)), samples).astype("<i2").tobytes()


# --- native, several channels ----------------------------------------------------------------------------


async def test_channels_are_recognised_apart_on_one_clock() -> None:
    """003 C.3: one mono stream for each channel, merged and labelled."""
    async with serving() as at:
        heard = await transcribe(at, cut(stereo(PCM, OTHER), 6400), start={"channels": 2})
    finals = heard.of("final")
    said = [" ".join(f["text"] for f in finals if f["channel"] == channel) for channel in (0, 1)]
    assert said == [TEXT, "open the door"]
    segments = [final["segment"] for final in finals]
    assert sorted(segments) == list(range(len(finals))), "segment numbers are the session's"
    assert heard.of("done")[0]["segments"] == 3
    for channel in (0, 1):
        starts = [w["start"] for f in finals if f["channel"] == channel for w in f["words"]]
        assert starts == sorted(starts)
        assert starts[0] == pytest.approx(0.3, abs=0.05)


async def test_mixed_channels_are_one_stream() -> None:
    async with serving() as at:
        silence = bytes(len(PCM))
        heard = await transcribe(at, cut(stereo(PCM, silence), 6400), start={"channels": 2, "mix": True})
    assert heard.text == TEXT
    assert "channel" not in heard.of("final")[0]


async def test_a_compressed_session_cannot_be_resumed_and_says_so() -> None:
    async with serving() as at, at.client.ws_connect(at.ws + "?encoding=container") as socket:
        ready = await socket.receive_json()
        assert ready["resume"] is None
        assert ready["config"]["encoding"] == "container"


# --- NIM realtime ----------------------------------------------------------------------------------------


async def nim_session(socket: aiohttp.ClientWebSocketResponse, **changes: Any) -> dict[str, Any]:
    assert (await socket.receive_json())["type"] == "conversation.created"
    await socket.send_json({"type": "transcription_session.update", "session": changes})
    updated: dict[str, Any] = await socket.receive_json()
    assert updated["type"] == "transcription_session.updated", "NVIDIA's client takes nothing else here"
    session: dict[str, Any] = updated["session"]
    return session


async def test_nim_realtime_as_nvidias_client_speaks_it() -> None:
    wanted = {"recognition_config": {"enable_word_time_offsets": True}, "unknown": {"kept": 1}}
    async with serving() as at, connected(at, "/v1/realtime?intent=transcription") as socket:
        session = await nim_session(socket, **wanted)
        assert session["unknown"] == {"kept": 1}
        for chunk in cut(PCM):
            await socket.send_json(append(chunk))
            await socket.send_json({"type": "input_audio_buffer.commit"})
        await socket.send_json({"type": "input_audio_buffer.done"})
        events = await rest_of(socket)
        assert socket.close_code == 1000
    completed = [event for event in events if event["type"].endswith(".completed")]
    assert [event["is_last_result"] for event in completed] == [False, False, True]
    assert completed[-1]["transcript"] == TEXT
    assert [event["transcript"] for event in completed[:-1]] == SAID
    word = completed[0]["words_info"]["words"][0]
    assert (word["word"], type(word["start_time"]), type(word["speaker_tag"])) == ("hello", int, int)
    assert 250 < word["start_time"] < 350
    assert completed[-1]["usage"]["seconds"] == pytest.approx(len(PCM) / 32_000, abs=0.01)
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas
    assert all(any(said.startswith(delta) for said in SAID) for delta in deltas), "whole hypotheses"


async def test_nim_takes_a_wav_as_it_is_and_a_forced_end() -> None:
    wav = (
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\xff\xff\xff\xff"
    )
    async with serving() as at, connected(at, "/v1/realtime?intent=transcription") as socket:
        await nim_session(socket, input_audio_format="none")
        pieces = list(cut(wav + PCM, 3000))
        for chunk in pieces[:-1]:
            await socket.send_json(append(chunk))
        await socket.send_json(append(pieces[-1], runtime_config={"force_eou": "true"}))
        await socket.send_json({"type": "input_audio_buffer.done"})
        events = await rest_of(socket)
    assert [e["transcript"] for e in events if e.get("is_last_result")] == [TEXT]


async def test_a_mistake_in_realtime_is_said_and_ends_nothing() -> None:
    async with serving() as at, connected(at, "/v1/realtime?intent=transcription") as socket:
        await nim_session(socket)
        for frame in (
            "no json",
            "[1]",
            '{"type": "what"}',
            '{"type": 5}',
            json.dumps(append(b"") | {"audio": "?"}),
        ):
            await socket.send_str(frame)
            error = await socket.receive_json()
            assert (error["type"], error["error"]["code"]) == ("error", "bad_message")
        await socket.send_json(append(PCM))
        await socket.send_json({"type": "input_audio_buffer.done"})
        assert (await rest_of(socket))[-1]["transcript"] == TEXT


# --- OpenAI realtime -------------------------------------------------------------------------------------


def ga(**audio_input: Any) -> dict[str, Any]:
    session = {"type": "transcription", "audio": {"input": audio_input}}
    return {"type": "session.update", "session": session}


async def test_openai_realtime_gives_an_item_for_each_turn() -> None:
    async with serving() as at, connected(at, "/v1/realtime?model=gpt-4o-transcribe") as socket:
        created = await socket.receive_json()
        assert (created["type"], created["session"]["type"]) == ("session.created", "transcription")
        await socket.send_json(ga(transcription={"model": "whisper-1", "language": "en"}))
        assert (await socket.receive_json())["type"] == "session.updated"
        for chunk in cut(at_24k(PCM + bytes(64_000)), 4800):
            await socket.send_json(append(chunk))
        events = [e for _ in SAID for e in await until(socket, type=f"{TRANSCRIPTION}.completed")]
    completed = [event for event in events if event["type"].endswith(".completed")]
    assert [event["transcript"] for event in completed] == SAID
    assert all(event["usage"]["type"] == "duration" for event in completed)
    assert len({event["item_id"] for event in completed}) == 2
    for event in completed:
        of_item = [e for e in events if e.get("item_id") == event["item_id"]]
        kinds = [e["type"].removeprefix("input_audio_buffer.") for e in of_item]
        assert kinds.index("speech_started") < kinds.index("speech_stopped") < kinds.index("committed")
        deltas = "".join(e["delta"] for e in of_item if e["type"].endswith(".delta"))
        assert deltas == event["transcript"], "deltas add up to the transcript"


TRANSCRIPTION = "conversation.item.input_audio_transcription"


async def test_without_turn_detection_each_commit_gets_its_transcript_even_an_empty_one() -> None:
    form = {"type": "audio/pcm", "rate": 16_000}
    async with serving() as at, connected(at, "/openai/v1/realtime") as socket:
        await socket.receive_json()
        await socket.send_json(ga(format=form, turn_detection=None))
        await socket.receive_json()
        await socket.send_json({"type": "input_audio_buffer.commit"})
        assert (await socket.receive_json())["error"]["code"] == "input_audio_buffer_commit_empty"
        items = []
        for said, pcm in (
            ("hello bird", synthesise(["hello bird"])),
            ("", bytes(16_000)),
            ("stop", synthesise(["stop"])),
        ):
            await socket.send_json(append(pcm))
            await socket.send_json({"type": "input_audio_buffer.commit"})
            events = await until(socket, type=f"{TRANSCRIPTION}.completed")
            assert events[-1]["transcript"] == said
            assert [e["item_id"] for e in events if e["type"].endswith("committed")] == [
                events[-1]["item_id"]
            ]
            items.append(events[-1]["item_id"])
        assert len(set(items)) == 3


class Slow(ScriptedRecogniser):
    """Takes a while to begin with a stream, as one does whose machine is busy."""

    async def open(self, config: RecognitionConfig) -> ScriptedVoice:
        await asyncio.sleep(1.5)
        return await super().open(config)


async def test_a_commit_waits_for_an_engine_that_has_not_answered_yet() -> None:
    form = {"type": "audio/pcm", "rate": 16_000}
    async with engine_over(Slow()) as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,), backend=Backend("engine")))
        async with gateway(client) as at, connected(at, "/openai/v1/realtime") as socket:
            await socket.send_json(ga(format=form, turn_detection=None))
            await socket.send_json(append(synthesise(["hello bird"])))
            await socket.send_json({"type": "input_audio_buffer.commit"})
            events = await until(socket, type=f"{TRANSCRIPTION}.completed")
    assert events[-1]["transcript"] == "hello bird"


async def test_the_beta_has_its_own_names() -> None:
    headers = {"OpenAI-Beta": "realtime=v1"}
    async with serving() as at, connected(at, "/v1/realtime?intent=transcription", headers=headers) as socket:
        assert (await socket.receive_json())["type"] == "transcription_session.created"
        change = {"input_audio_format": "pcm16", "turn_detection": None}
        await socket.send_json({"type": "transcription_session.update", "session": change})
        assert (await socket.receive_json())["type"] == "transcription_session.updated"
        await socket.send_json(append(at_24k(PCM)))
        await socket.send_json({"type": "input_audio_buffer.commit"})
        events = await until(socket, type=f"{TRANSCRIPTION}.completed")
    assert events[-1]["transcript"] == TEXT
    assert any(event["type"] == "conversation.item.created" for event in events)


async def test_an_unknown_model_or_language_is_refused_by_name() -> None:
    """004-30, 004-31."""
    async with serving() as at, connected(at, "/v1/realtime") as socket:
        await socket.receive_json()
        await socket.send_json(ga(transcription={"model": "nothing"}))
        error = (await socket.receive_json())["error"]
        assert (error["code"], "scripted" in error["message"]) == ("model_unavailable", True)
        await socket.send_json(ga(transcription={"language": "fr"}))
        error = (await socket.receive_json())["error"]
        assert error["code"] == "language_unsupported"
        assert "only supports English" in error["message"]


# --- Deepgram --------------------------------------------------------------------------------------------

LISTEN = "/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000"


async def test_deepgram_results_cover_the_audio_without_gaps() -> None:
    query = "&interim_results=true&vad_events=true&utterance_end_ms=1000"
    async with serving() as at, connected(at, LISTEN + query) as socket:
        for chunk in cut(PCM):
            await socket.send_bytes(chunk)
            await asyncio.sleep(0)
        await socket.send_json({"type": "KeepAlive"})
        await socket.send_json({"type": "CloseStream"})
        events = await rest_of(socket)
        assert socket.close_code == 1000
    finals = [event for event in events if event.get("is_final")]
    assert [f["channel"]["alternatives"][0]["transcript"] for f in finals] == SAID
    assert [f["start"] for f in finals] == [0.0, pytest.approx(finals[0]["start"] + finals[0]["duration"])]
    assert finals[0]["channel"]["alternatives"][0]["words"][0]["start"] == pytest.approx(0.3, abs=0.05)
    assert events[-1]["type"] == "Metadata"
    assert events[-1]["duration"] == pytest.approx(len(PCM) / 32_000, abs=0.01)
    kinds = [event["type"] for event in events]
    assert {"SpeechStarted", "UtteranceEnd"} <= set(kinds)
    assert any(e["type"] == "Results" and not e["is_final"] for e in events)


async def test_deepgram_answers_each_finalize() -> None:
    async with serving() as at, connected(at, LISTEN) as socket:
        for said in ("hello", ""):
            await socket.send_bytes(synthesise([said]) if said else bytes(16_000))
            await socket.send_json({"type": "Finalize"})
            result = (await until(socket, from_finalize=True))[-1]
            assert result["channel"]["alternatives"][0]["transcript"] == said


async def test_deepgram_answers_a_finalize_before_any_audio() -> None:
    async with serving() as at, connected(at, LISTEN) as socket:
        await socket.send_json({"type": "Finalize"})
        assert (await socket.receive_json())["from_finalize"] is True
        await socket.send_bytes(synthesise(["hello"]))
        await socket.send_json({"type": "CloseStream"})
        assert (await rest_of(socket))[-1]["type"] == "Metadata"


async def test_deepgram_clients_that_wait_for_what_they_finalized_are_not_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DeepgramProtocol, "idle_timeout_s", 0.5)
    async with engine_over(Slow()) as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,), backend=Backend("engine")))
        async with gateway(client) as at, connected(at, LISTEN) as socket:
            await socket.send_bytes(synthesise(["hello bird"]))
            await socket.send_json({"type": "Finalize"})
            events = await rest_of(socket)
    assert events[-2]["channel"]["alternatives"][0]["transcript"] == "hello bird"
    assert events[-2]["from_finalize"] is True
    assert (events[-1]["type"], events[-1]["variant"]) == ("Error", "NET-0001"), "idle once it has its answer"


async def test_deepgram_multichannel_says_which_channel() -> None:
    async with serving() as at, connected(at, LISTEN + "&channels=2&multichannel=true") as socket:
        for chunk in cut(stereo(PCM, OTHER), 6400):
            await socket.send_bytes(chunk)
        await socket.send_bytes(b"")
        events = await rest_of(socket)
    said = {
        channel: [
            e["channel"]["alternatives"][0]["transcript"]
            for e in events
            if e.get("is_final") and e["channel_index"] == [channel, 2]
        ]
        for channel in (0, 1)
    }
    assert said == {0: SAID, 1: ["open the door"]}


@pytest.mark.parametrize(
    "query",
    [
        "encoding=speex", "encoding=linear16", "encoding=linear16&sample_rate=1", "channels=0",
        "encoding=nothing", "callback=http://x", "utterance_end_ms=5", "language=fr", "model=mine",
        "endpointing=soon", "diarize=perhaps",
    ],
)  # fmt: skip
async def test_what_deepgram_parameters_cannot_have_is_refused_before_the_upgrade(query: str) -> None:
    async with serving() as at:
        async with at.client.get(f"{at.http}/v1/listen?{query}", headers=UPGRADE) as refused:
            body = await refused.json()
        assert refused.status == 400
        assert body["err_msg"]


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


async def test_deepgram_is_told_of_audio_that_is_none() -> None:
    async with serving() as at, connected(at, "/v1/listen") as socket:
        await socket.send_bytes(bytes(100))
        events = await rest_of(socket)
        assert (events[-1]["type"], events[-1]["variant"]) == ("Error", "DATA-0000")
        assert socket.close_code == 1008


# --- AssemblyAI, Vosk, AudioCodes ------------------------------------------------------------------------


async def test_assemblyai_turns() -> None:
    async with serving() as at, connected(at, "/v3/ws?sample_rate=16000&format_turns=true") as socket:
        assert (await socket.receive_json())["type"] == "Begin"
        for chunk in cut(PCM):
            await socket.send_bytes(chunk)
        await socket.send_json({"type": "Terminate"})
        events = await rest_of(socket)
        assert socket.close_code == 1000
    turns = [event for event in events if event["type"] == "Turn" and event["end_of_turn"]]
    assert [t["transcript"] for t in turns if t["turn_is_formatted"]] == SAID
    assert [t["turn_order"] for t in turns] == [0, 0, 1, 1]
    assert turns[0]["words"][0]["start"] == pytest.approx(300, abs=50)
    assert events[-1]["audio_duration_seconds"] == pytest.approx(len(PCM) / 32_000, abs=0.01)


async def test_assemblyai_ends_a_turn_when_told_to_and_explains_a_refusal() -> None:
    async with serving() as at, connected(at, "/v3/ws") as socket:
        await socket.receive_json()
        await socket.send_bytes(synthesise(["hello"]))
        await socket.send_json({"type": "ForceEndpoint"})
        assert (await until(socket, end_of_turn=True))[-1]["transcript"] == "hello"
        await socket.send_json({"type": "Nonsense"})
        assert (await rest_of(socket))[-1]["error_code"] == 3006
        assert socket.close_code == 3006


async def test_vosk_answers_every_message_once_and_loses_nothing() -> None:
    async with serving() as at, connected(at, "/vosk") as socket:
        await socket.send_json({"config": {"sample_rate": 16_000}})
        said = []
        for chunk in cut(PCM, 8000):
            await socket.send_bytes(chunk)
            reply = await socket.receive_json()
            assert ("partial" in reply) != ("text" in reply)
            said.append(reply.get("text", ""))
        await socket.send_str('{"eof" : 1}')
        [last] = await rest_of(socket)
        said.append(last["text"])
        assert socket.close_code == 1000
    assert " ".join(filter(None, said)) == TEXT


async def test_audiocodes_hears_recognition_before_the_end() -> None:
    start = {
        "type": "start",
        "language": "en-US",
        "format": "raw",
        "encoding": "LINEAR16",
        "sampleRateHz": 16_000,
    }
    async with serving() as at, connected(at, "/audiocodes") as socket:
        await socket.send_json(start)
        assert await socket.receive_json() == {"type": "started"}
        for chunk in cut(PCM):
            await socket.send_bytes(chunk)
        await socket.send_json({"type": "stop"})
        events = await rest_of(socket)
    recognised = [e["alternatives"][0]["text"] for e in events if e["type"] == "recognition"]
    assert recognised == SAID
    assert events[-1] == {"type": "end", "reason": "stop"}


# --- all of them -----------------------------------------------------------------------------------------

PATHS = ["/v1/realtime?intent=transcription", "/v1/realtime", LISTEN, "/v3/ws", "/vosk", "/audiocodes"]


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_comes_in_without_a_key(path: str) -> None:
    async with serving(GatewayConfig(api_keys=("right",))) as at:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with at.client.get(at.http + path, headers=UPGRADE | headers) as refused:
                assert refused.status == 401
                assert "right" not in await refused.text()
        async with connected(at, path, headers={"Authorization": "Bearer right"}) as socket:
            assert not socket.closed


@pytest.mark.parametrize("path", PATHS)
async def test_a_drain_is_told_to_every_client(path: str) -> None:
    async with serving() as at, connected(at, path) as socket:
        draining = asyncio.create_task(drain(at.parts, 0.1, asyncio.Event()))
        events = await rest_of(socket)
        await draining
        assert socket.close_code == 1012
        assert "shutting down" in json.dumps(events)


@pytest.mark.parametrize("path", PATHS)
async def test_a_mock_says_so_in_every_frame(path: str) -> None:
    async with gateway(MockASRClient()) as at, connected(at, path) as socket:
        if path == "/audiocodes":
            await socket.send_json({"type": "start", "sampleRateHz": 16_000})
        if "realtime" in path:
            await socket.send_json(append(PCM))
        else:
            await socket.send_bytes(PCM)
        assert (await socket.receive_json())["mock"] is True
