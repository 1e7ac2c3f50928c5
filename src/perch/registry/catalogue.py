"""Every model that Perch knows by name, as data: what it is called, what it can do, where its weights are.

One table for all that speaks of models: ``perch engine --model``, ``perch models``, what an engine tells of
itself (``GetRivaSpeechRecognitionConfig``) and with it ``/v1/models`` and the language rule. A model that is not
here is served all the same, from a folder or file of weights.

Licences, languages and sizes are those of the model cards and repositories named in each row; check the card
before you ship a product on one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from perch.errors import ModelUnavailable

Tier = Literal["fast", "balanced", "accurate"]
Mode = Literal["cache-aware", "buffered", "vad-segmented"]

_BEST_FIRST: tuple[Mode, ...] = ("cache-aware", "buffered", "vad-segmented")


@dataclass(frozen=True, slots=True)
class Weights:
    """One published form of a model's weights."""

    backend: Literal["sherpa-onnx", "transformers", "nemo"]
    """The library that loads them."""
    device: Literal["cpu", "cuda"]
    """What they are meant for."""
    gigabytes: float
    """Of the download, about."""
    repository: str = ""
    """On the Hugging Face hub; empty if ``archive`` says where they are."""
    files: tuple[str, ...] = ()
    """Patterns of the repository's files that are needed."""
    revision: str = "main"
    archive: str = ""
    """Address of a .tar.bz2 that holds them."""
    sha256: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Digests of files, where they are known beforehand; otherwise the hub's own are believed."""
    streaming_mode: Mode = "vad-segmented"
    """How that library takes a stream with them, on the device they are meant for, unless it is told otherwise."""

    @property
    def source(self) -> str:
        return self.archive or self.repository


@dataclass(frozen=True, slots=True)
class Entry:
    """A model."""

    id: str
    engine_model: str
    """Its name where it was published."""
    tier: Tier
    languages: tuple[str, ...]
    """BCP-47; a bare language stands for all of its regions."""
    decoder: Literal["rnnt", "tdt", "ctc"]
    punctuation: bool
    memory_gb: float
    """Of a GPU, in 16 bit, with some streams."""
    licence: str
    weights: tuple[Weights, ...]
    """Best first; which one is taken depends on the machine and on what is installed."""
    aliases: tuple[str, ...] = ()
    engine: str = "parakeet"
    word_timestamps: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return (self.id, *self.aliases)

    @property
    def streaming_mode(self) -> Mode:
        """The best that it can do; which one is used depends on the weights."""
        return min((weights.streaming_mode for weights in self.weights), key=_BEST_FIRST.index)


