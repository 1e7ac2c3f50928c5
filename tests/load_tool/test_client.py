"""The load tool's client against the real gateway, and against gateways that fail on cue."""

import asyncio
import re
import ssl
import wave
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSCloseCode, web
from load.client import SessionFailed, StreamSession, Target, Timings
from load.recording import Recording, read_wav, tone_words

from load_tool.gateways import gateway_that, listening, mock_gateway
from perch.core.audio import RATE
from perch.observability.metrics import Metrics

LOUD = Recording(b"\x00\x40" * (RATE * 6 // 10), RATE)
"""0.6 seconds in which the mock hears two words."""

SHORT = Recording(b"\x00\x40" * (RATE // 10), RATE)


async def session(host: str, recording: Recording = LOUD, **target: Any) -> Timings:
    """Connect and stream, in a thread as Locust would in a greenlet."""

    def run() -> Timings:
        one = StreamSession(Target(host, **{"silence_s": 5.0, **target}), recording)
        try:
            one.connect()
            return one.stream()
        finally:
            one.close()

    return await asyncio.to_thread(run)


async def until_stop(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is web.WSMsgType.TEXT and message.json()["type"] == "stop":
            return


# --- what it measures --------------------------------------------------------------------------------


async def test_a_session_with_the_gateway_is_timed_from_the_audio_it_answers() -> None:
    metrics = Metrics()
    async with mock_gateway(metrics) as host:
        timings = await session(host)
    assert timings.first_partial is not None
    assert 0 <= timings.first_partial < 2
    assert timings.final is not None
    assert 0 <= timings.final <= timings.done < 2
    exposition = metrics.render()[0].decode()
    assert 'perch_sessions_closed_total{outcome="done"} 1.0' in exposition
    assert "perch_audio_seconds_total 0.6" in exposition


async def test_audio_goes_out_at_the_pace_of_speech_and_arrives_whole() -> None:
    arrivals: list[tuple[float, int]] = []

    async def listen(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is web.WSMsgType.TEXT:
                break
            arrivals.append((asyncio.get_running_loop().time(), len(message.data)))
        await socket.send_json({"type": "done"})

    async with gateway_that(listen) as host:
        await session(host)
    assert [size for _, size in arrivals] == [3_200] * 6
    assert arrivals[-1][0] - arrivals[0][0] > 0.4


async def test_a_final_that_came_before_the_last_audio_has_no_latency_after_it() -> None:
    async def speak(socket: web.WebSocketResponse) -> None:
        await socket.send_json({"type": "final", "end": 0.1})
        await until_stop(socket)
        await socket.send_json({"type": "done"})

    async with gateway_that(speak) as host:
        timings = await session(host)
    assert timings.final is None
    assert timings.first_partial is None
    assert timings.done >= 0


# --- what it says of failures ------------------------------------------------------------------------


async def test_a_refusal_before_the_upgrade_is_named_by_status_and_code() -> None:
    async with mock_gateway(asr_enabled=False) as host:
        with pytest.raises(SessionFailed, match=re.compile(r"^HTTP 503 asr_disabled$")):
            await session(host)


async def test_a_refusal_by_something_else_is_named_by_status() -> None:
    async with listening(web.Application()) as host:
        with pytest.raises(SessionFailed, match=re.compile("^HTTP 404$")):
            await session(host)


async def test_a_gateway_that_is_not_there_is_a_failure_to_connect() -> None:
    async with listening(web.Application()) as host:
        pass
    with pytest.raises(SessionFailed, match="cannot connect"):
        await session(host)


async def test_an_error_event_fails_the_session_with_its_code() -> None:
    async with mock_gateway() as host:
        with pytest.raises(SessionFailed, match=re.compile("^bad_config$")):
            await session(host, Recording(SHORT.pcm, 99_000))


async def test_an_error_in_the_middle_stops_the_sender_at_once() -> None:
    async def give_up(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        await socket.send_json({"type": "error", "code": "engine_unavailable"})

    loop = asyncio.get_running_loop()
    async with gateway_that(give_up) as host:
        began = loop.time()
        with pytest.raises(SessionFailed, match=re.compile("^engine_unavailable$")):
            await session(host, Recording(bytes(RATE * 2 * 10), RATE))
        assert loop.time() - began < 3


async def test_a_close_without_done_is_named_by_its_code() -> None:
    async def vanish(socket: web.WebSocketResponse) -> None:
        await socket.close(code=WSCloseCode.INTERNAL_ERROR)

    async with gateway_that(vanish) as host:
        with pytest.raises(SessionFailed, match=re.compile("^closed 1011$")):
            await session(host)


async def test_a_gateway_that_falls_silent_is_given_up() -> None:
    given_up = asyncio.Event()

    async def say_nothing(socket: web.WebSocketResponse) -> None:
        async for _ in socket:
            pass
        given_up.set()

    async with gateway_that(say_nothing) as host:
        with pytest.raises(SessionFailed, match=re.compile("^silent for 0.2 s$")):
            await session(host, SHORT, silence_s=0.2)
        await asyncio.wait_for(given_up.wait(), 30)


# --- what it is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("http://127.0.0.1:8443", "ws://127.0.0.1:8443/v1/audio/transcriptions/stream"),
        ("https://speech.example/", "wss://speech.example/v1/audio/transcriptions/stream"),
        ("wss://speech.example:1", "wss://speech.example:1/v1/audio/transcriptions/stream"),
    ],
)
def test_a_host_is_given_as_locust_gives_it(host: str, url: str) -> None:
    assert Target(host).url == url


def test_a_key_is_sent_and_a_certificate_is_verified_unless_told_not_to() -> None:
    assert Target("http://x").headers == {}
    assert Target("http://x", api_key="k").headers == {"Authorization": "Bearer k"}
    assert "'k'" not in repr(Target("http://x", api_key="k"))
    assert Target("https://x").tls == {}
    assert Target("https://x", ca=Path("ca.pem")).tls == {"ca_certs": "ca.pem"}
    assert Target("https://x", insecure=True).tls["cert_reqs"] is ssl.CERT_NONE


async def test_the_key_opens_a_gateway_that_asks_for_one() -> None:
    async with mock_gateway(api_keys=("right",)) as host:
        await session(host, SHORT, api_key="right")
        with pytest.raises(SessionFailed, match=re.compile("^HTTP 401 unauthorized$")):
            await session(host, SHORT, api_key="wrong")


# --- what it says ------------------------------------------------------------------------------------


def test_a_wav_file_is_cut_into_frames_of_100_ms_and_a_rest(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    write_wav(path, bytes(2 * 8_000 + 2 * 100), rate=8_000)
    recording = read_wav(path)
    assert recording.sample_rate == 8_000
    assert recording.seconds == pytest.approx(1.0125)
    assert [len(frame) for frame in recording.frames()] == [1_600] * 10 + [200]
    assert b"".join(recording.frames()) == recording.pcm


def test_a_file_that_cannot_be_streamed_is_refused_by_name(tmp_path: Path) -> None:
    stereo, text = tmp_path / "stereo.wav", tmp_path / "text.wav"
    write_wav(stereo, bytes(400), channels=2)
    text.write_text("not audio")
    with pytest.raises(ValueError, match=r"stereo\.wav must be 16-bit mono"):
        read_wav(stereo)
    with pytest.raises(ValueError, match=r"text\.wav is not a WAV file"):
        read_wav(text)


def test_without_a_file_there_are_some_seconds_of_tone_words() -> None:
    assert 4 < tone_words().seconds < 8
    assert tone_words().sample_rate == RATE


def write_wav(path: Path, pcm: bytes, *, rate: int = RATE, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
