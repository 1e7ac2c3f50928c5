"""Which weights are loaded: a pure decision over what is here and what the machine has."""

from pathlib import Path
from typing import Any

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
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCache:
    monkeypatch.setenv("PERCH_MODELS_DIR", str(tmp_path))
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


def refusal(cache: ModelCache, model: str, machine: Machine, backend: str | None = None) -> str:
    with pytest.raises(BadConfig) as refused:
        named(get(model), cache, machine, backend=backend)
    return refused.value.message


def test_weights_that_are_not_here_are_told_with_the_command_that_gets_what_runs_here(
    cache: ModelCache,
) -> None:
    def command(*arguments: Any) -> str:
        return refusal(cache, *arguments).partition("Get them with: ")[2]

    pull = "perch models pull parakeet-tdt-0.6b-v3 --backend"
    assert command("parakeet-tdt-0.6b-v3", machine()) == f"{pull} sherpa-onnx"
    assert command("parakeet-tdt-0.6b-v3", machine(allow_cpu=True)) == f"{pull} sherpa-onnx"
    assert command("parakeet-tdt-0.6b-v3", machine(cuda=True)) == f"{pull} transformers"
    assert command("parakeet-tdt-0.6b-v3", machine("nemo", cuda=True)) == f"{pull} nemo"
    assert command("parakeet-tdt-0.6b-v3", machine(cuda=True), "sherpa-onnx") == f"{pull} sherpa-onnx"
    assert "pull parakeet-0.6b --backend transformers" in command("parakeet", machine(allow_cpu=True))


def test_the_command_says_the_folder_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    told = refusal(ModelCache(tmp_path / "my models"), "parakeet-tdt-0.6b-v2", machine())
    assert told.endswith(f"--backend sherpa-onnx --models-dir '{tmp_path / 'my models'}'")


def test_weights_that_would_not_run_here_are_not_advised(cache: ModelCache) -> None:
    told = refusal(cache, "parakeet-1.1b", machine())
    assert "parakeet-1.1b has no weights for the CPU" in told
    assert "nemo (CUDA, 4.3 GB)" in told
    assert "perch models export" in told
    assert "pull" not in told
    told = refusal(cache, "parakeet-1.1b", machine(), "nemo")
    assert "meant for a GPU" in told
    assert told.endswith("pull parakeet-1.1b --backend nemo")
    assert "there are: nemo" in refusal(cache, "parakeet-1.1b", machine(), "sherpa-onnx")


def damage(cache: ModelCache, model: str, backend: str) -> None:
    put(cache, model, backend)
    (cache.place(model, backend) / "weights.nemo").write_bytes(b"w")


def test_weights_that_are_damaged_are_told_with_the_file_and_what_mends_it(cache: ModelCache) -> None:
    damage(cache, "parakeet-tdt-0.6b-v2", "sherpa-onnx")
    damage(cache, "parakeet-tdt-0.6b-v2", "nemo")  # which would not run here if it were whole
    told = refusal(cache, "parakeet-tdt-0.6b-v2", machine())
    assert told == (
        "The weights of parakeet-tdt-0.6b-v2 for sherpa-onnx are not whole: weights.nemo (1 bytes "
        "instead of 7). `perch models pull parakeet-tdt-0.6b-v2 --backend sherpa-onnx` fetches anew what differs."
    )
    assert passed_over(cache, machine()) == told
    assert "for nemo" in passed_over(cache, machine(cuda=True))


def test_weights_that_nobody_checked_are_told_with_the_command_that_takes_them(cache: ModelCache) -> None:
    place = cache.place("parakeet-tdt-0.6b-v2", "sherpa-onnx")
    place.mkdir(parents=True)
    names = ["encoder.int8.onnx", "decoder.int8.onnx", "joiner.int8.onnx", "tokens.txt"]
    for name in names:
        (place / name).write_bytes(b"1")
    told = refusal(cache, "parakeet-tdt-0.6b-v2", machine())
    assert "were put there by hand." in told
    assert "`perch models pull parakeet-tdt-0.6b-v2 --backend sherpa-onnx --offline`" in told
    assert passed_over(cache, machine()) == told
    (place / names[2]).unlink()
    told = refusal(cache, "parakeet-tdt-0.6b-v2", machine())
    assert "by hand, without joiner.int8.onnx" in told
    assert "--offline" not in told


def test_weights_that_were_pulled_by_half_are_told(cache: ModelCache) -> None:
    work = cache.workplace("parakeet-tdt-0.6b-v2", "sherpa-onnx")
    (work / "files").mkdir(parents=True)
    assert passed_over(cache, machine()) == "", "a pull that got no connection"
    (work / "encoder.int8.onnx.part").write_bytes(b"1")
    assert "are here by half" in refusal(cache, "parakeet-tdt-0.6b-v2", machine())
    assert "are here by half" in passed_over(cache, machine())


def test_weights_that_may_not_be_read_are_told(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    place = cache.place("parakeet-tdt-0.6b-v2", "sherpa-onnx")
    place.mkdir(parents=True)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"cannot be read ({place}: Permission denied)" in passed_over(cache, machine())


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