_HF = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What transformers reads of a repository."""

_INT8 = ("encoder.int8.onnx", "decoder.int8.onnx", "joiner.int8.onnx", "tokens.txt")
_K2 = "https://github.com/k2-fsa/sherpa-onnx/releases/download/asr-models/"

_EUROPEAN = (
    "bg", "hr", "cs", "da", "nl", "en", "et", "fi", "fr", "de", "el", "hu", "it", "lv", "lt", "mt", "pl", "pt",
    "ro", "sk", "sl", "es", "sv", "ru", "uk",
)  # fmt: skip


def _transformers(repository: str, gigabytes: float, mode: Mode = "buffered") -> Weights:
    return Weights("transformers", "cuda", gigabytes, repository, _HF, streaming_mode=mode)


def _nemo(repository: str, gigabytes: float, mode: Mode = "buffered") -> Weights:
    return Weights("nemo", "cuda", gigabytes, repository, ("*.nemo",), streaming_mode=mode)


def _int8(repository: str, gigabytes: float, **sha256: str) -> Weights:
    digests = {name.replace("_", "."): digest for name, digest in sha256.items()}
    return Weights("sherpa-onnx", "cpu", gigabytes, repository, _INT8, sha256=MappingProxyType(digests))


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        id="parakeet-tdt-0.6b-v2",
        engine_model="nvidia/parakeet-tdt-0.6b-v2",
        tier="accurate",
        languages=("en",),
        decoder="tdt",
        punctuation=True,
        memory_gb=4.0,
        licence="CC-BY-4.0",
        weights=(
            _int8(
                "csukuangfj/sherpa-onnx-nemo-parakeet-tdt-0.6b-v2-int8",
                0.66,
                encoder_int8_onnx="a32b12d17bbbc309d0686fbbcc2987b5e9b8333a7da83fa6b089f0a2acd651ab",
                decoder_int8_onnx="b6bb64963457237b900e496ee9994b59294526439fbcc1fecf705b31a15c6b4e",
                joiner_int8_onnx="7946164367946e7f9f29a122407c3252b680dbae9a51343eb2488d057c3c43d2",
                tokens_txt="ec182b70dd42113aff6c5372c75cac58c952443eb22322f57bbd7f53977d497d",
            ),
            _nemo("nvidia/parakeet-tdt-0.6b-v2", 2.5),
        ),
    ),
    Entry(
        id="parakeet-tdt-0.6b-v3",
        engine_model="nvidia/parakeet-tdt-0.6b-v3",
        tier="accurate",
        languages=_EUROPEAN,
        decoder="tdt",
        punctuation=True,
        memory_gb=4.0,
        licence="CC-BY-4.0",
        weights=(
            _int8(
                "csukuangfj/sherpa-onnx-nemo-parakeet-tdt-0.6b-v3-int8",
                0.67,
                encoder_int8_onnx="acfc2b4456377e15d04f0243af540b7fe7c992f8d898d751cf134c3a55fd2247",
                decoder_int8_onnx="179e50c43d1a9de79c8a24149a2f9bac6eb5981823f2a2ed88d655b24248db4e",
                joiner_int8_onnx="3164c13fc2821009440d20fcb5fdc78bff28b4db2f8d0f0b329101719c0948b3",
                tokens_txt="d58544679ea4bc6ac563d1f545eb7d474bd6cfa467f0a6e2c1dc1c7d37e3c35d",
            ),
            _transformers("nvidia/parakeet-tdt-0.6b-v3", 2.5),
            _nemo("nvidia/parakeet-tdt-0.6b-v3", 2.5),
        ),
    ),
    Entry(
        id="nemotron-speech-streaming-en-0.6b",
        engine_model="nvidia/nemotron-speech-streaming-en-0.6b",
        tier="fast",
        languages=("en",),
        decoder="rnnt",
        punctuation=True,
        memory_gb=4.0,
        licence="NVIDIA Open Model License",
        weights=(
            Weights(
                "sherpa-onnx",
                "cpu",
                0.7,
                archive=f"{_K2}sherpa-onnx-nemotron-speech-streaming-en-0.6b-560ms-int8-2026-04-25.tar.bz2",
                streaming_mode="cache-aware",
            ),
            _transformers("nvidia/nemotron-speech-streaming-en-0.6b", 2.5, "cache-aware"),
            _nemo("nvidia/nemotron-speech-streaming-en-0.6b", 2.5, "cache-aware"),
        ),
        aliases=("nemotron",),
    ),
    Entry(
        id="parakeet-0.6b",
        engine_model="nvidia/parakeet-rnnt-0.6b",
        tier="fast",
        languages=("en",),
        decoder="rnnt",
        punctuation=False,
        memory_gb=4.0,
        licence="CC-BY-4.0",
        weights=(_transformers("nvidia/parakeet-rnnt-0.6b", 2.5), _nemo("nvidia/parakeet-rnnt-0.6b", 2.5)),
        aliases=("parakeet", "parakeet-rnnt-0.6b"),
    ),
    Entry(
        id="parakeet-1.1b",
        engine_model="nvidia/parakeet-rnnt-1.1b",
        tier="balanced",
        languages=("en",),
        decoder="rnnt",
        punctuation=False,
        memory_gb=6.0,
        licence="CC-BY-4.0",
        weights=(_nemo("nvidia/parakeet-rnnt-1.1b", 4.3),),
        aliases=("parakeet-rnnt-1.1b",),
    ),
    Entry(
        id="parakeet-ctc-0.6b",
        engine_model="nvidia/parakeet-ctc-0.6b",
        tier="fast",
        languages=("en",),
        decoder="ctc",
        punctuation=False,
        memory_gb=3.0,
        licence="CC-BY-4.0",
        weights=(_transformers("nvidia/parakeet-ctc-0.6b", 2.5), _nemo("nvidia/parakeet-ctc-0.6b", 2.5)),
    ),
    Entry(
        id="parakeet-ctc-1.1b",
        engine_model="nvidia/parakeet-ctc-1.1b",
        tier="balanced",
        languages=("en",),
        decoder="ctc",
        punctuation=False,
        memory_gb=5.0,
        licence="CC-BY-4.0",
        weights=(_transformers("nvidia/parakeet-ctc-1.1b", 4.3), _nemo("nvidia/parakeet-ctc-1.1b", 4.3)),
    ),
)
"""Best for real work first: ``perch serve`` takes the first whose weights are here and can be run."""


def names() -> Iterator[str]:
    """The id of every model."""
    return (entry.id for entry in CATALOGUE)


def find(name: str) -> Entry | None:
    """The model of that id, alias or published name, in any case; None if there is none."""
    wanted = name.lower()
    for entry in CATALOGUE:
        if wanted in {known.lower() for known in (*entry.names, entry.engine_model)}:
            return entry
    return None


def get(name: str) -> Entry:
    """The model of that id, alias or published name.

    Raises:
        ModelUnavailable: There is none; names those there are.
    """
    entry = find(name)
    if entry is None:
        raise ModelUnavailable(f"There is no model {name!r}; there is {', '.join(names())}.")
    return entry
