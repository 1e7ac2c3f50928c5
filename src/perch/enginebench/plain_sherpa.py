"""sherpa-onnx as in its Python examples: ``decode_stream`` of one stream after the other."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perch.core.audio import RATE
from perch.enginebench.plain import Heard, PlainLoop, Spec, WholeUtterances
from perch.inference.parakeet import sherpa as served
from perch.inference.parakeet.model import Audio
from perch.inference.parakeet.sherpa_device import device_of
from perch.inference.parakeet.sherpa_export import read_export
from perch.inference.parakeet.sherpa_files import find
from perch.inference.parakeet.sherpa_streaming import DROPPED, TAIL


@dataclass(slots=True)
class _Utterance:
    stream: Any
    samples: int = 0


class Streaming:
    """Implements ``PlainLoop`` with an ``OnlineRecognizer``.

    Utterances have the same silence before and after them as in the worker process, so that both sides
    compute the same chunks and should write the same words.
    """

    about = "OnlineRecognizer.decode_stream, one stream after the other"
    most = None

    def __init__(self, recogniser: Any, chunk: int) -> None:
        self._recogniser = recogniser
        self._chunk = chunk

    def open(self) -> _Utterance:
        stream = self._recogniser.create_stream()
        stream.accept_waveform(RATE, np.zeros(DROPPED, dtype=np.float32))
        return _Utterance(stream)

    def feed(self, utterance: _Utterance, audio: Audio) -> None:
        utterance.samples += len(audio)
        utterance.stream.accept_waveform(RATE, audio)
        self._decode(utterance.stream)

    def finish(self, utterance: _Utterance) -> Heard:
        silence = TAIL + -(utterance.samples + TAIL) % self._chunk
        utterance.stream.accept_waveform(RATE, np.zeros(silence, dtype=np.float32))
        self._decode(utterance.stream)
        tokens = self._recogniser.tokens(utterance.stream)
        return Heard(self._recogniser.get_result(utterance.stream), len(tokens))

    def whole(self, audio: Audio) -> Heard:
        utterance = self.open()
        self.feed(utterance, audio)
        return self.finish(utterance)

    def _decode(self, stream: Any) -> None:
        while self._recogniser.is_ready(stream):
            self._recogniser.decode_stream(stream)


class Offline(WholeUtterances):
    """Implements ``PlainLoop`` with an ``OfflineRecognizer``."""

    about = "OfflineRecognizer.decode_stream, one utterance after the other"

    def __init__(self, recogniser: Any) -> None:
        self._recogniser = recogniser

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
    library = served._library()  # noqa: SLF001
    device = device_of(library, spec.options)
    export = read_export(find(Path(spec.options.path), "float32" if device == "cuda" else spec.options.dtype))
    threads = spec.options.threads or len(os.sched_getaffinity(0))
    files = {role: str(path) for role, path in export.files.parts.items()}
    recogniser = served._recogniser(library, export, files, device, threads)  # noqa: SLF001
    return Streaming(recogniser, spec.chunk) if spec.chunk else Offline(recogniser)
