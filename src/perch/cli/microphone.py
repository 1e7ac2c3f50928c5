"""The default microphone as 16 kHz mono PCM."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from perch.cli.native_client import TranscriptionFailed
from perch.core.audio import RATE

_BLOCK = RATE // 10
_WAITING = 300  # blocks, 30 s: a recogniser further behind will not catch up


async def microphone(stop: asyncio.Event) -> AsyncGenerator[bytes]:
    """What the default microphone hears, in pieces of 100 ms, until ``stop`` is set.

    Raises:
        TranscriptionFailed: There is no microphone, no driver for it, or the audio is not taken.
    """
    sounddevice = _driver()
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
    lost = asyncio.Event()

    def enqueue(block: bytes) -> None:
        try:
            blocks.put_nowait(block)
        except asyncio.QueueFull:
            lost.set()

    def heard(data: object, *_: object) -> None:  # on the driver's own thread
        loop.call_soon_threadsafe(enqueue, bytes(data))  # type: ignore[call-overload]

    try:
        device = sounddevice.RawInputStream(RATE, _BLOCK, channels=1, dtype="int16", callback=heard)
    except sounddevice.PortAudioError as error:
        raise TranscriptionFailed(
            f"No microphone can be opened ({error}). Plug one in, or name a file instead of --mic."
        ) from error
    with device:
        async with aclosing(_until(stop, blocks)) as hearing:
            async for block in hearing:
                if lost.is_set():
                    raise TranscriptionFailed(
                        "The recogniser is 30 s behind the microphone; use a faster engine."
                    )
                yield block


async def _until(stop: asyncio.Event, blocks: asyncio.Queue[bytes]) -> AsyncGenerator[bytes]:
    """The blocks as they come, and after ``stop`` those that have come already."""
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            coming = asyncio.create_task(blocks.get())
            try:
                await asyncio.wait([coming, stopping], return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    yield coming.result()
            finally:
                coming.cancel()
        while not blocks.empty():
            yield blocks.get_nowait()
    finally:
        stopping.cancel()


def _driver() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise TranscriptionFailed("--mic needs the sounddevice package: pip install sounddevice") from error
    except OSError as error:
        raise TranscriptionFailed("--mic needs PortAudio: apt install libportaudio2") from error
    return sounddevice
