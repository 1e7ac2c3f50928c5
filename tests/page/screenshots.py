"""Take the pictures of docs/images: ``python -m tests.page.screenshots speech-48k.wav seconds [url]``.

They are taken so many seconds into the recording. Without the URL of a gateway the scripted gateway answers, with words that the microphone did not say.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Page

from .browser import DESKTOP, PHONE, open_page
from .scripted_gateway import Script, Utterance, serve

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def _utterance(text: str, start: float, step: float, *confidences: float) -> Utterance:
    words = tuple(text.split())
    return Utterance(words, start, step, (*confidences, *(0.95,) * (len(words) - len(confidences))))


KINGFISHER = Script(
    utterances=(
        _utterance("The kingfisher waits on a branch above the river,", 0.3, 0.14),
        _utterance(
            "watching the water for a single silver movement.",
            1.9,
            0.14,
            0.9,
            0.9,
            0.62,
            0.9,
            0.9,
            0.41,
            0.66,
        ),
        _utterance("Then, all at once, it falls like a thrown stone.", 3.5, 0.18),
        _utterance("Nobody on the bank has seen it leave", 5.7, 0.16),
    ),
    model="demonstration",
)


@asynccontextmanager
async def _gateway(url: str | None) -> AsyncIterator[str]:
    if url:
        yield url
        return
    async with serve(KINGFISHER) as (_, scripted):
        yield scripted


async def _take(page: Page, path: Path, seconds: float) -> None:
    await page.click("#record")
    await page.wait_for_timeout(seconds * 1000)
    await page.screenshot(path=path)


async def _main(wav: Path, seconds: float, url: str | None) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    async with _gateway(url) as at:
        async with open_page(at, wav, size=DESKTOP, theme="light", scale=1.5) as page:
            await _take(page, IMAGES / "page-desktop.png", seconds)
        async with open_page(at, wav, size=PHONE, theme="dark", scale=2) as page:
            await _take(page, IMAGES / "page-phone.png", seconds)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
