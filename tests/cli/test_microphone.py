"""The microphone's loop, without a microphone: what was heard comes out, and stopping ends it at once."""

import asyncio
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from perch.cli.microphone import microphone
from perch.cli.native_client import TranscriptionFailed

Heard = Callable[..., None]


class Driver:
    """What ``sounddevice`` offers that is used, with a hand on the samples."""

    PortAudioError = RuntimeError

    def __init__(self) -> None:
        self.is_open = False
        self.opened = asyncio.Event()
        self.heard: Heard = lambda *_: None

    def RawInputStream(self, *_: object, callback: Heard, **__: object) -> "Driver":  # noqa: N802
        self.heard = callback
        return self

    def __enter__(self) -> None:
        self.is_open = True
        self.opened.set()

    def __exit__(self, *_: object) -> None:
        self.is_open = False


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "sounddevice", driver)
    return driver


async def listen(stop: asyncio.Event) -> list[bytes]:
    return [block async for block in microphone(stop)]


async def test_blocks_come_out_in_order(driver: Driver) -> None:
    listening = microphone(asyncio.Event())
    first = asyncio.ensure_future(anext(listening))
    await asyncio.wait_for(driver.opened.wait(), 30)
    for block in (b"one", b"two"):
        driver.heard(bytearray(block))
    assert [await first, await anext(listening)] == [b"one", b"two"]
    await listening.aclose()
    assert not driver.is_open


async def test_stopping_ends_a_silent_microphone_and_closes_it(driver: Driver) -> None:
    stop = asyncio.Event()
    listening = asyncio.create_task(listen(stop))
    await asyncio.wait_for(driver.opened.wait(), 30)
    stop.set()
    assert await asyncio.wait_for(listening, 30) == []
    assert not driver.is_open


async def test_what_was_heard_before_stopping_is_not_lost(driver: Driver) -> None:
    stop = asyncio.Event()
    listening = asyncio.create_task(listen(stop))
    await asyncio.wait_for(driver.opened.wait(), 30)
    for block in (b"one", b"two", b"three"):
        driver.heard(block)
    asyncio.get_running_loop().call_soon(stop.set)
    assert await asyncio.wait_for(listening, 30) == [b"one", b"two", b"three"]


async def test_a_recogniser_that_cannot_keep_up_is_told_instead_of_losing_audio(driver: Driver) -> None:
    stop = asyncio.Event()
    listening = microphone(stop)
    first = asyncio.ensure_future(anext(listening))
    await asyncio.wait_for(driver.opened.wait(), 30)
    driver.heard(b"x")
    assert await first == b"x"
    for _ in range(400):
        driver.heard(b"x")
    await asyncio.sleep(0)
    with pytest.raises(TranscriptionFailed, match="30 s behind"):
        await anext(listening)


async def test_no_device_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Error querying device -1")

    driver = SimpleNamespace(PortAudioError=RuntimeError, RawInputStream=refuse)
    monkeypatch.setitem(sys.modules, "sounddevice", driver)
    with pytest.raises(TranscriptionFailed, match="querying device -1"):
        await listen(asyncio.Event())
