"""Deepgram's own SDK against Perch: python deepgram_live.py HTTP_URL KEY WAV sync|async"""

import asyncio
import json
import sys
import threading
import wave

from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment

url, key, path, variant = sys.argv[1:]
ws = url.replace("http", "ws", 1)
environment = DeepgramClientEnvironment(base=url, production=ws, agent=ws, agent_rest=url)
options = {
    "model": "nova-3",
    "encoding": "linear16",
    "sample_rate": "16000",
    "interim_results": "true",
    "vad_events": "true",
}
with wave.open(path) as file:
    pcm = file.readframes(file.getnframes())
chunks = [pcm[i : i + 3200] for i in range(0, len(pcm), 3200)]
finals: list[str] = []
kinds: set[str] = set()


def hear(message: object) -> None:
    kinds.add(message.type)
    if message.type == "Results" and message.is_final:
        finals.append(message.channel.alternatives[0].transcript)


def sync() -> None:
    with DeepgramClient(api_key=key, environment=environment).listen.v1.connect(**options) as connection:
        connection.on(EventType.MESSAGE, hear)
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        for chunk in chunks:
            connection.send_media(chunk)
        connection.send_keep_alive()
        connection.send_close_stream()
        listening.join(60)


async def asynchronous() -> None:
    client = AsyncDeepgramClient(api_key=key, environment=environment)
    async with client.listen.v1.connect(**options) as connection:
        connection.on(EventType.MESSAGE, hear)
        listening = asyncio.create_task(connection.start_listening())
        for chunk in chunks:
            await connection.send_media(chunk)
        await connection.send_finalize()
        await connection.send_close_stream()
        await asyncio.wait_for(listening, 60)


sync() if variant == "sync" else asyncio.run(asynchronous())
print(json.dumps({"text": " ".join(filter(None, finals)), "kinds": sorted(kinds)}))
