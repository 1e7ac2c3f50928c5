"""OpenAI's own SDK against Perch: python openai_realtime.py HTTP_URL KEY WAV sync|async|beta|manual"""

import asyncio
import base64
import json
import sys
import wave

from openai import AsyncOpenAI, OpenAI

url, key, path, variant = sys.argv[1:]
with wave.open(path) as file:
    pcm = file.readframes(file.getnframes()) + bytes(48_000)
chunks = [base64.b64encode(pcm[i : i + 3200]).decode() for i in range(0, len(pcm), 3200)]
turns = None if variant == "manual" else {"type": "server_vad", "silence_duration_ms": 500}
session = {
    "type": "transcription",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 16_000},
            "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
            "turn_detection": turns,
        }
    },
}
finals: list[str] = []
deltas: dict[str, str] = {}
kinds: set[str] = set()


def hear(event: object) -> bool:
    """Take in ``event``; True once the transcript of the client's last commit is there."""
    kinds.add(event.type)
    if event.type.endswith("input_audio_transcription.delta"):
        deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
    if event.type.endswith("input_audio_transcription.completed"):
        finals.append(event.transcript)
        assert event.usage.type == "duration", event.usage
        assert deltas.get(event.item_id, "") in {event.transcript, ""} or not event.transcript.startswith(
            deltas[event.item_id]
        ), (deltas[event.item_id], event.transcript)
        return variant == "manual"
    return False


def sync() -> None:
    client = OpenAI(base_url=url + "/v1", api_key=key)
    with client.realtime.connect(model="gpt-4o-transcribe") as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session=session)
        for chunk in chunks:
            connection.input_audio_buffer.append(audio=chunk)
        if variant == "manual":
            connection.input_audio_buffer.commit()
        for event in connection:
            if hear(event) or done(event):
                break


def done(event: object) -> bool:
    """With server VAD nobody says that all is said: the seconds transcribed do."""
    return event.type.endswith(".completed") and "country" in event.transcript


async def asynchronous() -> None:
    client = AsyncOpenAI(base_url=url + "/v1", api_key=key)
    async with client.realtime.connect(model="gpt-4o-transcribe") as connection:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session=session)
        for chunk in chunks:
            await connection.input_audio_buffer.append(audio=chunk)
        async for event in connection:
            if hear(event) or done(event):
                break


asyncio.run(asyncio.wait_for(asynchronous(), 60)) if variant == "async" else sync()
print(json.dumps({"text": " ".join(filter(None, finals)), "kinds": sorted(kinds)}))
