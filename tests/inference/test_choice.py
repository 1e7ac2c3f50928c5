"""Which weights are loaded: a pure decision over what is here and what the machine has."""

from pathlib import Path

import pytest

from perch.errors import BadConfig
from perch.inference.choice import Machine, candidates, named, passed_over
from perch.registry.cache import ModelCache
from perch.registry.catalogue import get
from perch.registry.manifest import FileFacts, Manifest

ALL = ("sherpa-onnx", "transformers", "nemo")


def machine(*installed: str, cuda: bool = False, allow_cpu: bool = False) -> Machine:
    return Machine(cuda=cuda, allow_cpu=allow_cpu, is_installed=(installed or ALL).__contains__)


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path)


def put(cache: ModelCache, model: str, *backends: str) -> None:
    for backend in backends:
        folder = cache.place(model, backend)
        folder.mkdir(parents=True)
        (folder / "weights.nemo").write_bytes(b"weights")
        files = {"weights.nemo": FileFacts(7, "0" * 64)}
        Manifest(model, backend, "test", "", files, "2026-01-01T00:00:00Z").write(folder)


def test_a_gpu_gets_what_is_meant_for_it_and_a_cpu_its_own(cache: ModelCache) -> None:
    put(cache, "parakeet-tdt-0.6b-v3", *ALL)
    entry = get("parakeet-tdt-0.6b-v3")
    assert named(entry, cache, machine()).backend == "sherpa-onnx"
    assert named(entry, cache, machine(cuda=True)).backend == "transformers"
    assert named(entry, cache, machine("sherpa-onnx", "nemo", cuda=True)).backend == "nemo"
    assert named(entry, cache, machine("sherpa-onnx", cuda=True)).backend == "sherpa-onnx"
    assert named(entry, cache, machine(cuda=True), backend="nemo").path.suffix == ".nemo"


def test_weights_that_are_not_here_are_told_with_the_command_that_gets_them(cache: ModelCache) -> None:
    with pytest.raises(BadConfig, match=r"perch models pull parakeet-0\.6b"):
        named(get("parakeet"), cache, machine())


def test_weights_that_cannot_be_run_are_told_with_what_is_missing(cache: ModelCache) -> None:
    put(cache, "parakeet-0.6b", "transformers")
    entry = get("parakeet-0.6b")
    with pytest.raises(BadConfig, match=r"perch-asr\[transformers\]"):
        named(entry, cache, machine("sherpa-onnx", cuda=True))
    with pytest.raises(BadConfig, match="--allow-cpu"):
        named(entry, cache, machine())
    assert named(entry, cache, machine(allow_cpu=True)).backend == "transformers"


def test_weights_that_are_passed_over_are_told_with_the_reason(cache: ModelCache) -> None:
    assert passed_over(cache, machine()) == ""
    put(cache, "parakeet-0.6b", "transformers")
    put(cache, "parakeet-tdt-0.6b-v2", "sherpa-onnx")
    told = passed_over(cache, machine("transformers"))
    assert "parakeet-tdt-0.6b-v2 for sherpa-onnx are here, but sherpa-onnx is not installed" in told
    assert "./run install onnx" in told
    assert "ALLOW_CPU=1" in told


def test_the_best_of_what_is_here_is_the_first_of_the_catalogue_that_can_be_run(cache: ModelCache) -> None:
    def ids(machine: Machine) -> list[str]:
        return [choice.entry.id for choice in candidates(cache, machine)]

    assert ids(machine()) == []
    put(cache, "parakeet-0.6b", "nemo")
    assert ids(machine()) == []
    put(cache, "nemotron-speech-streaming-en-0.6b", "sherpa-onnx")
    put(cache, "parakeet-tdt-0.6b-v2", "sherpa-onnx")
    assert ids(machine()) == ["parakeet-tdt-0.6b-v2", "nemotron-speech-streaming-en-0.6b"]
    assert ids(machine("nemo", cuda=True)) == ["parakeet-0.6b"]
