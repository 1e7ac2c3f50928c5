"""WebM with Opus as a real browser's MediaRecorder writes it, sent as it grows. (C.3)"""

import asyncio
import json
import wave
from pathlib import Path

import numpy as np
import pytest

from engines import LONG_PAUSE
from perch.audio.tones import synthesise
from server.test_dialects import serving

from .browser import open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

RECORD = """async (url) => {
  const stream = await navigator.mediaDevices.getUserMedia(
    {audio: {echoCancellation: false, noiseSuppression: false, autoGainControl: false}});
  const recorder = new MediaRecorder(stream, {mimeType: 'audio/webm;codecs=opus'});
  const socket = new WebSocket(url);
  const heard = [];
  const sent = [];
  socket.onmessage = (message) => heard.push(JSON.parse(message.data));
  await new Promise((resolve) => { socket.onopen = resolve; });
  recorder.ondataavailable = (event) => sent.push(event.data.arrayBuffer().then((data) => socket.send(data)));
  const stopped = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start(250);
  setTimeout(() => recorder.stop(), 5000);
  await stopped;
  await Promise.all(sent);
  socket.send(JSON.stringify({type: 'CloseStream'}));
  await new Promise((resolve) => { socket.onclose = resolve; });
  return {pieces: sent.length, heard};
}"""


async def test_what_a_browser_records_is_recognised_while_it_records(tmp_path: Path) -> None:
    voice = tmp_path / "voice.wav"
    pcm = synthesise(["hello bird", "stop now"], LONG_PAUSE)
    with wave.open(str(voice), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        silence = bytes(96_000 * 3)
        file.writeframes(at_48k(pcm) + silence)
    async with serving() as at, open_page(at.http, voice) as page:
        url = at.http.replace("http", "ws") + "/v1/listen"
        done = await asyncio.wait_for(page.evaluate(RECORD, url), 60)
    assert done["pieces"] >= 10
    finals = [event for event in done["heard"] if event.get("is_final")]
    said = " ".join(event["channel"]["alternatives"][0]["transcript"] for event in finals)
    assert said == "hello bird stop now", json.dumps(done["heard"])[-2000:]


def at_48k(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    positions = np.arange(len(samples) * 3) / 3
    return np.interp(positions, np.arange(len(samples)), samples).astype("<i2").tobytes()
