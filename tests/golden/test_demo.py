"""What a newcomer gets: ``./run demo``, started as they start it, hearing real speech."""

import asyncio
import os
import signal

import aiohttp
import psutil
import pytest

from gateways import Heard, cut, listen
from processes import Running, perch, running
from speech import MORE, Clip, clips, word_error_rate

pytestmark = [pytest.mark.golden, pytest.mark.timeout(150)]


async def heard_by(gateway: Running, clip: Clip) -> Heard:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(gateway.stream_url, ssl=False) as socket,
    ):
        listening = asyncio.create_task(listen(socket, deadline_s=120))
        await socket.send_json({"type": "start", "config": {"sample_rate": 16_000}})
        for frame in cut(clip.pcm):
            await socket.send_bytes(frame)
            await asyncio.sleep(0.02)
        await socket.send_json({"type": "stop"})
        return await listening


async def test_run_demo_transcribes_real_speech_and_says_what_it_is() -> None:
    async with running("./run", "demo", "--port", "0", ready_s=120) as gateway:
        heard = [await heard_by(gateway, clip) for clip in clips()]
        for one in heard:
            ready = one.of("ready")[0]
            assert ready["backend"] == "engine"
            assert "demonstration" in ready["notice"].lower()
            assert "RIVA_HOST" in ready["notice"]
            assert "`./run models pull" in ready["notice"]
            assert one.of("partial"), "words appear while they are spoken"
            assert one.close_code == 1000
        rate = word_error_rate([clip.text for clip in clips()], [one.text for one in heard])
        assert rate <= 0.45, f"WER {rate:.1%}"
        assert any("demonstration" in line.lower() for line in gateway.output)
        async with aiohttp.ClientSession() as session, session.get(gateway.url + "/v1/models") as models:
            [model] = (await models.json())["data"]
        assert model["capabilities"]["streaming"]
        assert model["capabilities"]["offline"]
        children = psutil.Process(gateway.process.pid).children(recursive=True)
        assert await gateway.stop() == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == [], "the engine and its workers stop with the gateway"


@pytest.mark.skipif(not MORE.is_dir(), reason="the larger set of recordings is not on this machine")
async def test_the_development_recordings_are_understood_well_enough() -> None:
    async with running(*perch("demo", "--port", "0")) as gateway:
        recordings = clips(MORE)
        heard = [await heard_by(gateway, clip) for clip in recordings]
        rate = word_error_rate([clip.text for clip in recordings], [one.text for one in heard])
        assert rate <= 0.45, f"WER {rate:.1%}"


async def test_an_engine_that_is_killed_is_started_again() -> None:
    [clip] = [clip for clip in clips() if "librivox" in clip.path.name]
    async with running(*perch("serve", "--no-tls", "--port", "0")) as gateway:
        [engine] = [
            child for child in psutil.Process(gateway.process.pid).children() if "engine" in child.cmdline()
        ]
        os.kill(engine.pid, signal.SIGKILL)
        await until_status(gateway, 503)
        await until_status(gateway, 200)
        heard = await heard_by(gateway, clip)
        assert "young man" in heard.text


async def until_status(gateway: Running, status: int) -> None:
    """Ask ``/ready`` until it answers with ``status``."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        while True:
            async with session.get(gateway.url + "/ready") as ready:
                if ready.status == status:
                    return
            await asyncio.sleep(0.05)


async def test_tls_is_the_default_and_its_certificate_is_announced(tmp_path: object) -> None:
    environment = {"PERCH_STATE_DIR": str(tmp_path)}
    async with running(
        *perch("serve", "--backend", "mock", "--port", "0"), environment=environment
    ) as gateway:
        assert gateway.url.startswith("https://")
        async with aiohttp.ClientSession() as session:
            async with session.get(gateway.url + "/health", ssl=False) as health:
                assert health.status == 200
            async with session.ws_connect(gateway.stream_url, ssl=False) as socket:
                await socket.send_json({"type": "stop"})
                assert (await listen(socket)).close_code == 1000
        assert await gateway.stop() == 0
    assert any("self-signed" in line for line in gateway.output)
