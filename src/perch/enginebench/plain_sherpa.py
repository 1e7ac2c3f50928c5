"""sherpa-onnx as in its Python examples: ``decode_stream`` of one stream after the other."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from perch.core.audio import RATE
from perch.enginebench.plain import Heard, PlainLoop, Spec
from perch.errors import BadConfig
from perch.inference.parakeet.model import Audio

_TAIL = np.zeros(RATE, dtype=np.float32)
"""Silence after an utterance, by which the library's own examples have a stream's last words decoded."""


class Streaming:
    """Implements ``PlainLoop`` with an ``OnlineRecognizer``."""

    about = "OnlineRecognizer.decode_stream, one stream after the other"
    most = None

    def __init__(self, recogniser: Any) -> None:
        self._recogniser = recogniser

    def open(self) -> Any:
        return self._recogniser.create_stream()

    def feed(self, utterance: Any, audio: Audio) -> None:
        utterance.accept_waveform(RATE, audio)
        self._decode(utterance)

    def finish(self, utterance: Any) -> Heard:
        utterance.accept_waveform(RATE, _TAIL)
        utterance.input_finished()
        self._decode(utterance)
        tokens = self._recogniser.tokens(utterance)
        return Heard(self._recogniser.get_result(utterance), len(tokens))

    def whole(self, audio: Audio) -> Heard:
        utterance = self.open()
        self.feed(utterance, audio)
        return self.finish(utterance)

    def _decode(self, utterance: Any) -> None:
        while self._recogniser.is_ready(utterance):
            self._recogniser.decode_stream(utterance)


class Offline:
    """Implements ``PlainLoop`` with an ``OfflineRecognizer``."""

    about = "OfflineRecognizer.decode_stream, one utterance after the other"
    most = None

    def __init__(self, recogniser: Any) -> None:
        self._recogniser = recogniser

    def open(self) -> list[Audio]:
        return []

    def feed(self, utterance: list[Audio], audio: Audio) -> None:
        utterance.append(audio)

    def finish(self, utterance: list[Audio]) -> Heard:
        return self.whole(np.concatenate(utterance))

    def whole(self, audio: Audio) -> Heard:
        stream = self._recogniser.create_stream()
        stream.accept_waveform(RATE, audio)
        self._recogniser.decode_stream(stream)
        return Heard(stream.result.text, len(stream.result.tokens))


def load(spec: Spec) -> PlainLoop:
    """The library with the same files, threads and provider as the worker process.

    Raises:
        BadConfig: The folder is not an export for sherpa-onnx.
    """
    sherpa: Any = import_module("sherpa_onnx")
    folder = Path(spec.options.path)
    common = {
        "tokens": str(_file(folder, "tokens.txt", spec)),
        "num_threads": spec.options.threads or len(os.sched_getaffinity(0)),
        "provider": "cuda" if spec.options.device == "cuda" else "cpu",
    }
    if not list(folder.glob("*encoder*.onnx")):
        model = str(_file(folder, "*model*.onnx", spec))
        return Offline(sherpa.OfflineRecognizer.from_nemo_ctc(model=model, **common))
    parts = {part: str(_file(folder, f"*{part}*.onnx", spec)) for part in ("encoder", "decoder", "joiner")}
    if spec.chunk:
        return Streaming(sherpa.OnlineRecognizer.from_transducer(**parts, **common))
    return Offline(sherpa.OfflineRecognizer.from_transducer(**parts, **common, model_type="nemo_transducer"))


def _file(folder: Path, pattern: str, spec: Spec) -> Path:
    """The int8 file where there are both, unless float32 was asked for or is for a GPU."""
    found = sorted(folder.glob(pattern))
    wants_int8 = spec.options.dtype == "int8" or (
        spec.options.dtype == "auto" and spec.options.device != "cuda"
    )
    fitting = _fitting(found, wants_int8=wants_int8)
    if not fitting:
        raise BadConfig(f"{folder} has no {pattern}: it is no export for sherpa-onnx.")
    return fitting[0]


def _fitting(found: Sequence[Path], *, wants_int8: bool) -> Sequence[Path]:
    return [path for path in found if (".int8." in path.name) == wants_int8] or found
