"""A newcomer's first minute: the demo, a browser, a voice, and the words that appear."""

import wave
from pathlib import Path

import numpy as np
import pytest
import soxr
from playwright.async_api import expect

from processes import perch, running
from speech import OWN, clips

from .browser import finals, open_page

pytestmark = [pytest.mark.browser, pytest.mark.golden, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def voice_48k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording as a microphone at 48 kHz would give it, with a moment of quiet after."""
    path = tmp_path_factory.mktemp("microphone") / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(at_48k(OWN / "jfk.wav") + bytes(2 * 48_000))
    return path


def at_48k(path: Path) -> bytes:
    [clip] = [clip for clip in clips() if clip.path == path]
    samples = np.frombuffer(clip.pcm, "<i2")
    resampled: bytes = soxr.resample(samples, 16_000, 48_000).astype("<i2").tobytes()
    return resampled


async def test_spoken_words_appear_on_the_page(voice_48k: Path) -> None:
    [said] = [clip.text for clip in clips() if clip.path.name == "jfk.wav"]
    problems: list[str] = []
    async with (
        running(*perch("demo", "--port", "0")) as gateway,
        open_page(gateway.url, voice_48k, problems=problems) as page,
    ):
        await expect(page.locator("#notice-text")).to_contain_text("Demonstration recogniser: ")
        await expect(page.locator("#notice-text")).not_to_contain_text("models pull")
        await expect(page.locator("#notice-details")).to_contain_text("models pull")
        await page.click("#record")
        await expect(page.locator("#partial-text")).not_to_be_empty(timeout=60_000)
        await page.wait_for_function(
            "() => document.getElementById('recorded').textContent.split(':').at(-1) >= '12.0'",
            timeout=60_000,
        )
        await page.click("#record")
        await expect(page.locator("body")).to_have_attribute("data-phase", "idle", timeout=60_000)
        heard = " ".join(await finals(page))
    assert problems == []
    # Where in the recording the microphone begins differs from run to run, and so does what is heard of it:
    # about half of the fourteen words, never the same ones. Of another voice, or of noise, it would be one or two.
    assert len(set(said.split()) & set(heard.split())) >= 5, heard
