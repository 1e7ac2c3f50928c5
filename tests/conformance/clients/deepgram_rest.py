"""Deepgram's own SDK and a recording: python deepgram_rest.py HTTP_URL KEY WAV sync|async"""

import asyncio
import json
import sys
from pathlib import Path

from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.environment import DeepgramClientEnvironment

url, key, path, variant = sys.argv[1:]
ws = url.replace("http", "ws", 1)
environment = DeepgramClientEnvironment(base=url, production=ws, agent=ws, agent_rest=url)
options = {"request": Path(path).read_bytes(), "model": "nova-3", "utterances": True}


async def asynchronous() -> object:
    client = AsyncDeepgramClient(api_key=key, environment=environment)
    return await client.listen.v1.media.transcribe_file(**options)


if variant == "sync":
    answer = DeepgramClient(api_key=key, environment=environment).listen.v1.media.transcribe_file(**options)
else:
    answer = asyncio.run(asynchronous())
alternative = answer.results.channels[0].alternatives[0]
assert answer.metadata.channels == 1
assert answer.results.utterances
assert [word.punctuated_word for word in alternative.words] == alternative.transcript.split()
print(json.dumps({"text": alternative.transcript}))
