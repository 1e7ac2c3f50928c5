"""Sounds that are not speech."""

import numpy as np


def noise(seconds: float, level: float) -> bytes:
    """White noise; ``level`` is its standard deviation in steps of 16 bits."""
    return _pcm(np.random.default_rng(7).normal(0, level, round(seconds * 16_000)))


def pink_noise(seconds: float, level: float) -> bytes:
    """Noise whose power falls with frequency, as that of rooms and traffic does."""
    spectrum = np.fft.rfft(np.random.default_rng(7).normal(0, 1, round(seconds * 16_000)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    samples = np.fft.irfft(spectrum)
    return _pcm(samples / samples.std() * level)


def _pcm(samples: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()
