"""A recording in which every half second has its own pitch, so that lost or repeated audio shows."""

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

STEP_S = 0.5
_LOWEST_HZ, _STEP_HZ = 400, 60
_WINDOW_S = 0.1


def write_steps(path: Path, steps: int, rate: int = 48_000) -> Path:
    """Write ``steps`` half seconds of rising pitch."""
    per_step = int(rate * STEP_S)
    pitches = np.repeat(_LOWEST_HZ + _STEP_HZ * np.arange(steps), per_step)
    sound = 0.5 * np.sin(2 * np.pi * np.cumsum(pitches) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


def heard_steps(pcm: bytes, rate: int = 16_000) -> list[tuple[int, float]]:
    """Each pitch heard, in order, and for how many seconds; silence is left out."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    window = int(rate * _WINDOW_S)
    steps = [_step_of(samples[at : at + window], rate) for at in range(0, len(samples) - window + 1, window)]
    runs: list[tuple[int, float]] = []
    for step in steps:
        if step is None:
            continue
        if runs and runs[-1][0] == step:
            runs[-1] = (step, runs[-1][1] + _WINDOW_S)
        else:
            runs.append((step, _WINDOW_S))
    return runs


def _step_of(samples: npt.NDArray[np.float64], rate: int) -> int | None:
    if np.sqrt(np.mean(samples**2)) < 1000:
        return None
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    pitch = float(np.argmax(spectrum)) * rate / (8 * len(samples))
    return round((pitch - _LOWEST_HZ) / _STEP_HZ)
