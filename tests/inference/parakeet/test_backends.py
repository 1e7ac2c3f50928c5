"""Which library a folder of weights is for, and what is told of one that is for none."""

from pathlib import Path

import pytest

from perch.errors import BadConfig
from perch.inference.parakeet.backends import backend_of
from perch.inference.parakeet.export import export


@pytest.mark.parametrize(
    ("names", "backend"),
    [
        (["config.json", "model.safetensors"], "transformers"),
        (["encoder.onnx", "tokens.txt"], "sherpa-onnx"),
    ],
)
def test_a_folder_is_told_by_its_files(tmp_path: Path, names: list[str], backend: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert backend_of(tmp_path) == backend


@pytest.mark.parametrize(
    ("name", "missing"), [("encoder.int8.onnx", "tokens.txt"), ("model.safetensors", "config.json")]
)
def test_the_file_that_a_model_lacks_is_named(tmp_path: Path, name: str, missing: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(BadConfig) as refused:
        backend_of(tmp_path)
    assert refused.value.message.startswith(f"{tmp_path / missing} is missing")


def test_a_folder_that_has_nothing_of_a_model_is_told_what_one_has(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="holds no model: give a folder with"):
        backend_of(tmp_path)


def test_an_export_of_no_file_asks_for_the_file_and_not_for_a_package(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nope\.nemo is not there"):
        export(tmp_path / "nope.nemo", tmp_path / "out", chunk_ms=None, int8=False, report=print)
    assert list(tmp_path.iterdir()) == []
