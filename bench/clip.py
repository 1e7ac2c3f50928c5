"""The audio every stream of the benchmark sends: tone words, cut into frames of 100 ms, over and over.

All streams and both roads send the same frames, so an event of one is an event of all the others.
"""

import wave
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from perch.audio.tones import Timing, synthesise
from perch.core.audio import BYTES_PER_SAMPLE, RATE

FRAME_S = 0.1
FRAME_BYTES = round(FRAME_S * RATE) * BYTES_PER_SAMPLE

_SENTENCES = (
    "perch bird nest river tree stone",
    "north wind rain over green valley",
    "seven small yellow star sky high",
    "now listen then write paper book",
)
_TIMING = Timing(pause_s=1.4, tail_s=1.1)  # longer than the silence that ends an utterance


def frames() -> list[bytes]:
    """One round of the clip: whole frames, each sentence followed by enough silence to end it."""
    pcm = synthesise(_SENTENCES, _TIMING)
    pcm += bytes(-len(pcm) % FRAME_BYTES)
    return [pcm[position : position + FRAME_BYTES] for position in range(0, len(pcm), FRAME_BYTES)]


def sentence_s() -> float:
    """How long one sentence lasts, its pause included: the period after which events come back."""
    return len(frames()) * FRAME_S / len(_SENTENCES)


def recorded(path: Path) -> bytes:
    """The samples of a WAV file, which must be as the engine takes them."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, BYTES_PER_SAMPLE):
            raise SystemExit(f"{path} is not mono 16 kHz in 16 bits.")
        pcm: bytes = file.readframes(file.getnframes())
        return pcm


def endless(prepared: Sequence[bytes]) -> Iterator[bytes]:
    """``prepared`` frames, the clip repeated for ever."""
    return cycle(prepared)
