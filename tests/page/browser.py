"""The page in a real Chromium whose microphone plays a WAV file."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

DESKTOP = (1280, 800)
PHONE = (390, 844)

expect.set_options(timeout=30_000)  # where many tests run at a time, five seconds are not many


def chromium() -> str:
    """Where Chromium is. Without one the test is skipped; on a build server it fails."""
    path = os.environ.get("PERCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path:
        return path
    reason = "no Chromium: install Debian's chromium and libatomic1, or name one in PERCH_CHROMIUM"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@asynccontextmanager
async def open_page(
    url: str,
    wav_48k: Path,
    *,
    problems: list[str] | None = None,
    size: tuple[int, int] = DESKTOP,
    theme: Literal["light", "dark"] = "light",
    scale: float = 1,
) -> AsyncIterator[Page]:
    """A loaded page, microphone allowed and playing ``wav_48k`` (48 kHz, once) from when it is opened.

    Args:
        url: The gateway's page, on localhost or https (any certificate is accepted).
        wav_48k: What the microphone hears; other rates are resampled badly by Chromium.
        problems: Receives console errors, uncaught exceptions and dialogs, if any.
        size: Width and height of the window; narrow ones are opened as a phone.
        theme: What the system prefers.
        scale: Device pixels per CSS pixel.
    """
    path = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            args=[
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={wav_48k}%noloop",
                "--no-sandbox",
            ],
        )
        try:
            page = await _new_page(browser, size, theme, scale)
            if problems is not None:
                _collect(page, problems)
            await page.goto(url)
            yield page
        finally:
            await browser.close()


async def _new_page(
    browser: Browser, size: tuple[int, int], theme: Literal["light", "dark"], scale: float
) -> Page:
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        device_scale_factor=scale,
        has_touch=width < 600,
        ignore_https_errors=True,
        accept_downloads=True,
        permissions=["microphone", "clipboard-read", "clipboard-write"],
    )
    return await context.new_page()


def _collect(page: Page, problems: list[str]) -> None:
    def console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            problems.append(message.text)

    page.on("console", console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))


async def recorded_seconds(page: Page) -> float:
    """What the page's clock shows."""
    minutes, seconds = (await page.inner_text("#recorded")).split(":")
    return int(minutes) * 60 + float(seconds)


async def finals(page: Page) -> list[str]:
    """The settled segments' text."""
    return [text.strip() for text in await page.locator("#finals .said").all_inner_texts()]
