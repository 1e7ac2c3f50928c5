"""Log mel features of whole windows, computed where the model is.

transformers' own extractor leaves the audio on the CPU, so that it cannot compute on another device (seen
in 5.24), and on a CPU it takes longer than a GPU takes for the rest. This is what it computes, of its own
spectrogram: ``ParakeetFeatureExtractor`` in ``feature_extraction_parakeet.py``, after NeMo's
``FilterbankFeatures``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perch.inference.parakeet.model import Audio

Tensor = Any

_EPSILON = 1e-5
"""Added to the deviation that a band is divided by."""


class Features:
    """Features of some windows of audio.

    Args:
        torch: The module.
        extractor: A ``ParakeetFeatureExtractor``.
        device: The model's.
    """

    def __init__(self, torch: Any, extractor: Any, device: Any) -> None:
        self._torch = torch
        self._extractor = extractor
        self._device = device

    def __call__(self, windows: Sequence[Audio]) -> tuple[Tensor, Tensor]:
        """Features of shape (B, T, bands), float32, and which of the T are real, shape (B, T).

        Each window has at least two steps of audio: its features are divided by their deviation.
        """
        audio, samples = padded(self._torch, windows, self._device)
        features = self._extractor._torch_extract_fbank_features(  # noqa: SLF001 all else of it is for the CPU
            self._emphasised(audio, samples), self._device
        )
        counts = (samples // self._extractor.hop_length)[:, None]
        is_real = self._torch.arange(features.shape[1], device=self._device) < counts
        return _normalised(features, counts, is_real[:, :, None]), is_real

    def _emphasised(self, audio: Tensor, samples: Tensor) -> Tensor:
        torch, factor = self._torch, self._extractor.preemphasis
        if factor is None:
            return audio
        audio = torch.cat([audio[:, :1], audio[:, 1:] - factor * audio[:, :-1]], 1)
        places = torch.arange(audio.shape[1], device=self._device)
        return audio.masked_fill(places >= samples[:, None], 0.0)


def padded(torch: Any, windows: Sequence[Audio], device: Any) -> tuple[Tensor, Tensor]:
    """The windows in one tensor of shape (B, samples), silence after the shorter, and the length of each."""
    audio = np.zeros((len(windows), max(len(window) for window in windows)), np.float32)
    for row, window in zip(audio, windows, strict=True):
        row[: len(window)] = window
    lengths = torch.tensor([len(window) for window in windows], device=device)
    return torch.from_numpy(audio).to(device), lengths


def _normalised(features: Tensor, counts: Tensor, is_real: Tensor) -> Tensor:
    """Each band less its mean and by its deviation, of the frames that are real; the others are zero."""
    mean = ((features * is_real).sum(1) / counts)[:, None]
    variance = ((features - mean) ** 2 * is_real).sum(1) / (counts - 1)
    return (features - mean) / (variance.sqrt()[:, None] + _EPSILON) * is_real
