"""What clients see when something else breaks: the engine, the network, the operator's switch, shutdown."""

import asyncio
from contextlib import AbstractAsyncContextManager

import grpc
import pytest

from engines import Conversation, scripted_engine, stub_of
from gateways import Gateway, Heard, cut, gateway, listen, next_event, transcribe
from perch.asr.attempt import AttemptTimeouts
from perch.asr.mock import MockASRClient
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.asr.stream import StreamConfig
from perch.audio.tones import synthesise
from perch.core.messages import Backend
from perch.riva.proto import asr, asr_grpc
from perch.server.config import GatewayConfig
from perch.server.dialects import STREAM_ALIAS, STREAM_PATH
from perch.server.lifecycle import drain

SPEECH = synthesise(["open the door"])
QUICK = StreamConfig(outage_s=0.5, full_s=0.1, retry_delay_s=0.01, max_retry_delay_s=0.05)


def client_of(address: str, **config: object) -> RivaASRClient:
    settings = {"endpoints": (address,), "backend": Backend("engine"), "stream": QUICK, **config}
    return RivaASRClient(RivaConfig(**settings))  # type: ignore[arg-type]


async def test_with_no_engine_a_client_is_refused_with_advice() -> None:
    async with gateway(client_of("127.0.0.1:9")) as at:
        async with at.client.get(at.http + "/ready") as ready:
            assert (ready.status, (await ready.json())["status"]) == (503, "engine_unavailable")
        async with at.client.get(at.http + "/health") as health:
            assert health.status == 200
        async with at.client.get(at.http + "/ws/transcribe") as refused:
            assert refused.status == 503
            assert "Retry-After" in refused.headers
            assert (await refused.json())["error"]["code"] == "engine_unavailable"


async def test_an_engine_that_dies_mid_stream_is_a_coded_error_soon() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with at.client.ws_connect(at.ws) as socket:
            await socket.send_bytes(SPEECH[:20_000])
            while (await next_event(socket))["type"] != "partial":
                pass
            await engine.stop()
            heard = Heard()
            async with asyncio.timeout(30):
                async for message in socket:
                    heard.events.append(message.json())
            assert heard.events[-1]["code"] == "engine_unavailable"
            assert heard.events[-1]["retryable"] is True
            assert socket.close_code == 1011


async def test_an_engine_without_a_free_slot_is_told_as_capacity() -> None:
    async with scripted_engine(slots=1) as engine, gateway(client_of(engine.address)) as at:
        async with stub_of(engine) as stub:  # as another gateway would: this one cannot know of it
            other = Conversation(stub)
            await other.configure()
            await other.speak(SPEECH)
            second = await transcribe(at, cut(SPEECH))
            assert (second.error, second.close_code) == ("engine_full", 1013)
            await other.hang_up()
        assert (await transcribe(at, cut(SPEECH))).text == "open the door"


async def test_a_language_the_engine_lacks_is_refused_before_any_audio() -> None:
    """004-31."""
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        heard = await transcribe(at, cut(SPEECH), start={"language": "ru-RU"})
    assert (heard.error, heard.close_code) == ("language_unsupported", 1008)
    assert "only supports English" in heard.of("error")[0]["message"]


class BlackHole(asr_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc]
    """Lists a model, takes all audio, answers nothing."""

    async def GetRivaSpeechRecognitionConfig(self, request: object, context: object) -> object:  # noqa: N802
        config = asr.RivaSpeechRecognitionConfigResponse.Config(
            model_name="hole", parameters={"type": "online"}
        )
        return asr.RivaSpeechRecognitionConfigResponse(model_config=[config])

    async def StreamingRecognize(self, requests: object, context: object) -> None:  # noqa: N802
        await asyncio.Event().wait()


async def test_an_engine_that_never_answers_does_not_hang_the_client() -> None:
    server = grpc.aio.server()
    asr_grpc.add_RivaSpeechRecognitionServicer_to_server(BlackHole(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    patience = AttemptTimeouts(first_response_s=0.2, finish_s=0.2, write_s=0.5)
    try:
        async with gateway(client_of(f"127.0.0.1:{port}", timeouts=patience)) as at:
            heard = await transcribe(at, cut(SPEECH))
            assert (heard.error, heard.close_code) == ("engine_timeout", 1011)
    finally:
        await server.stop(None)


async def test_recognition_can_be_switched_off() -> None:
    async with gateway(MockASRClient(), GatewayConfig(asr_enabled=False)) as at:
        async with at.client.get(at.http + "/ws/transcribe") as refused:
            assert (refused.status, (await refused.json())["error"]["code"]) == (503, "asr_disabled")
        async with at.client.get(at.http + "/ready") as ready:
            assert (await ready.json())["status"] == "disabled"


async def test_drain_refuses_new_sessions_tells_open_ones_and_lets_them_finish() -> None:
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        async with at.client.ws_connect(at.ws) as socket:
            for frame in cut(SPEECH[:16_000]):
                await socket.send_bytes(frame)
            assert (await next_event(socket))["type"] == "ready"
            draining = asyncio.create_task(drain(at.parts, 10.0, asyncio.Event()))
            events = Heard()
            while not events.of("notice"):
                events.events.append(await next_event(socket))
            assert events.of("notice")[0]["code"] == "going_away"
            async with at.client.get(at.http + "/ws/transcribe") as refused:
                assert (refused.status, (await refused.json())["error"]["code"]) == (503, "going_away")
            for frame in cut(SPEECH[16_000:]):
                await socket.send_bytes(frame)
            await socket.send_json({"type": "stop"})
            async for message in socket:
                events.events.append(message.json())
            assert events.text == "open the door"
            assert socket.close_code == 1000
            await draining


async def test_what_is_still_open_at_the_deadline_is_told_and_closed() -> None:
    async with mocked() as at, at.client.ws_connect(at.ws) as socket:
        await socket.send_json({"type": "start"})
        draining = asyncio.create_task(drain(at.parts, 0.1, asyncio.Event()))
        heard = await listen(socket)
        assert (heard.error, heard.close_code) == ("going_away", 1012)
        await draining


async def test_a_second_signal_does_not_wait() -> None:
    force = asyncio.Event()
    async with mocked() as at, at.client.ws_connect(at.ws) as socket:
        await socket.send_json({"type": "start"})
        await next_event(socket)
        draining = asyncio.create_task(drain(at.parts, 3600.0, force))
        assert (await next_event(socket))["code"] == "going_away"
        force.set()
        async with asyncio.timeout(30):
            async for _ in socket:
                pass
            await draining
        assert socket.close_code == 1012


async def test_calls_are_freed_when_clients_vanish() -> None:
    async with scripted_engine() as engine:
        client = client_of(engine.address)
        async with gateway(client) as at:
            for _ in range(30):
                async with at.client.ws_connect(at.ws) as socket:
                    await socket.send_bytes(SPEECH[:6400])
            async with asyncio.timeout(30):
                await at.parts.sessions.wait_empty()
            assert [endpoint.active for endpoint in client.pool.endpoints] == [0]


def mocked() -> AbstractAsyncContextManager[Gateway]:
    return gateway(MockASRClient())


@pytest.mark.parametrize("path", [STREAM_PATH, STREAM_ALIAS])
async def test_both_paths_lead_to_the_stream(path: str) -> None:
    async with mocked() as at, at.client.ws_connect(at.http + path) as socket:
        await socket.send_json({"type": "stop"})
        assert (await next_event(socket))["type"] == "ready"
