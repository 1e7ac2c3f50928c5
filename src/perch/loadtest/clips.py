"""What the sessions say: recordings, or tone words, cut into frames that are ready to be written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perch.audio.files import decode_file
from perch.audio.tones import Timing, synthesise
from perch.core.audio import BYTES_PER_SAMPLE, RATE
from perch.errors import BadConfig
from perch.loadtest.wire import BINARY, client_frame

FRAME_S = 0.1
FRAME_BYTES = round(FRAME_S * RATE) * BYTES_PER_SAMPLE

_SENTENCES = (
    "perch bird nest river tree stone",
    "north wind rain over green valley",
    "seven small yellow star sky high",
    "now listen then write paper book",
)
_TIMING = Timing(pause_s=1.4, tail_s=1.1)  # longer than the silence that ends an utterance
_LONGEST_S = 1_800
"""All clips together; they are held in memory, masked."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording as frames of 100 ms of 16 kHz PCM, each a whole WebSocket message."""

    name: str
    frames: tuple[bytes, ...]


def load(paths: Sequence[Path]) -> list[Clip]:
    """The clips in ``paths``; tone words, which the mock and the scripted engine hear, if there are none.

    Raises:
        BadConfig: They are too long for memory, or hold no audio.
        BadAudio: A file is no recording.
        OSError: A file cannot be read.
    """
    if not paths:
        return [Clip("tone words", cut(synthesise(_SENTENCES, _TIMING)))]
    clips: list[Clip] = []
    seconds = 0.0
    for path in paths:
        clips.append(Clip(path.name, cut(b"".join(decode_file(str(path))))))
        seconds += len(clips[-1].frames) * FRAME_S
        if not clips[-1].frames:
            raise BadConfig(f"{path} holds no audio.")
        if seconds > _LONGEST_S:
            raise BadConfig(f"The clips are longer than {_LONGEST_S // 60} minutes; name fewer.")
    return clips


def cut(pcm: bytes) -> tuple[bytes, ...]:
    """``pcm`` as frames; the last is filled up with silence, so that frame n ends at (n + 1) times 100 ms."""
    pcm += bytes(-len(pcm) % FRAME_BYTES)
    pieces = (pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES))
    return tuple(client_frame(BINARY, piece) for piece in pieces)
