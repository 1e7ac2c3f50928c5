"""A folder for transformers that cannot be loaded: what is told of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from perch.errors import EngineFailed
from perch.inference.parakeet.model import LoadOptions
from perch.inference.parakeet.transformers import load

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from inference.parakeet.tiny_transformers import build


@pytest.fixture
def options(tmp_path: Path) -> LoadOptions:
    build(tmp_path, "rnnt")
    return LoadOptions(path=str(tmp_path), name="tiny", allow_cpu=True, device="cpu")


def configure(folder: Path, encoder: dict[str, Any], **more: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["encoder_config"] |= encoder
    path.write_text(json.dumps(config | more), encoding="utf-8")


def test_weights_of_another_shape_are_named_with_both_shapes(options: LoadOptions) -> None:
    configure(Path(options.path), {}, decoder_hidden_size=40)
    with pytest.raises(EngineFailed) as refused:
        load(options)
    told = refused.value.message
    assert f"The weights in {options.path} do not fit its config.json: decoder." in told
    assert "48] instead of [" in told
    assert "Pull them again" in told
    assert "report" not in told


def test_weights_that_lack_a_layer_are_not_made_up(options: LoadOptions) -> None:
    configure(Path(options.path), {"num_hidden_layers": 3})
    with pytest.raises(EngineFailed, match=r"do not fit its config.json: encoder.layers.2.* is missing, and"):
        load(options)


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError()], ids=repr)
def test_an_error_without_words_is_not_told_as_nothing(
    options: LoadOptions, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    """Memory that is not enough has words in the process's own answer to whoever started it."""
    import transformers

    def read(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(transformers.ParakeetForRNNT, "from_pretrained", read)
    with pytest.raises(MemoryError if isinstance(problem, MemoryError) else EngineFailed) as refused:
        load(options)
    if isinstance(problem, RuntimeError):
        assert isinstance(refused.value, EngineFailed)
        assert refused.value.message.endswith("cannot be loaded: RuntimeError")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_weights_that_are_cut_off_are_told_in_bytes(options: LoadOptions) -> None:
    path = Path(options.path) / "model.safetensors"
    whole = path.stat().st_size
    cut(path, whole - 1)
    with pytest.raises(EngineFailed) as refused:
        load(options)
    assert refused.value.message == (
        f"{path} is not all there ({whole - 1} of {whole} bytes): download it again."
    )


@pytest.mark.parametrize("size", [0, 4, 100])
def test_weights_of_which_only_the_beginning_came_are_no_weights(options: LoadOptions, size: int) -> None:
    path = Path(options.path) / "model.safetensors"
    cut(path, size)
    with pytest.raises(EngineFailed) as refused:
        load(options)
    assert refused.value.message == f"{path} ({size} bytes) is no whole safetensors file: download it again."


def test_a_pointer_in_place_of_the_weights_is_no_weights(options: LoadOptions) -> None:
    """What git leaves where its extension for large files is not installed."""
    path = Path(options.path) / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    with pytest.raises(EngineFailed, match="no whole safetensors file"):
        load(options)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(options: LoadOptions, name: str) -> None:
    path = Path(options.path) / name
    path.unlink()
    with pytest.raises(EngineFailed) as refused:
        load(options)
    assert refused.value.message == f"{path} is missing: download the model again, with all of its files."


def test_a_part_that_an_index_names_is_missed_and_looked_at(options: LoadOptions) -> None:
    folder = Path(options.path)
    part = folder / "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(part)
    index = {"metadata": {}, "weight_map": {"a": part.name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    cut(part, part.stat().st_size - 1)
    with pytest.raises(EngineFailed, match=r"00001\.safetensors is not all there"):
        load(options)
    part.unlink()
    with pytest.raises(EngineFailed, match=r"00001\.safetensors is missing"):
        load(options)


def test_a_header_that_is_no_header_is_left_to_the_library(options: LoadOptions) -> None:
    path = Path(options.path) / "model.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{]" + bytes(100))
    with pytest.raises(EngineFailed, match="cannot be loaded"):
        load(options)
