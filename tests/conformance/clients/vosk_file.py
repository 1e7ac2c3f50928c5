"""How a Vosk client sends a file: one message, one reply. python vosk_file.py HTTP_URL KEY WAV async"""

import asyncio
import json
import sys
import wave

import websockets

url, key, path, _ = sys.argv[1:]


async def main() -> None:
    said = []
    headers = {"Authorization": f"Bearer {key}"}
    with wave.open(path) as file:
        async with websockets.connect(
            url.replace("http", "ws", 1) + "/vosk", additional_headers=headers
        ) as socket:
            await socket.send(json.dumps({"config": {"sample_rate": file.getframerate()}}))
            while data := file.readframes(int(file.getframerate() * 0.2)):
                await socket.send(data)
                said.append(json.loads(await socket.recv()).get("text", ""))
            await socket.send('{"eof" : 1}')
            said.append(json.loads(await socket.recv())["text"])
    print(json.dumps({"text": " ".join(filter(None, said)), "kinds": []}))


asyncio.run(main())
