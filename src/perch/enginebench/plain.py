"""The other side: a library as its own examples use it, one stream after the other.

A ``PlainLoop`` is what a service around the library would be without batches. It is measured in a process
of its own (``plain_process``), so that its memory and its processor time can be told from ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from perch.enginebench.figures import Said
from perch.errors import BadConfig
from perch.inference.parakeet.model import Audio, LoadOptions
from perch.registry.machine import is_installed


class PlainLoop(Protocol):
    """A loaded library. Used by one thread."""

    @property
    def about(self) -> str:
        """Which calls it makes, for the report."""
        ...

    @property
    def most(self) -> int | None:
        """Streams that it can hold open at once; None if there is no bound, 0 if it knows no streams."""
        ...

    def open(self) -> Any:
        """A new utterance of a stream."""
        ...

    def feed(self, utterance: Any, audio: Audio) -> None:
        """Take audio and decode what is ready."""
        ...

    def finish(self, utterance: Any) -> "Heard":
        """Decode the rest."""
        ...

    def whole(self, audio: Audio) -> "Heard":
        """Recognise a recording."""
        ...


class PullingLoop(PlainLoop, Protocol):
    """A loop that asks for its audio, and so serves one stream at a time. ``most`` is 1."""

    def pull(self, pieces: Iterator[Audio]) -> "Heard":
        """Recognise an utterance; the next piece is asked for when everything before it is decoded."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """The text of an utterance, and how many tokens it was."""

    text: str
    tokens: int


class WholeUtterances(ABC):
    """A ``PlainLoop`` for a library that takes no less than an utterance."""

    most: int | None = None

    def open(self) -> list[Audio]:
        return []

    def feed(self, utterance: list[Audio], audio: Audio) -> None:
        utterance.append(audio)

    def finish(self, utterance: list[Audio]) -> Heard:
        return self.whole(np.concatenate(utterance))

    @abstractmethod
    def whole(self, audio: Audio) -> Heard:
        """Recognise a recording."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a plain loop is loaded from."""

    library: str
    options: LoadOptions
    chunk: int
    """Samples of a piece; 0 if an utterance is one."""
    clips: Sequence[bytes]


_LOOPS = {
    "sherpa-onnx": "perch.enginebench.plain_sherpa",
    "transformers": "perch.enginebench.plain_transformers",
    "onnx-asr": "perch.enginebench.plain_onnx_asr",
}
LIBRARIES = tuple(_LOOPS)
"""Those that have a plain loop."""


def has_loop(library: str) -> bool:
    """Whether the library has a plain loop here and is installed."""
    return library in _LOOPS and is_installed(library)


def load(spec: Spec) -> PlainLoop:
    """The loop of a library.

    Raises:
        BadConfig: It has none, or does not load this model.
    """
    if spec.library not in _LOOPS:
        raise BadConfig(f"There is no plain loop of {spec.library}; there are: {', '.join(_LOOPS)}.")
    loop: PlainLoop = import_module(_LOOPS[spec.library]).load(spec)
    return loop


def said(clip: int, samples: int, heard: Heard) -> Said:
    return Said(clip, samples, heard.text, heard.tokens)
