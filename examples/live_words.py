"""Words while they are spoken: python examples/live_words.py recording.wav [URL]. 16-bit mono WAV, 8 to 48 kHz."""

import asyncio
import sys
import wave

import aiohttp

SERVER = "ws://localhost:8443/v1/audio/transcriptions/stream"


async def speak(socket: aiohttp.ClientWebSocketResponse, path: str) -> None:
    """Send the recording at the pace of speech, 100 ms at a time, as a microphone would."""
    with wave.open(path) as wav:
        await socket.send_json({"type": "start", "config": {"sample_rate": wav.getframerate()}})
        while chunk := wav.readframes(wav.getframerate() // 10):
            await socket.send_bytes(chunk)
            await asyncio.sleep(0.1)
    await socket.send_json({"type": "stop"})


async def show(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Print what comes back: partials replace each other, a final stays."""
    async for message in socket:
        match message.json():
            case {"type": "partial", "text": text, "end": end}:
                print(f"{end:7.1f} s  … {text}")
            case {"type": "final", "text": text, "end": end}:
                print(f"{end:7.1f} s  = {text}")
            case {"type": "error", "message": text, "code": code}:
                raise SystemExit(f"{text} [{code}]")


async def main(path: str, url: str = SERVER) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url) as socket,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(speak(socket, path))
        await show(socket)


asyncio.run(main(*sys.argv[1:]))
