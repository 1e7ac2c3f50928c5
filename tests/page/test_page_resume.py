"""The page on a bad network: the real gateway, a relay that cuts the connection, and every word exactly once."""

import wave
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import soxr
from playwright.async_api import expect

from perch.audio.tones import Timing, synthesise
from processes import perch, running
from relays import relay

from .browser import finals, open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

SENTENCES = ["one two three", "four five six", "seven eight nine", "ten eleven twelve"]


@pytest.fixture(scope="module")
def tones_48k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tone words as a microphone at 48 kHz gives them: their words are known, whatever is cut."""
    pcm = np.frombuffer(synthesise(SENTENCES, Timing(lead_s=1.5, pause_s=1.5, tail_s=2.0)), "<i2")
    path = tmp_path_factory.mktemp("microphone") / "tones.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(soxr.resample(pcm, 16_000, 48_000).astype("<i2").tobytes())
    return path


async def test_a_connection_cut_twice_costs_the_transcript_nothing(tones_48k: Path) -> None:
    budgets: deque[int] = deque()
    environment = {"PERCH_ENGINE_RECOGNISER": "scripted"}
    async with running(*perch("demo", "--port", "0"), environment=environment) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        async with relay(port, lambda: budgets.popleft() if budgets else None) as network:
            url = f"http://localhost:{network.url.rpartition(':')[2].strip('/')}"
            async with open_page(url, tones_48k) as page:
                await expect(page.locator("#record")).to_be_enabled()
                budgets.extend([120_000, 110_000])  # bytes that the stream's next two connections live for
                await page.click("#record")
                await page.wait_for_function(
                    "() => document.getElementById('recorded').textContent.split(':').at(-1) >= '13.0'",
                    timeout=40_000,
                )
                await page.click("#record")
                await expect(page.locator("body")).to_have_attribute("data-phase", "idle", timeout=20_000)
                heard = await finals(page)
        resumed = [line for line in gateway.output if "session_resumed" in line]
    assert network.cuts == 2
    assert len(resumed) == 2
    assert " ".join(heard).split() == " ".join(SENTENCES).split()
