"""What each user says: a WAV file, cut into the frames a microphone would send."""

import wave
from dataclasses import dataclass
from pathlib import Path

from perch.audio.tones import synthesise
from perch.core.audio import BYTES_PER_SAMPLE, RATE

FRAMES_PER_SECOND = 10


@dataclass(frozen=True, slots=True)
class Recording:
    """16-bit mono PCM."""

    pcm: bytes
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.pcm) / BYTES_PER_SAMPLE / self.sample_rate

    def frames(self) -> list[bytes]:
        """Pieces of 100 ms; the last may be shorter."""
        size = self.sample_rate // FRAMES_PER_SECOND * BYTES_PER_SAMPLE
        return [self.pcm[start : start + size] for start in range(0, len(self.pcm), size)]


def read_wav(path: Path) -> Recording:
    """The recording in ``path``.

    Raises:
        ValueError: It is no 16-bit mono WAV file.
        OSError: It cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getsampwidth(), file.getnchannels()) != (BYTES_PER_SAMPLE, 1):
                raise ValueError(f"{path} must be 16-bit mono PCM.")
            return Recording(file.readframes(file.getnframes()), file.getframerate())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a WAV file: {error}.") from error


def tone_words() -> Recording:
    """Five seconds that the mock hears words in; a real engine needs real speech."""
    return Recording(synthesise(["hello bird stop now"] * 4), RATE)
