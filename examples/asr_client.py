"""Ask an engine directly, without a gateway: python examples/asr_client.py recording.wav [HOST:PORT]."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.audio.files import decode_file
from perch.core.audio import RATE, samples_to_seconds


async def audio_of(path: Path) -> AsyncIterator[bytes]:
    """A recording of any format as 16 kHz mono PCM16, a second at a time."""
    chunks = decode_file(path)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


async def main(path: str, engine: str = "127.0.0.1:50051") -> None:
    client = RivaASRClient(RivaConfig(endpoints=(engine,)))
    try:
        async for event in client.stream_transcribe(audio_of(Path(path)), RATE, hotwords=["Perch"]):
            if event.is_final:
                start, end = samples_to_seconds(event.start), samples_to_seconds(event.end)
                print(f"{start:7.2f} to {end:.2f} s  {event.text}")
    finally:
        await client.aclose()


asyncio.run(main(*sys.argv[1:]))
