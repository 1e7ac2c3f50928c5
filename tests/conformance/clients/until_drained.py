"""SDKs that stream while the gateway is stopped: python until_drained.py HTTP_URL KEY WAV openai|deepgram

Prints how the SDK tells of it."""

import base64
import json
import sys
import time
import wave
from itertools import cycle

url, key, path, sdk = sys.argv[1:]
with wave.open(path) as file:
    pcm = file.readframes(file.getnframes())
chunks = cycle([pcm[i : i + 3200] for i in range(0, len(pcm), 3200)])
ends = time.monotonic() + 40


def openai() -> None:
    from openai import OpenAI

    with OpenAI(base_url=url + "/v1", api_key=key).realtime.connect(model="whisper-1") as connection:
        print("connected", flush=True)
        while time.monotonic() < ends:
            connection.input_audio_buffer.append(audio=base64.b64encode(next(chunks)).decode())
            time.sleep(0.05)


def deepgram() -> None:
    from deepgram import DeepgramClient
    from deepgram.environment import DeepgramClientEnvironment

    ws = url.replace("http", "ws", 1)
    environment = DeepgramClientEnvironment(base=url, production=ws, agent=ws, agent_rest=url)
    options = {"model": "nova-3", "encoding": "linear16", "sample_rate": "16000"}
    with DeepgramClient(api_key=key, environment=environment).listen.v1.connect(**options) as connection:
        print("connected", flush=True)
        while time.monotonic() < ends:
            connection.send_media(next(chunks))
            time.sleep(0.05)


try:
    openai() if sdk == "openai" else deepgram()
except Exception as error:  # noqa: BLE001
    print(json.dumps({"kind": type(error).__name__, "said": str(error)}))
