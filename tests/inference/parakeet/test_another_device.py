"""Models in PyTorch on another device than the CPU: nothing of a step may be left behind there.

``meta`` stands for a GPU: it computes shapes only, and refuses whatever is mixed with tensors of the CPU, as CUDA
does. What would be read back from it is made up here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from perch.inference.parakeet.model import LoadOptions, Model, Piece
from perch.inference.parakeet.transformers_features import Features

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch
import transformers as hf

from inference.parakeet.tiny_transformers import network_of, processor_of

LOOKS = 3
"""How often a decoding loop finds that there is more to do."""


@contextmanager
def reading_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers of tensors on ``meta`` that a step asks for: zeros, and a few times that there is more."""
    real_list, real_bool, real_int = torch.Tensor.tolist, torch.Tensor.__bool__, torch.Tensor.__int__
    looks = iter([True] * LOOKS)

    def tolist(tensor: Any) -> Any:
        if tensor.device.type != "meta":
            return real_list(tensor)
        return np.zeros(tuple(tensor.shape), float if tensor.is_floating_point() else int).tolist()

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "tolist", tolist)
        patched.setattr(
            torch.Tensor,
            "__bool__",
            lambda tensor: next(looks, False) if tensor.device.type == "meta" else real_bool(tensor),
        )
        patched.setattr(
            torch.Tensor, "__int__", lambda tensor: 3 if tensor.device.type == "meta" else real_int(tensor)
        )
        yield


def model_of(kind: str, dtype: Any) -> Model:
    from perch.inference.parakeet.transformers import served

    options = LoadOptions(path="nowhere", name="tiny", chunk_ms=None if kind == "streaming" else 1120)
    return served(torch, network_of(kind).to(dtype).to("meta").eval(), processor_of(kind), options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["streaming", "ctc", "rnnt", "tdt"])
def test_a_step_stays_on_the_models_device(monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str) -> None:
    model = model_of(kind, getattr(torch, dtype))
    assert model.facts.device == "meta"
    model.reserve(4)
    states = [model.begin() for _ in range(3)]
    audio = np.ones(model.facts.chunk, np.float32)
    for number in range(10):
        with reading_back(monkeypatch):
            model.step([Piece(state, audio, number == 9) for state in states])


@pytest.mark.parametrize("preemphasis", [0.97, None])
def test_features_are_the_librarys(preemphasis: float | None) -> None:
    extractor = hf.ParakeetFeatureExtractor(feature_size=80, preemphasis=preemphasis)
    noise = np.random.default_rng(2).normal(0, 0.1, 40_000).astype(np.float32)
    windows = [noise[:320], noise[:16_000], noise[3:39_700], noise[7:8_007]]
    features, is_real = Features(torch, extractor, torch.device("cpu"))(windows)
    theirs = extractor(windows, sampling_rate=16_000, return_tensors="pt")
    assert torch.equal(is_real, theirs["attention_mask"])
    assert torch.equal(features, theirs["input_features"])
