"""One session over a real socket: the native contract of docs/reference/protocol.md, step by step."""

import asyncio
import json
import struct
from contextlib import AbstractAsyncContextManager

import numpy as np
import pytest

from engines import SlowFinals, engine_over, scripted_engine
from gateways import Gateway, Heard, cut, gateway, listen, next_event, transcribe
from perch.asr.mock import MockASRClient
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.audio.tones import synthesise
from perch.core.messages import Backend, Limits
from perch.server import connection
from perch.server.config import AdmissionConfig, GatewayConfig, ResumeConfig

SILENCE = bytes(2 * 16_000)
WORDS = "open the door"


def tone_words() -> bytes:
    return synthesise([WORDS])


async def test_a_session_gives_ready_partials_finals_and_done_in_order() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(tone_words()), start={"sample_rate": 16_000})
    kinds = [event["type"] for event in heard.events]
    assert kinds[0] == "ready"
    assert kinds[-1] == "done"
    assert kinds.index("speech_started") < kinds.index("partial") < kinds.index("final")
    assert heard.text == WORDS
    assert heard.of("done")[0]["text"] == WORDS
    assert heard.close_code == 1000


async def test_word_times_are_seconds_on_the_session_clock_silence_included() -> None:
    audio = SILENCE * 3 + tone_words()
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(audio))
    [final] = heard.of("final")
    starts = [word["start"] for word in final["words"]]
    assert starts == sorted(starts)
    assert starts[0] == pytest.approx(3.3, abs=0.05)
    assert final["start"] == starts[0]
    assert final["end"] == final["words"][-1]["end"]


async def test_partials_grow_and_the_final_says_the_same_words() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(tone_words()), pace_s=0.02)
    texts = [event["text"] for event in heard.of("partial")]
    assert texts
    assert all(WORDS.startswith(text) for text in texts)
    assert all(event["segment"] == 0 for event in heard.of("partial"))


async def test_audio_shorter_than_a_frame_is_not_lost() -> None:
    audio = tone_words()
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(audio, 998))
    assert heard.text == WORDS
    assert heard.of("done")[0]["audio_s"] == pytest.approx(len(audio) / 32_000, abs=1e-3)


async def test_silence_gives_no_words_and_still_ends_with_done() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(SILENCE * 5))
    assert [event["type"] for event in heard.events if event["type"] not in {"ack", "ready"}] == ["done"]
    assert heard.of("done")[0] | {"stream_id": "", "seq": 0} == {
        "type": "done", "audio_s": 5.0, "segments": 0, "text": "", "stream_id": "", "seq": 0,
    }  # fmt: skip


@pytest.mark.parametrize("start", [None, {}])
async def test_no_audio_at_all_ends_with_done(start: dict[str, object] | None) -> None:
    async with mock() as at:
        heard = await transcribe(at, [], start=start)
    assert [event["type"] for event in heard.events] == ["ready", "done"]
    assert heard.close_code == 1000


def float32(pcm: bytes) -> bytes:
    scaled: bytes = (np.frombuffer(pcm, "<i2").astype("<f4") / 32768).tobytes()
    return scaled


def mulaw_8k(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2")[::2].astype(np.float64) / 32768
    magnitude = np.log1p(255 * np.abs(samples)) / np.log(256)
    code = np.where(samples < 0, 0x80, 0).astype(np.uint8) | (magnitude * 127).astype(np.uint8)
    coded: bytes = (~code).astype(np.uint8).tobytes()
    return coded


def upsampled_48k(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2")
    positions = np.arange(3 * len(samples)) / 3
    stretched: bytes = np.interp(positions, np.arange(len(samples)), samples).astype("<i2").tobytes()
    return stretched


@pytest.mark.parametrize(
    ("config", "audio"),
    [
        ({"encoding": "float32"}, float32(tone_words())),
        ({"encoding": "mulaw", "sample_rate": 8000}, mulaw_8k(tone_words())),
        ({"sample_rate": 48_000}, upsampled_48k(tone_words())),
    ],
    ids=["float32", "mulaw 8 kHz", "48 kHz"],
)
async def test_every_declared_format_gives_the_same_words(config: dict[str, object], audio: bytes) -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(audio), start=config)
    assert heard.text == WORDS


async def test_settings_in_the_url_do_what_a_start_message_does() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(
            at,
            cut(float32(tone_words())),
            query="?encoding=float32&partials=false&endpointing.stop_history_ms=500",
        )
    config = heard.of("ready")[0]["config"]
    assert (config["encoding"], config["partials"]) == ("float32", False)
    assert config["endpointing"] == {"stop_history_ms": 500}
    assert heard.of("partial") == []
    assert heard.text == WORDS


async def test_words_are_left_out_when_not_wanted() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(tone_words()), start={"words": False})
    assert heard.of("final")[0]["words"] == []
    assert heard.text == WORDS


