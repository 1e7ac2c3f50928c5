"""The development speech: short human clips with transcripts, beside the repository where there is one."""

import json
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

SPEECH = Path(__file__).parents[3] / "shared" / "speech"

needs_speech = pytest.mark.skipif(
    not (SPEECH / "manifest.json").exists(), reason="the speech clips (../shared/speech) are not here"
)


@dataclass(frozen=True)
class Clip:
    file: str
    text: str
    pcm: bytes


@cache
def clips() -> dict[str, Clip]:
    """Every clip by its file name."""
    listed = json.loads((SPEECH / "manifest.json").read_text())["clips"]
    return {clip["file"]: Clip(clip["file"], clip["text"], _pcm(clip["file"])) for clip in listed}


def _pcm(file: str) -> bytes:
    with wave.open(str(SPEECH / file)) as recording:
        pcm: bytes = recording.readframes(recording.getnframes())
        return pcm
