"""The words of a recording: python examples/stream_file.py recording.wav [URL]. 16-bit mono WAV, 8 to 48 kHz."""

import asyncio
import sys
import wave

import aiohttp

SERVER = "ws://localhost:8443/v1/audio/transcriptions/stream"


async def main(path: str, url: str = SERVER) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        with wave.open(path) as wav:
            await socket.send_json({"type": "start", "config": {"sample_rate": wav.getframerate()}})
            while chunk := wav.readframes(8_000):
                await socket.send_bytes(chunk)
        await socket.send_json({"type": "stop"})
        async for message in socket:
            event = message.json()
            if event["type"] == "final":
                print(event["text"])
            elif event["type"] == "error":
                raise SystemExit(f"{event['message']} [{event['code']}]")


asyncio.run(main(*sys.argv[1:]))