async def test_finalize_ends_the_utterance_and_the_session_goes_on() -> None:
    speech = synthesise(["open the"])[: -2 * 4800]  # without the silence that would end it
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with at.client.ws_connect(at.ws) as socket:
            await socket.send_bytes(speech)
            await socket.send_json({"type": "finalize"})
            heard = Heard()
            while not heard.of("final"):
                heard.events.append(await next_event(socket))
            await socket.send_bytes(synthesise(["door"]))
            await socket.send_json({"type": "stop"})
            heard = await listen(socket, heard)
    assert [event["text"] for event in heard.of("final")] == ["open the", "door"]


async def test_ping_is_answered_in_sequence() -> None:
    async with mock() as at, at.client.ws_connect(at.ws) as socket:
        await socket.send_json({"type": "ping"})
        assert (await next_event(socket))["type"] == "pong"


async def test_a_silent_client_is_told_ready_and_may_still_start() -> None:
    async with gateway(MockASRClient(), GatewayConfig(start_grace_s=0.05)) as at:
        async with at.client.ws_connect(at.ws) as socket:
            assert (await next_event(socket))["type"] == "ready"
            await socket.send_json({"type": "start", "config": {"encoding": "float32"}})
            second = await next_event(socket)
            assert second["config"]["encoding"] == "float32"


async def test_the_mock_says_so_in_every_event() -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, 16_000).astype("<i2").tobytes()
    async with mock() as at:
        heard = await transcribe(at, cut(noise))
        assert heard.of("final")
        assert all(event["mock"] is True for event in heard.events)
        assert (await transcribe(at, cut(noise, 777 * 2))).text == heard.text


BAD_FIRST_FRAMES = {
    "unknown key": ('{"type": "start", "config": {"rate": 16000}}', "bad_config", "'rate'"),
    "wrong rate": ('{"type": "start", "config": {"sample_rate": 4000}}', "bad_config", "8000 to 48000"),
    "two mistakes": (
        '{"type": "start", "config": {"words": 7, "channels": 9}}',
        "bad_config",
        "channels must be a whole",
    ),
    "unknown type": ('{"type": "begin"}', "bad_message", "start"),
    "no object": ("[1]", "bad_message", "JSON object"),
    "no JSON": ("hello", "bad_message", "binary frames"),
    "unhashable type": ('{"type": [1]}', "bad_message", "start"),
    "deep nesting": ("[" * 100_000, "bad_message", "JSON"),
    "resume of nothing": ('{"type": "resume", "token": "x", "last_seq": 3}', "resume_unknown", "start a new"),
}


@pytest.mark.parametrize("case", BAD_FIRST_FRAMES)
async def test_a_bad_first_frame_gets_its_coded_error(case: str) -> None:
    frame, code, hint = BAD_FIRST_FRAMES[case]
    async with mock() as at, at.client.ws_connect(at.ws) as socket:
        await socket.send_str(frame)
        heard = await listen(socket)
    assert heard.error == code
    assert hint in heard.of("error")[0]["message"]
    assert heard.close_code == 1008


async def test_an_odd_byte_count_gets_its_coded_error() -> None:
    async with mock() as at:
        heard = await refused_frame(at, b"\0" * 3201)
    assert (heard.error, heard.close_code) == ("bad_audio", 1008)


async def test_float_audio_with_nan_gets_its_coded_error() -> None:
    async with mock() as at, at.client.ws_connect(at.ws + "?encoding=float32") as socket:
        await socket.send_bytes(struct.pack("<2f", 0.0, float("nan")))
        heard = await listen(socket)
    assert (heard.error, heard.close_code) == ("bad_audio", 1008)


async def test_a_frame_that_is_too_big_gets_its_coded_error() -> None:
    async with gateway(MockASRClient(), GatewayConfig(limits=Limits(max_message_bytes=10_000))) as at:
        heard = await refused_frame(at, bytes(100_000))
    assert (heard.error, heard.close_code) == ("message_too_big", 1009)


async def refused_frame(at: Gateway, frame: bytes) -> Heard:
    async with at.client.ws_connect(at.ws) as socket:
        await socket.send_json({"type": "start"})
        await socket.send_bytes(frame)
        return await listen(socket)


async def test_audio_after_stop_gets_its_coded_error() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with at.client.ws_connect(at.ws) as socket:
            await socket.send_bytes(SILENCE)
            await socket.send_str('{"type": "stop"}')
            await socket.send_bytes(SILENCE)
            heard = await listen(socket)
    assert heard.error in {"bad_message", None}  # None: the session was already done
    assert heard.close_code in {1000, 1008}


