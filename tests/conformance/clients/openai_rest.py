"""OpenAI's own SDK and a recording: python openai_rest.py HTTP_URL KEY WAV sync|async"""

import asyncio
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI, BadRequestError, OpenAI

url, key, path, variant = sys.argv[1:]
recording = Path(path)


def sync() -> dict:
    client = OpenAI(base_url=url + "/v1", api_key=key)
    create = client.audio.transcriptions.create
    models = [model.id for model in client.models.list()]
    plain = create(model="whisper-1", file=recording)
    verbose = create(
        model=models[0],
        file=recording,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [word.word for word in verbose.words] == verbose.text.split()
    assert verbose.segments[0].start <= verbose.segments[0].end <= verbose.duration
    srt = create(model="whisper-1", file=recording, response_format="srt")
    vtt = create(model="whisper-1", file=recording, response_format="vtt")
    assert "-->" in srt
    assert vtt.startswith("WEBVTT")
    assert create(model="whisper-1", file=recording, response_format="text").strip() == plain.text
    deltas, text = "", ""
    for event in create(model="gpt-4o-transcribe", file=recording, stream=True):
        if event.type == "transcript.text.delta":
            deltas += event.delta
        if event.type == "transcript.text.done":
            text = event.text
    assert deltas == text == plain.text == verbose.text
    try:
        create(model="whisper-1", file=recording, language="fr")
    except BadRequestError as error:
        assert "only supports English" in error.message
        assert error.code == "language_unsupported"
    else:
        raise AssertionError("French was accepted")
    return {"text": text, "models": models}


async def asynchronous() -> dict:
    client = AsyncOpenAI(base_url=url + "/v1", api_key=key)
    plain = await client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=recording)
    text = ""
    async for event in await client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=recording, stream=True
    ):
        if event.type == "transcript.text.done":
            text = event.text
    assert plain.text == text
    secret = await client.realtime.client_secrets.create(session={"type": "transcription"})
    assert secret.value.startswith("ek_")
    async with AsyncOpenAI(base_url=url + "/v1", api_key=secret.value).realtime.connect(
        model="whisper-1"
    ) as browser:
        assert (await browser.recv()).type == "session.created"
    return {"text": text, "models": [model.id async for model in client.models.list()]}


print(json.dumps(sync() if variant == "sync" else asyncio.run(asynchronous())))
