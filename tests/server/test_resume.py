"""A client that loses its socket loses nothing else: no event, no accepted audio, no word's time."""

import asyncio
import random
import socket as socket_module
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import pytest
import soxr

from engines import SlowFinals, engine_over, scripted_engine, tone_speech
from gateways import Gateway, Heard, cut, gateway, listen, next_event, transcribe
from perch.asr.mock import MockASRClient
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.messages import Backend
from perch.server.config import AdmissionConfig, GatewayConfig, ResumeConfig
from perch.server.dialects import STREAM_PATH
from perch.server.lifecycle import drain
from perch.server.live import LiveSession
from perch.server.resume import Resumption
from relays import relay
from resuming import ResumingClient, finals
from server.test_stream import mulaw_8k

SENTENCES = ["open the door", "stop now", "hello bird", "open now"]
SPEECH = tone_speech(*SENTENCES)
BEGUN = 32_000
SESSIONS = 10
CUTS = 200
GRACE_S = 1.0
"""What a client may say nothing for before its session begins as if it had said how."""


def client_of(address: str) -> RivaASRClient:
    return RivaASRClient(RivaConfig(endpoints=(address,), backend=Backend("engine")))


def resampled(pcm: bytes, rate: int) -> bytes:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
    data: bytes = np.clip(soxr.resample(samples, 16_000, rate), -32768, 32767).astype("<i2").tobytes()
    return data


def port_of(at: Gateway) -> int:
    port = urlsplit(at.http).port
    assert port is not None
    return port


def resuming(at: Gateway, url: str = "", **options: Any) -> ResumingClient:
    return ResumingClient(at.client, lambda: url or at.ws, options.pop("audio", SPEECH), **options)


