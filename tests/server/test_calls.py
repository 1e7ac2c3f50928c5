"""Telephone calls: what platforms stream, recognised track by track, told to webhooks and observers."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from engines import LONG_PAUSE
from gateways import DEADLINE_S, Gateway, check_event
from perch.audio.tones import synthesise
from perch.core.audio import Encoding
from perch.core.messages import Audio, Start, Stop
from perch.errors import BadAudio, ClientFault
from perch.protocols.base import Request
from perch.protocols.media_streams import MediaStreamProtocol
from perch.server.config import GatewayConfig, WebhookConfig
from perch.server.credentials import Credentials
from perch.server.lifecycle import drain
from server.test_dialects import connected, serving

CALLER = synthesise(["hello bird", "stop now"], LONG_PAUSE)
AGENT = synthesise(["open the door"], LONG_PAUSE)


def mulaw_8k(pcm: bytes) -> bytes:
    """G.711 µ-law at 8 kHz, by its definition."""
    samples = np.frombuffer(pcm, dtype="<i2")[::2].astype(np.int32)
    sign = np.where(samples < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(samples), 32_635) + 132
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    coded: bytes = (~(sign | exponent << 4 | mantissa) & 0xFF).astype(np.uint8).tobytes()
    return coded


def packets(pcm: bytes, track: str, from_ms: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """What a platform sends for one track: 20 ms each, with the time of each."""
    audio = mulaw_8k(pcm)
    media = []
    for number, at in enumerate(range(0, len(audio), 160), 1):
        stamp = from_ms + at // 8
        payload = base64.b64encode(audio[at : at + 160]).decode()
        fields = {"track": track, "chunk": str(number), "timestamp": str(stamp), "payload": payload}
        media.append((stamp, {"event": "media", "streamSid": "MZ1", "media": fields}))
    return media


def call(*tracks: list[tuple[int, dict[str, Any]]], **start: Any) -> list[dict[str, Any]]:
    """A whole call as Twilio sends it."""
    begin = {
        "streamSid": "MZ1",
        "callSid": "CA1",
        "tracks": ["inbound", "outbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        **start,
    }
    media = [frame for _, frame in sorted((p for track in tracks for p in track), key=lambda p: p[0])]
    return [
        {"event": "connected", "protocol": "Call", "version": "1.0.0"},
        {"event": "start", "sequenceNumber": "1", "streamSid": "MZ1", "start": begin},
        *media,
        {"event": "mark", "streamSid": "MZ1", "mark": {"name": "x"}},
        {"event": "stop", "streamSid": "MZ1", "stop": {"callSid": "CA1"}},
    ]


@dataclass
class Receiver:
    """A real webhook receiver; ``trouble`` are the statuses of its first answers."""

    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    trouble: list[int] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        stamp, _, digest = request.headers["Perch-Signature"].removeprefix("t=").partition(",v1=")
        assert hmac.new(b"shared", f"{stamp}.".encode() + body, hashlib.sha256).hexdigest() == digest
        self.keys.append(request.headers["Idempotency-Key"])
        if self.trouble:
            return web.Response(status=self.trouble.pop(0))
        self.events += json.loads(body)["events"]
        self.more.set()
        return web.Response()

    async def until_done(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(DEADLINE_S):
            while not any(event["type"] in {"done", "error"} for event in self.events):
                self.more.clear()
                await self.more.wait()
        return self.events


@asynccontextmanager
async def receiver(*trouble: int) -> AsyncIterator[tuple[Receiver, GatewayConfig]]:
    hook = Receiver(trouble=list(trouble))
    app = web.Application()
    app.router.add_post("/", hook.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield hook, GatewayConfig(webhook=WebhookConfig(hook.url, "shared", retry_s=0.01))
    finally:
        await runner.cleanup()


async def play(at: Gateway, frames: list[dict[str, Any]], path: str = "/twilio") -> int | None:
    """A whole call over a socket; returns the close code."""
    async with connected(at, path) as socket:
        for frame in frames:
            await socket.send_json(frame)
        assert [message async for message in socket] == [], "a platform takes nothing back"
        return socket.close_code


async def test_both_tracks_of_a_call_reach_the_webhook_on_one_clock() -> None:
    later = 1500
    frames = call(packets(CALLER, "inbound"), packets(AGENT, "outbound", later))
    async with receiver() as (hook, config), serving(config) as at:
        assert await play(at, frames) == 1000
        events = await hook.until_done()
    for event in events:
        check_event({key: value for key, value in event.items() if key != "call"})
    finals = [event for event in events if event["type"] == "final"]
    said = {k: " ".join(f["text"] for f in finals if f["channel"] == k) for k in (0, 1)}
    assert said == {0: "hello bird stop now", 1: "open the door"}
    first = next(f for f in finals if f["channel"] == 1)
    assert first["words"][0]["start"] == pytest.approx(later / 1000 + 0.3, abs=0.1)
    assert finals[0]["call"] == {"stream": "MZ1", "call": "CA1"}
    assert [event["type"] for event in events][-1] == "done"


async def test_a_webhook_that_fails_gets_everything_once_it_works() -> None:
    async with receiver(500, 503, 302, 404) as (hook, config), serving(config) as at:
        await play(at, call(packets(CALLER, "inbound"), tracks=["inbound"]))
        events = await hook.until_done()
    assert [event["text"] for event in events if event["type"] == "final"] == ["hello bird", "stop now"]
    assert len(set(hook.keys[:5])) == 1, "the same batch has the same key"


async def test_what_is_left_at_the_end_is_still_delivered() -> None:
    async with receiver() as (hook, config):
        async with serving(config) as at:
            await play(at, call(packets(CALLER, "inbound"), tracks=["inbound"]))
            await drain(at.parts, 1.0, asyncio.Event())
        assert [event["type"] for event in hook.events][-1] == "done"


async def test_an_observer_hears_the_finals_so_far_and_what_follows() -> None:
    frames = call(packets(CALLER, "inbound"), tracks=["inbound"])
    async with serving() as at, connected(at, "/media-stream") as phone:
        for frame in frames[:-2]:
            await phone.send_json(frame)
        async with asyncio.timeout(DEADLINE_S):
            while not (listed := await streams(at)) or not listed[0]["finals"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert listed[0]["call"] == {"stream": "MZ1", "call": "CA1"}
        path = f"/v1/streams/{listed[0]['stream_id']}/events"
        async with connected(at, path) as observer:
            first = await observer.receive_json()
            assert (first["type"], first["text"]) == ("final", "hello bird")
            await phone.send_json(frames[-1])
            events = [json.loads(message.data) async for message in observer]
        assert [event["text"] for event in events if event["type"] == "final"] == ["stop now"]
        assert events[-1]["type"] == "done"
        assert await streams(at) == []


async def streams(at: Gateway) -> list[dict[str, Any]]:
    async with at.client.get(at.http + "/v1/streams") as response:
        listed: list[dict[str, Any]] = (await response.json())["streams"]
        return listed


async def test_only_an_administrator_follows_the_words_of_others() -> None:
    async with serving(GatewayConfig(api_keys=("k",))) as at:
        shown = Credentials({"X-API-Key": "k"}, {})
        key_of = await at.parts.authenticator.authenticate(shown, "tokens")
        token = at.parts.authenticator.mint(key_of, 60.0).value
        for key, status in (("", 401), (token, 403), ("k", 200)):
            async with at.client.get(at.http + "/v1/streams", headers={"X-API-Key": key}) as response:
                assert response.status == status
        async with connected(at, "/twilio/k") as phone:  # a platform can send a key in the path only
            await phone.send_json(call()[1])
            assert not phone.closed


async def test_an_observer_of_nothing_is_told_so() -> None:
    async with serving() as at, at.client.get(at.http + "/v1/streams/none/events") as response:
        assert response.status == 400


# --- the codec by values ---------------------------------------------------------------------------------


def codec() -> MediaStreamProtocol:
    return MediaStreamProtocol(Request("st_1", now=0.0, new_id=lambda prefix: prefix + "1"))


STARTS: dict[str, tuple[dict[str, Any], Encoding, int]] = {
    "twilio": (
        {"start": {"mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000}}},
        Encoding.MULAW,
        8000,
    ),
    "telnyx": (
        {
            "stream_id": "s",
            "start": {"call_control_id": "c", "media_format": {"encoding": "PCMA", "sample_rate": 8000}},
        },
        Encoding.ALAW,
        8000,
    ),
    "exotel": (
        {
            "stream_sid": "s",
            "start": {"call_sid": "c", "media_format": {"encoding": "base64", "sample_rate": "8000"}},
        },
        Encoding.PCM16,
        8000,
    ),
    "plivo": (
        {
            "start": {
                "streamId": "s",
                "callId": "c",
                "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 16000},
            }
        },
        Encoding.PCM16,
        16_000,
    ),
}


@pytest.mark.parametrize("platform", STARTS)
def test_each_platform_has_its_names(platform: str) -> None:
    message, encoding, rate = STARTS[platform]
    [start] = codec().decode_text(json.dumps({"event": "start", **message}))
    assert isinstance(start, Start)
    assert (start.config.audio.encoding, start.config.audio.sample_rate) == (encoding, rate)


def test_vonage_sends_binary_frames() -> None:
    protocol = codec()
    connected_ = {"event": "websocket:connected", "content-type": "audio/l16;rate=8000", "language": "en-US"}
    [start] = protocol.decode_text(json.dumps(connected_))
    assert isinstance(start, Start)
    assert (start.config.audio.sample_rate, start.config.recognition.language) == (8000, "en-US")
    assert protocol.decode_binary(b"ab") == (Audio(b"ab", 0),)


def test_a_pause_of_one_track_is_filled_and_a_repeated_packet_is_not_heard_twice() -> None:
    protocol = codec()
    protocol.decode_text(json.dumps(call()[1]))
    one, two = packets(bytes(1280), "outbound", 2000)[:2]
    assert protocol.decode_text(json.dumps(one[1])) == (Audio(b"\xff" * 16_000, 1), Audio(b"\xff" * 160, 1))
    assert protocol.decode_text(json.dumps(one[1])) == ()
    assert protocol.decode_text(json.dumps(two[1])) == (Audio(b"\xff" * 160, 1),)


def test_a_stamp_far_ahead_is_refused_and_makes_no_hour_of_silence() -> None:
    protocol = codec()
    protocol.decode_text(json.dumps(call()[1]))
    with pytest.raises(BadAudio):
        protocol.decode_text(json.dumps(packets(bytes(640), "inbound", 3_600_000)[0][1]))


def test_a_call_that_stops_before_it_began_ends_like_any() -> None:
    assert [type(command) for command in codec().decode_text('{"event": "stop"}')] == [Start, Stop]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["start", "media", "mediaFormat", "encoding", "sampleRate", "tracks", "track", "payload", "timestamp", "chunk"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(
    event=st.sampled_from(["start", "media", "stop", "websocket:connected", "dtmf", "x", [1], None]),
    body=JSON,
)
def test_any_message_is_understood_or_refused(event: Any, body: Any) -> None:
    message = {**(body if isinstance(body, dict) else {"media": body, "start": body}), "event": event}
    protocol = codec()
    try:
        commands = protocol.decode_text(json.dumps(message))
    except ClientFault:
        return
    assert sum(len(c.payload) for c in commands if isinstance(c, Audio)) < 4_000_000
