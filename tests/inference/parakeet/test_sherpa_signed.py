"""Weights whose signs are flipped say exactly what they said before."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from perch.inference.parakeet.sherpa_header import read_header
from perch.inference.parakeet.sherpa_signed import is_faster, signed

_WIDTH = 64
_RANDOM = np.random.default_rng(5)


def _weight(name: str) -> TensorProto:
    # No pair of products overflows 16 bits, which they do in onnxruntime on processors without VNNI.
    numbers = _RANDOM.integers(96, 160, (_WIDTH, _WIDTH)).astype(np.uint8)
    return numpy_helper.from_array(numbers, name)


def _zero_point(name: str, value: int) -> TensorProto:
    """As quantisers write it: in 32 bits, packed."""
    return helper.make_tensor(name, TensorProto.UINT8, (), [value])


def _product(number: int, weight: str, zero_point: str) -> list[Any]:
    made = f"quantised{number}", f"zero{number}", f"sum{number}"
    return [
        helper.make_node("DynamicQuantizeLinear", ["heard"], [made[0], f"scale{number}", made[1]]),
        helper.make_node("MatMulInteger", [made[0], weight, made[1], zero_point], [made[2]]),
        helper.make_node("Cast", [made[2]], [f"out{number}"], to=TensorProto.FLOAT),
    ]


def _save(path: Path, nodes: list[Any], tensors: list[TensorProto], outputs: list[str]) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("heard", TensorProto.FLOAT, ["streams", _WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", _WIDTH]) for name in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"vocab_size": "7"})
    onnx.save(model, str(path))
    return path


def _flip(path: Path, copy: Path) -> dict[str, TensorProto]:
    """The initializers of the file that is loaded instead, which is also kept as ``copy``."""
    with signed({"encoder": path}) as files:
        copy.write_bytes(files["encoder"].read_bytes())
    onnx.checker.check_model(str(copy))
    return {one.name: one for one in onnx.load(str(copy)).graph.initializer}


def _said(path: Path) -> list[Any]:
    heard = np.random.default_rng(1).normal(size=(3, _WIDTH)).astype(np.float32)
    told: list[Any] = onnxruntime.InferenceSession(path).run(None, {"heard": heard})
    return told


@pytest.mark.parametrize("zero_point", [0, 3, 127, 128, 200, 255])
def test_the_same_numbers_come_out(tmp_path: Path, zero_point: int) -> None:
    path = _save(
        tmp_path / "encoder.int8.onnx",
        _product(0, "weight", "zero"),
        [_weight("weight"), _zero_point("zero", zero_point)],
        ["out0"],
    )
    tensors = _flip(path, tmp_path / "signed.onnx")
    assert {one.data_type for one in tensors.values()} == {TensorProto.INT8}
    assert numpy_helper.to_array(tensors["zero"]) == zero_point - 128
    assert read_header(tmp_path / "signed.onnx").metadata == {"vocab_size": "7"}
    for before, after in zip(_said(path), _said(tmp_path / "signed.onnx"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_others_use_too_stays_as_it_is(tmp_path: Path) -> None:
    """A zero point that two products share, one of whose weights is looked up elsewhere as well."""
    path = _save(
        tmp_path / "encoder.int8.onnx",
        [
            *_product(0, "shared", "zero"),
            *_product(1, "weight", "zero"),
            *_product(2, "own", "own_zero"),
            helper.make_node("Cast", ["shared"], ["looked_up"], to=TensorProto.FLOAT),
        ],
        [
            *map(_weight, ("shared", "weight", "own")),
            *(_zero_point(one, 120) for one in ("zero", "own_zero")),
        ],
        ["out0", "out1", "out2", "looked_up"],
    )
    tensors = _flip(path, tmp_path / "signed.onnx")
    assert {name for name, one in tensors.items() if one.data_type == TensorProto.INT8} == {"own", "own_zero"}
    for before, after in zip(_said(path), _said(tmp_path / "signed.onnx"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_many_zero_points_one_for_each_column(tmp_path: Path) -> None:
    zeros = helper.make_tensor("zeros", TensorProto.UINT8, (_WIDTH,), list(range(100, 100 + _WIDTH)))
    nodes = _product(0, "weight", "zeros")
    path = _save(tmp_path / "encoder.int8.onnx", nodes, [_weight("weight"), zeros], ["out0"])
    tensors = _flip(path, tmp_path / "signed.onnx")
    assert numpy_helper.to_array(tensors["zeros"]).tolist() == list(range(-28, -28 + _WIDTH))
    np.testing.assert_array_equal(_said(path)[0], _said(tmp_path / "signed.onnx")[0])


def test_a_model_of_floats_is_loaded_from_its_own_file(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.eye(_WIDTH, dtype=np.float32), "weight")
    nodes = [helper.make_node("MatMul", ["heard", "weight"], ["out0"])]
    path = _save(tmp_path / "encoder.onnx", nodes, [weight], ["out0"])
    with signed({"encoder": path}) as files:
        assert files == {"encoder": path}


def test_a_branch_may_use_any_tensor_so_nothing_is_changed(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Cast", ["weight"], ["inside"], to=TensorProto.FLOAT)],
        "branch",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    path = _save(
        tmp_path / "encoder.int8.onnx",
        [
            *_product(0, "weight", "zero"),
            helper.make_node("If", ["condition"], ["out1"], then_branch=branch, else_branch=branch),
        ],
        [_weight("weight"), _zero_point("zero", 120), condition],
        ["out0", "out1"],
    )
    with signed({"encoder": path}) as files:
        assert files == {"encoder": path}


@pytest.mark.parametrize(
    ("lines", "faster"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_vbmi\n", False),
        ("processor : 0\nFeatures\t: fp asimd asimddp\n", False),
        (None, False),
    ],
)
def test_only_processors_with_vnni_are_faster(tmp_path: Path, lines: str | None, *, faster: bool) -> None:
    cpu = tmp_path / "cpuinfo"
    if lines is not None:
        cpu.write_text(lines)
    assert is_faster(cpu) is faster
