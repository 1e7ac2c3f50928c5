"""Recordings of tone words, which the scripted engine recognises without a mistake, and manifests of them."""

import json
import wave
from pathlib import Path
from typing import Any

from engines import tone_speech
from perch.core.audio import RATE

SECOND = b"\0\0" * RATE


def wav(path: Path, pcm: bytes, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(pcm)
    return path


def manifest_of(folder: Path, *clips: dict[str, Any]) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps({"clips": list(clips)}), encoding="utf-8")
    return path


def spoken(folder: Path, *texts: str, **more: Any) -> Path:
    """A manifest with a clip of tone words for each text, and one of silence."""
    clips = []
    for number, text in enumerate(texts):
        file = wav(folder / f"clip{number}.wav", tone_speech(text))
        clips.append({"file": file.name, "text": text, "category": "clean", **more})
    wav(folder / "nothing.wav", SECOND)
    return manifest_of(folder, *clips, {"file": "nothing.wav", "text": ""})
