"""AssemblyAI's own SDK against Perch: python assemblyai_live.py HTTP_URL KEY WAV sync|async"""

import asyncio
import json
import sys
import wave

from assemblyai.streaming import v3

url, key, path, variant = sys.argv[1:]
options = v3.RealTimeTranscriberOptions(
    api_host=url.replace("http", "ws", 1), api_key=key, terminate_timeout=30
)
parameters = v3.RealTimeParameters(
    sample_rate=16_000, format_turns=True, speech_model="universal-streaming-english"
)
with wave.open(path) as file:
    pcm = file.readframes(file.getnframes())
chunks = [pcm[i : i + 3200] for i in range(0, len(pcm), 3200)]
finals: list[str] = []
kinds: set[str] = set()
errors: list[str] = []


def turn(_: object, event: object) -> None:
    if event.end_of_turn and event.turn_is_formatted:
        finals.append(event.transcript)


def listen(client: object) -> None:
    client.on(v3.RealTimeEvents.Turn, turn)
    client.on(v3.RealTimeEvents.Begin, lambda *_: kinds.add("Begin"))
    client.on(v3.RealTimeEvents.Termination, lambda *_: kinds.add("Termination"))
    client.on(v3.RealTimeEvents.Error, lambda _, error: errors.append(f"{error.code}: {error}"))


def sync() -> None:
    client = v3.RealTimeTranscriber(options)
    listen(client)
    client.connect(parameters)
    if not errors:
        client.stream(iter(chunks))
        client.disconnect(terminate=True)


async def asynchronous() -> None:
    client = v3.AsyncRealTimeTranscriber(options)
    listen(client)
    await client.connect(parameters)
    if not errors:
        for chunk in chunks:
            await client.stream(chunk)
        await client.disconnect(terminate=True)


sync() if variant == "sync" else asyncio.run(asynchronous())
print(json.dumps({"text": " ".join(filter(None, finals)), "kinds": sorted(kinds), "errors": errors}))
