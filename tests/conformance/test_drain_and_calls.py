"""What SDKs see when the gateway is stopped, and a telephone call of real speech."""

import asyncio
import json
import signal

import aiohttp
import numpy as np
import pytest

from conformance.conftest import KEY, Demo
from conformance.environments import CLIENTS, environment
from conformance.test_clients import JFK
from gateways import cut, listen
from processes import perch, running
from server.test_calls import call, mulaw_8k, packets
from speech import normalised

pytestmark = pytest.mark.timeout(150)


@pytest.mark.parametrize("sdk", ["openai", "deepgram"])
async def test_an_sdk_is_told_of_a_drain_as_something_to_connect_again_after(sdk: str) -> None:
    """Close code 1012, service restart: OpenAI's SDK counts it among those it recovers from."""
    python = await asyncio.to_thread(environment, sdk)
    drained = {"PERCH_API_KEYS": KEY, "PERCH_DRAIN_S": "0.5"}
    async with running(*perch("demo", "--port", "0"), environment=drained) as gateway:
        client = await asyncio.create_subprocess_exec(
            python,
            CLIENTS / "until_drained.py",
            gateway.url.replace("localhost", "127.0.0.1"),
            KEY,
            JFK.path,
            sdk,
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readline(), 60) == b"connected\n"
        assert await gateway.stop(signal.SIGTERM) == 0
        told = json.loads(await asyncio.wait_for(client.stdout.readline(), 60))
        await client.wait()
    assert "1012" in told["said"], told


async def test_a_call_of_real_speech_has_the_words_of_the_same_audio_sent_natively(demo: Demo) -> None:
    """A Twilio message replay on the embedded engine; its words are those of µ-law at 8 kHz."""
    pcm = JFK.pcm + bytes(32_000 * 2)
    headers = {"Authorization": f"Bearer {demo.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        native = await _native(session, demo, mulaw_8k(pcm))
        async with session.ws_connect(f"{demo.ws}/twilio/{demo.key}") as phone:
            frames = call(packets(pcm, "inbound"), tracks=["inbound"])
            await phone.send_json(frames[1])
            stream = await _only_call(session, demo)
            async with session.ws_connect(f"{demo.ws}/v1/streams/{stream}/events") as observer:
                for frame in frames[2:]:
                    await phone.send_json(frame)
                events = [json.loads(message.data) async for message in observer]
    said = " ".join(event["text"] for event in events if event["type"] == "final")
    assert normalised(said).split() == normalised(native).split()
    assert len(normalised(said).split()) >= 5
    assert np.all(np.diff([word["start"] for event in events for word in event.get("words", [])]) >= 0)


async def _native(session: aiohttp.ClientSession, demo: Demo, audio: bytes) -> str:
    url = f"{demo.ws}/v1/audio/transcriptions/stream?encoding=mulaw&sample_rate=8000"
    async with session.ws_connect(url) as socket:
        listening = asyncio.create_task(listen(socket, deadline_s=90))
        for frame in cut(audio, 160):
            await socket.send_bytes(frame)
        await socket.send_json({"type": "stop"})
        return (await listening).text


async def _only_call(session: aiohttp.ClientSession, demo: Demo) -> str:
    async with asyncio.timeout(30):
        while True:
            async with session.get(f"{demo.http}/v1/streams") as response:
                for stream in (await response.json())["streams"]:
                    if stream["dialect"] == "media-stream":
                        return str(stream["stream_id"])
            await asyncio.sleep(0.05)
