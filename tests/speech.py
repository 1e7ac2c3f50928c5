"""Recordings of real speech with their words: the repository's own, and more when they are at hand."""

import json
import re
import wave
from dataclasses import dataclass
from pathlib import Path

import jiwer

ROOT = Path(__file__).parents[1]
OWN = ROOT / "tests/fixtures/speech"
MORE = ROOT.parent / "shared/speech"


@dataclass(frozen=True)
class Clip:
    """A recording of 16 kHz mono PCM16 and what is said in it."""

    path: Path
    text: str
    category: str

    @property
    def pcm(self) -> bytes:
        with wave.open(str(self.path)) as file:
            frames: bytes = file.readframes(file.getnframes())
            return frames


def clips(folder: Path = OWN) -> list[Clip]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return [Clip(folder / clip["file"], clip["text"], clip["category"]) for clip in manifest["clips"]]


def normalised(text: str) -> str:
    """Lower case, no punctuation: what the transcripts of the manifests are written in."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def word_error_rate(references: list[str], hypotheses: list[str]) -> float:
    """Of the whole corpus, not the mean of its clips."""
    return float(
        jiwer.wer([normalised(text) for text in references], [normalised(text) for text in hypotheses])
    )