async def test_a_session_longer_than_allowed_is_ended() -> None:
    async with gateway(MockASRClient(), GatewayConfig(limits=Limits(max_session_s=2))) as at:
        heard = await transcribe(at, cut(SILENCE * 5))
    assert (heard.error, heard.close_code) == ("session_too_long", 1008)


async def test_a_client_that_says_nothing_is_closed() -> None:
    async with gateway(MockASRClient(), GatewayConfig(limits=Limits(idle_timeout_s=0.5))) as at:
        async with at.client.ws_connect(at.ws) as socket:
            heard = await listen(socket)
    assert (heard.error, heard.close_code) == ("idle_timeout", 1008)


async def test_a_client_that_waits_for_a_slow_engine_is_not_idle() -> None:
    brief = GatewayConfig(limits=Limits(idle_timeout_s=0.5))
    async with engine_over(SlowFinals()) as engine, gateway(client_of(engine.address), brief) as at:
        heard = await transcribe(at, cut(tone_words()))
    assert (heard.text, heard.error, heard.close_code) == (WORDS, None, 1000)


async def test_an_engine_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the stream does to find one that finishes, a client that waits long enough is told."""
    monkeypatch.setattr(connection, "_PATIENCE_S", 0.5)
    brief = GatewayConfig(limits=Limits(idle_timeout_s=0.2))
    async with (
        engine_over(SlowFinals(finish_s=30.0)) as engine,
        gateway(client_of(engine.address), brief) as at,
    ):
        heard = await transcribe(at, cut(tone_words()))
    assert (heard.error, heard.close_code) == ("idle_timeout", 1008)


async def test_an_abrupt_disconnect_frees_the_session_and_its_engine_stream() -> None:
    unkept = GatewayConfig(resume=ResumeConfig(ttl_s=0))
    async with scripted_engine(slots=1) as engine, gateway(client_of(engine.address), unkept) as at:
        for _ in range(5):
            async with at.client.ws_connect(at.ws) as socket:
                await socket.send_bytes(tone_words()[:16_000])
                while (await next_event(socket))["type"] != "partial":
                    pass
                transport = socket.get_extra_info("socket")
                assert transport is not None
                await asyncio.wait_for(abort(socket), 30)
            async with asyncio.timeout(30):
                await at.parts.sessions.wait_empty()
        assert at.parts.admission.active == 0
        heard = await transcribe(at, cut(tone_words()))
    assert heard.text == WORDS


async def abort(socket: object) -> None:
    """Cut the connection without a close frame."""
    response = socket._response  # type: ignore[attr-defined]
    response.connection.transport.abort()


async def test_one_bad_client_does_not_touch_its_neighbours() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        good = asyncio.create_task(transcribe(at, cut(tone_words()), pace_s=0.03))
        for _ in range(10):
            assert (await refused_frame(at, b"\0" * 5)).error == "bad_audio"
        assert (await good).text == WORDS


async def test_a_slow_reader_loses_partials_but_no_final() -> None:
    sentences = [f"{first} {second}" for first in ("open", "the") for second in ("door", "a")] * 40
    audio = synthesise(sentences)
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with at.client.ws_connect(at.ws, max_msg_size=0) as socket:
            for frame in cut(audio, 32_000):
                await socket.send_bytes(frame)
            await socket.send_json({"type": "stop"})
            heard = await listen(socket)
    assert [event["text"] for event in heard.of("final")] == sentences
    assert heard.close_code == 1000


async def test_the_n_plus_first_session_is_refused_before_the_upgrade() -> None:
    config = GatewayConfig(admission=AdmissionConfig(max_sessions=1))
    async with gateway(MockASRClient(), config) as at, at.client.ws_connect(at.ws):
        async with at.client.get(at.ws.replace("ws://", "http://"), headers=UPGRADE) as refused:
            body = json.loads(await refused.read())
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert body["error"]["code"] == "at_capacity"


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


async def test_failed_handshakes_give_their_lease_back() -> None:
    async with mock() as at:
        broken = UPGRADE | {"Sec-WebSocket-Key": "short"}
        for _ in range(50):
            async with at.client.get(at.http + "/ws/transcribe", headers=broken) as refused:
                assert refused.status == 400
        assert at.parts.admission.active == 0


def mock() -> AbstractAsyncContextManager[Gateway]:
    return gateway(MockASRClient())


def client_of(address: str) -> RivaASRClient:
    return RivaASRClient(RivaConfig(endpoints=(address,), backend=Backend("engine")))