async def lose(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Cut the connection without a close frame."""
    connection = socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()
    await socket.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what no event tells a test."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def begun(at: Gateway, **options: Any) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, str]]:
    """A session that was sent some speech, and its token."""
    async with at.client.ws_connect(at.ws, **options) as socket:
        await socket.send_json({"type": "start"})
        for frame in cut(SPEECH[:BEGUN]):
            await socket.send_bytes(frame)
        token = (await next_event(socket))["resume"]["token"]
        while (await next_event(socket))["type"] != "ack":
            pass
        yield socket, token


async def parked(at: Gateway, **options: Any) -> str:
    """The token of a session that lost its socket."""
    async with begun(at, **options) as (socket, token):
        await lose(socket)
    async with asyncio.timeout(30):
        await at.parts.sessions.wait_empty()
    return token


async def resume(at: Gateway, token: str, **options: Any) -> dict[str, Any]:
    """What a client hears that resumes ``token``: the ready, or why not."""
    async with at.client.ws_connect(at.ws, **options) as socket:
        await socket.send_json({"type": "resume", "token": token, "last_seq": 1})
        while (event := await next_event(socket))["type"] not in {"ready", "error"}:
            pass
        return event


# --- nothing is lost ---------------------------------------------------------------------------------


@pytest.mark.timeout(180)
async def test_sockets_cut_anywhere_lose_no_event_and_no_audio() -> None:
    dice = random.Random(4)
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        undisturbed = await transcribe(at, cut(SPEECH), start={})

        def budget() -> int | None:
            return dice.randrange(200, 60_000) if cutting.cuts < CUTS else None

        async with relay(port_of(at), budget) as cutting:
            url = f"ws://{cutting.url}{STREAM_PATH}"
            while cutting.cuts < CUTS:
                clients = [resuming(at, url, pace_s=0.002) for _ in range(SESSIONS)]
                for heard in await asyncio.gather(*(client.run() for client in clients)):
                    assert finals(heard) == finals(undisturbed)
                    assert heard.of("done")[0]["text"] == " ".join(SENTENCES)
                assert sum(client.resumed for client in clients) > SESSIONS
        async with asyncio.timeout(30):
            await at.parts.sessions.wait_empty()


@pytest.mark.parametrize(
    ("config", "audio"),
    [
        ({"encoding": "mulaw", "sample_rate": 8000}, mulaw_8k(SPEECH)),
        ({"sample_rate": 44_100}, resampled(SPEECH, 44_100)),
    ],
    ids=["8 kHz mu-law", "44.1 kHz"],
)
async def test_a_client_of_another_rate_goes_on_at_the_very_sample(
    config: dict[str, Any], audio: bytes
) -> None:
    dice = random.Random(5)
    width = 1 if "encoding" in config else 2
    rate = config["sample_rate"] * width
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        undisturbed = await transcribe(at, cut(audio, rate // 10), start=config)
        async with relay(port_of(at), lambda: dice.randrange(rate, 3 * rate)) as cutting:
            url = f"ws://{cutting.url}{STREAM_PATH}"
            client = resuming(
                at, url, audio=audio, config=config, bytes_per_second=rate, frame=346, pace_s=0.0002
            )
            heard = await client.run()
    assert client.resumed > 1
    assert all(position % width == 0 for position in client.positions)
    assert finals(heard) == finals(undisturbed)


async def cut_off_after_stop(at: Gateway) -> str:
    """The token of a session whose client has said all, and then lost its connection."""
    async with begun(at) as (socket, token):
        await socket.send_bytes(SPEECH[BEGUN:])
        await socket.send_json({"type": "stop"})
        await lose(socket)
    return token


async def test_a_client_that_comes_back_may_stop_again() -> None:
    """It was cut off after its stop, and cannot know whether that was heard."""
    async with engine_over(SlowFinals()) as engine, gateway(client_of(engine.address)) as at:
        token = await cut_off_after_stop(at)
        async with at.client.ws_connect(at.ws) as socket:
            await socket.send_json({"type": "resume", "token": token, "last_seq": 1})
            await socket.send_json({"type": "stop"})
            heard = Heard(events=[message.json() async for message in socket])
    assert heard.text == " ".join(SENTENCES)
    assert (heard.error, socket.close_code) == (None, 1000)


async def test_the_end_is_told_to_a_client_that_was_cut_off_before_it() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        token = await cut_off_after_stop(at)
        async with at.client.ws_connect(at.ws) as socket:
            await socket.send_json({"type": "resume", "token": token, "last_seq": 1})
            heard = Heard()
            async for message in socket:
                heard.events.append(message.json())
    assert heard.text == " ".join(SENTENCES)
    assert (heard.events[-1]["type"], socket.close_code) == ("done", 1000)


# --- who may come back, and when ---------------------------------------------------------------------


async def test_the_newer_socket_wins_over_one_that_only_seems_alive() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with begun(at) as (old, token), at.client.ws_connect(at.ws) as new:
            await new.send_json({"type": "resume", "token": token, "last_seq": 1})
            while (event := await next_event(new))["type"] != "ready":
                pass
            assert event["audio_s"] == 1.0
            assert (await old.receive()).type is not aiohttp.WSMsgType.TEXT
            await new.send_bytes(SPEECH[BEGUN:])
            await new.send_json({"type": "stop"})
            heard = Heard()
            async for message in new:
                heard.events.append(message.json())
        assert heard.events[-1]["text"] == " ".join(SENTENCES)
        await until(lambda: not at.parts.admission.active)


async def test_a_session_is_resumed_by_its_own_key_only() -> None:
    config = GatewayConfig(api_keys=("mine", "yours"))
    async with scripted_engine() as engine, gateway(client_of(engine.address), config) as at:
        token = await parked(at, headers={"X-API-Key": "mine"})
        assert (await resume(at, token, headers={"X-API-Key": "yours"}))["code"] == "resume_unknown"
        assert (await resume(at, token, headers={"X-API-Key": "mine"}))["audio_s"] == 1.0


async def test_after_its_time_a_session_frees_all_it_held() -> None:
    async with scripted_engine() as engine:
        client = client_of(engine.address)
        async with gateway(client, GatewayConfig(resume=ResumeConfig(ttl_s=0.2))) as at:
            token = await parked(at)
            assert at.parts.admission.active == 1
            await until(lambda: not at.parts.admission.active)
            assert [endpoint.active for endpoint in client.pool.endpoints] == [0]
            assert (await resume(at, token))["code"] == "resume_unknown"


async def test_only_so_many_are_kept_the_newest() -> None:
    config = GatewayConfig(resume=ResumeConfig(max_parked=2))
    async with scripted_engine() as engine, gateway(client_of(engine.address), config) as at:
        first, second, third = [await parked(at) for _ in range(3)]
        assert (await resume(at, first))["code"] == "resume_unknown"
        assert (await resume(at, second))["type"] == "ready"
        assert (await resume(at, third))["type"] == "ready"


async def test_a_full_gateway_lets_in_who_comes_back_and_nobody_else() -> None:
    config = GatewayConfig(admission=AdmissionConfig(max_sessions=1))
    async with scripted_engine() as engine, gateway(client_of(engine.address), config) as at:
        token = await parked(at)
        newcomer = await transcribe(at, cut(SPEECH), start={})
        assert (newcomer.error, newcomer.close_code) == ("at_capacity", 1013)
        assert (await resume(at, token))["type"] == "ready"


async def test_a_client_that_takes_its_leave_is_not_waited_for() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with begun(at) as (socket, _):
            await socket.close(code=1000)
        async with asyncio.timeout(30):
            await at.parts.sessions.wait_empty()
        assert (len(at.parts.resumption), at.parts.admission.active) == (0, 0)


async def test_a_gateway_can_be_told_to_keep_nothing() -> None:
    async with gateway(MockASRClient(), GatewayConfig(resume=ResumeConfig(ttl_s=0))) as at:
        heard = await transcribe(at, cut(bytes(3200)), start={})
        assert heard.of("ready")[0]["resume"] is None


async def test_a_session_that_takes_long_to_find_is_the_only_one_that_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = Resumption.claim

    async def claim_later(*args: Any) -> LiveSession:
        await asyncio.sleep(1.5 * GRACE_S)
        return await claim(*args)

    monkeypatch.setattr(Resumption, "claim", claim_later)
    async with gateway(MockASRClient(), GatewayConfig(start_grace_s=GRACE_S)) as at:
        token = await parked(at)
        assert (await resume(at, token))["resume"]["token"] == token


async def test_what_was_said_in_time_is_heard_by_a_gateway_that_was_busy() -> None:
    async with gateway(MockASRClient(), GatewayConfig(start_grace_s=GRACE_S)) as at:
        token = await parked(at)
        async with at.client.ws_connect(at.ws) as socket:
            await socket.send_json({"type": "resume", "token": token, "last_seq": 1})
            time.sleep(1.5 * GRACE_S)  # noqa: ASYNC251 - the gateway has this loop too
            while (event := await next_event(socket))["type"] != "ready":
                pass
            assert event["resume"]["token"] == token


async def test_who_resumes_late_takes_the_place_of_the_session_that_began_meanwhile() -> None:
    async with gateway(MockASRClient(), GatewayConfig(start_grace_s=GRACE_S)) as at:
        token = await parked(at)
        async with at.client.ws_connect(at.ws) as socket:
            other = await next_event(socket)
            assert other["resume"]["token"] != token
            await socket.send_json({"type": "resume", "token": token, "last_seq": 1})
            while (event := await next_event(socket)).get("resume", {}).get("token") != token:
                pass
            assert event["type"] == "ready"
            assert set(at.parts.observers.streams) == {event["stream_id"]}
            await socket.send_json({"type": "stop"})
            while (await next_event(socket))["type"] != "done":
                pass
        assert (await resume(at, other["resume"]["token"]))["code"] == "resume_unknown"
        async with asyncio.timeout(30):
            await at.parts.sessions.wait_empty()
        text = at.parts.metrics.render()[0].decode()
        assert "\nperch_sessions_active 0.0\n" in text
        assert 'perch_sessions_closed_total{outcome="cancelled"} 1.0' in text


async def test_resume_must_come_first() -> None:
    async with gateway(MockASRClient()) as at, at.client.ws_connect(at.ws) as socket:
        await socket.send_json({"type": "start"})
        await socket.send_json({"type": "resume", "token": "x", "last_seq": 1})
        heard = await listen(socket)
    assert heard.error == "bad_message"


# --- from process to process -------------------------------------------------------------------------


@asynccontextmanager
async def two_gateways(folder: Path, **config: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    shared = GatewayConfig(state_dir=folder, **config)
    async with (
        scripted_engine() as engine,
        gateway(client_of(engine.address), shared) as one,
        gateway(client_of(engine.address), shared) as other,
    ):
        yield one, other


async def test_another_gateway_of_the_machine_takes_a_session_over(tmp_path: Path) -> None:
    dice = random.Random(6)
    async with two_gateways(tmp_path) as (one, other):
        undisturbed = await transcribe(one, cut(SPEECH), start={})

        def either() -> str:
            cutting.port = port_of(dice.choice((one, other)))
            return f"ws://{cutting.url}{STREAM_PATH}"

        async with relay(port_of(one), lambda: dice.randrange(500, 60_000)) as cutting:
            client = ResumingClient(one.client, either, SPEECH, pace_s=0.002)
            heard = await client.run()
        assert client.resumed > 3
        assert finals(heard) == finals(undisturbed)
        await until(lambda: not one.parts.admission.active and not other.parts.admission.active)
    assert list((tmp_path / "sessions").iterdir()) == []


async def test_a_drained_gateway_leaves_its_sessions_to_another(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (one, other):
        undisturbed = await transcribe(one, cut(SPEECH), start={})
        urls = iter([one.ws])
        client = ResumingClient(one.client, lambda: next(urls, other.ws), SPEECH, pace_s=0.02)
        running = asyncio.create_task(client.run())
        await until(lambda: client.heard.of("partial"))
        await drain(one.parts, 0.2, asyncio.Event())
        assert finals(await running) == finals(undisturbed)
        assert client.heard.of("notice")[0]["resume"]["token"] == client.token
        assert client.heard.of("error")[0]["code"] == "going_away"
        assert client.resumed == 1
        assert one.parts.admission.active == 0


async def test_a_parked_session_is_left_to_another_gateway_too(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (one, other):
        token = await parked(one)
        await drain(one.parts, 5.0, asyncio.Event())
        [left] = (tmp_path / "sessions").iterdir()
        assert left.stat().st_mode & 0o077 == 0
        assert (await resume(other, token))["audio_s"] == 1.0


async def test_the_socket_of_a_killed_gateway_is_passed_over(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as (one, _):
        dead = tmp_path / "run" / "dead.sock"
        with socket_module.socket(socket_module.AF_UNIX) as bound:
            bound.bind(str(dead))
        assert (await resume(one, "a" * 32))["code"] == "resume_unknown"
        assert not dead.exists()
