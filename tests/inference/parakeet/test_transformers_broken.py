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
