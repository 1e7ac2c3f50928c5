"""The folder of weights: what counts as being there, and where it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perch.errors import BadConfig
from perch.registry import catalogue
from perch.registry.cache import Held, ModelCache, default_folder
from perch.registry.machine import choose, has_cuda
from perch.registry.manifest import NAME, FileFacts, Manifest, sha256_of

V3 = catalogue.get("parakeet-tdt-0.6b-v3")


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "models")


def put(cache: ModelCache, model: str, backend: str, **files: str) -> Path:
    """Weights that are whole."""
    folder = cache.place(model, backend)
    folder.mkdir(parents=True)
    facts = {}
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_text(content, encoding="utf-8")
        facts[path.name] = FileFacts(path.stat().st_size, sha256_of(path))
    Manifest(model, backend, "acme/x", "c0ffee", facts, "2026-01-01T00:00:00+00:00").write(folder)
    return folder


def test_weights_of_a_model_are_found_best_first(cache: ModelCache) -> None:
    put(cache, V3.id, "nemo", model_nemo="abc", README_md="about")
    put(cache, V3.id, "sherpa-onnx", tokens_txt="a 0")
    sherpa, nemo = cache.find(V3)
    assert (sherpa.backend, sherpa.path) == ("sherpa-onnx", cache.folder / V3.id / "sherpa-onnx")
    assert (nemo.backend, nemo.path) == ("nemo", cache.folder / V3.id / "nemo/model.nemo")
    assert nemo.bytes == 8
    assert cache.find(V3, "nemo") == [nemo]
    assert cache.find(V3, "transformers") == []


def test_a_cache_that_was_never_made_is_empty(cache: ModelCache) -> None:
    assert cache.list() == []
    assert cache.find(V3) == []
    assert not cache.remove(V3.id, "nemo")
    assert not cache.folder.exists()


def test_weights_of_models_that_the_catalogue_does_not_know_are_listed(cache: ModelCache) -> None:
    put(cache, "gone", "nemo", model_nemo="abc")
    assert [held.id for held in cache.list()] == ["gone"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / NAME).unlink(),
        lambda folder: (folder / NAME).write_text("{", encoding="utf-8"),
        lambda folder: (folder / NAME).write_text("[]", encoding="utf-8"),
        lambda folder: (folder / NAME).write_text(json.dumps({"files": {}}), encoding="utf-8"),
        lambda folder: (folder / NAME).write_text(
            (folder / NAME).read_text(encoding="utf-8").replace("tokens.txt", "../sherpa-onnx/tokens.txt"),
            encoding="utf-8",
        ),
        lambda folder: (folder / "tokens.txt").unlink(),
        lambda folder: (folder / "tokens.txt").write_text("a", encoding="utf-8"),
    ],
    ids=[
        "no manifest",
        "half a manifest",
        "no object",
        "no files",
        "a file outside",
        "a file is gone",
        "a file is cut",
    ],
)
def test_a_folder_that_is_not_whole_is_not_there(cache: ModelCache, damage: object) -> None:
    folder = put(cache, V3.id, "sherpa-onnx", tokens_txt="a 0", encoder_onnx="abc")
    assert cache.list() != []
    damage(folder)  # type: ignore[operator]
    assert cache.list() == []
    assert cache.find(V3) == []


def test_a_pull_that_is_not_done_is_not_there_and_can_be_removed(cache: ModelCache) -> None:
    put(cache, V3.id, "sherpa-onnx.pulling", tokens_txt="a 0")
    folder = cache.workplace(V3.id, "sherpa-onnx")
    (folder / "encoder.onnx.part").write_bytes(b"abc")
    assert cache.find(V3) == []
    assert cache.there(V3.id) == ("sherpa-onnx",)
    assert cache.remove(V3.id, "sherpa-onnx")
    assert not (cache.folder / V3.id).exists()


def test_a_folder_without_files_is_nothing(cache: ModelCache) -> None:
    (cache.workplace(V3.id, "sherpa-onnx") / "files").mkdir(parents=True)
    assert cache.there(V3.id) == ()


def test_removing_leaves_what_is_for_other_libraries(cache: ModelCache) -> None:
    put(cache, V3.id, "nemo", model_nemo="abc")
    put(cache, V3.id, "sherpa-onnx", tokens_txt="a 0")
    assert cache.remove(V3.id, "nemo")
    assert [held.backend for held in cache.list()] == ["sherpa-onnx"]


def test_verify_names_the_files_that_have_changed(cache: ModelCache) -> None:
    folder = put(cache, V3.id, "sherpa-onnx", tokens_txt="a 0", encoder_onnx="abc")
    [held] = cache.list()
    assert cache.verify(held) == {}
    (folder / "encoder.onnx").write_text("abd", encoding="utf-8")
    assert cache.verify(held) == {"encoder.onnx": "other content of the same size"}


def test_verify_finds_what_is_cut_or_gone_though_it_does_not_count_as_being_there(cache: ModelCache) -> None:
    folder = put(cache, V3.id, "sherpa-onnx", tokens_txt="a 0", encoder_onnx="abc", joiner_onnx="j")
    (folder / "encoder.onnx").write_text("a", encoding="utf-8")
    (folder / "joiner.onnx").unlink()
    assert cache.list() == []
    [held] = cache.records(V3.id)
    assert cache.verify(held) == {"encoder.onnx": "1 bytes instead of 3", "joiner.onnx": "missing"}
    assert cache.records("other") == []


def test_a_nemo_folder_without_its_file_is_given_as_it_is(cache: ModelCache) -> None:
    folder = put(cache, V3.id, "nemo", other_txt="abc")
    [held] = cache.list()
    assert isinstance(held, Held)
    assert held.path == folder


def test_the_folder_is_the_users_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/alice")
    assert default_folder({}) == Path("/users/alice/.cache/perch/models")
    assert default_folder({"XDG_CACHE_HOME": "/var/c"}) == Path("/var/c/perch/models")
    assert default_folder({"PERCH_MODELS_DIR": "~/m", "XDG_CACHE_HOME": "/var/c"}) == Path("/users/alice/m")


# --- which of them -----------------------------------------------------------------------------------


def test_the_best_weights_depend_on_the_machine() -> None:
    everything = {"is_installed": lambda _: True}
    assert choose(V3, backend=None, cuda=False, **everything).backend == "sherpa-onnx"
    assert choose(V3, backend=None, cuda=True, **everything).backend == "transformers"
    assert choose(V3, backend="nemo", cuda=False, **everything).backend == "nemo"


def test_weights_that_can_be_run_are_better_than_those_for_the_gpu_that_cannot() -> None:
    def onnx_only(backend: str) -> bool:
        return backend == "sherpa-onnx"

    assert choose(V3, backend=None, cuda=True, is_installed=onnx_only).backend == "sherpa-onnx"
    assert choose(V3, backend=None, cuda=True, is_installed=lambda _: False).backend == "transformers"


def test_weights_for_the_cpu_are_better_than_none() -> None:
    only_cpu = replace(V3, weights=V3.weights[:1])
    assert choose(only_cpu, backend=None, cuda=True).backend == "sherpa-onnx"


def test_weights_that_do_not_exist_are_answered_with_those_that_do() -> None:
    big = catalogue.get("parakeet-1.1b")
    with pytest.raises(BadConfig, match=r"no weights for the CPU.* nemo \(CUDA, 4.3 GB\).* --backend"):
        choose(big, backend=None, cuda=False)
    with pytest.raises(BadConfig, match=r"no weights for sherpa-onnx; there are: nemo"):
        choose(big, backend="sherpa-onnx", cuda=True)


def test_a_driver_or_its_tool_tells_of_cuda(tmp_path: Path) -> None:
    assert not has_cuda({"PATH": str(tmp_path)}, tmp_path / "driver")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n", encoding="utf-8")
    tool.chmod(0o755)
    assert has_cuda({"PATH": str(tmp_path)}, tmp_path / "driver")
    assert has_cuda({}, tmp_path)
