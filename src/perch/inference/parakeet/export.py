"""A ``.nemo`` file becomes a folder of ONNX files that sherpa-onnx loads.

    export(Path("parakeet.nemo"), Path("parakeet"), chunk_ms=None, int8=True, report=print)

Written are an encoder, a decoder and a joiner (or the one model of CTC), ``tokens.txt``, and in the
encoder's metadata all that the library's loaders of NeMo models read. It all happens in a folder beside
the wanted one, which gets its name when it is whole and was looked at.
"""

import gc
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from perch.core.extras import how_to_install
from perch.errors import BadConfig
from perch.inference.parakeet.export_frugal import cache_shape, make_frugal, use_products
from perch.inference.parakeet.nemo_checkpoint import (
    Decoder,
    check_there,
    decoder_of,
    libraries,
    lookaheads_of,
    restore,
    set_lookahead,
    vocabulary_of,
)
from perch.inference.parakeet.sherpa_export import BLANK, FACTOR, read_export
from perch.inference.parakeet.sherpa_files import find

Report = Callable[[str], None]
Metadata = Mapping[str, object]

_FRAME_MS = 80
_CHUNK_MS = 560
_MATRIX = 2
"""Dimensions of a layer's weights."""
_ROOM = 2 << 30
"""Bytes of a protobuf message, so of an ONNX file whose weights are not in a file of their own."""


def export(nemo_file: Path, folder: Path, *, chunk_ms: int | None, int8: bool, report: Report) -> None:
    """Write ``folder``, which must not be there yet, or leave nothing.

    Args:
        nemo_file: The checkpoint.
        folder: For the ONNX files.
        chunk_ms: Milliseconds of audio that a cache-aware model takes at a time, as it was trained for;
            None is 560, or the longest if it was not trained for that.
        int8: Quantise the weights, to a quarter of the size and some of the time.
        report: Told what is being done.

    Raises:
        BadConfig: There is no such file, a package is missing, the folder is there, or the model cannot be
            exported like that.
        EngineFailed: The checkpoint is broken, or what came of it is.
    """
    check_there(nemo_file)  # before what reads it is asked for
    if folder.exists():
        raise BadConfig(f"{folder} is there already: remove it or give another name.")
    torch, models = libraries()
    onnx = _onnx()
    report(f"reading {nemo_file}")
    model = restore(torch, models, nemo_file, "cpu").float()
    chunk = _set_chunk(model, chunk_ms, nemo_file)
    use_products(torch, model)
    if chunk is not None:
        make_frugal(torch, model.encoder)
    with _folder(folder) as made:
        decoder = decoder_of(model, nemo_file)
        _write_tokens(made / "tokens.txt", vocabulary_of(model))
        metadata = _metadata(model, decoder, chunk, nemo_file)
        parts = _write_parts(torch, model, decoder, made, streams=chunk is not None, report=report)
        del model  # it is as large as what comes next
        gc.collect()
        for number, part in enumerate(parts):
            _finish(onnx, made, part, metadata if number == 0 else {})
            if int8:
                report(f"quantising {part}")
                _quantise(onnx, made, part)
        read_export(find(made, "int8" if int8 else "float32"))
    report(f"{folder} is complete")


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError as problem:
        raise BadConfig(f"An export needs onnx ({problem}): {how_to_install('nemo')}") from problem


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """A new folder beside the wanted one, which takes its name at the end; after a failure, nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield made
        made.chmod(0o755)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _set_chunk(model: Any, chunk_ms: int | None, file: Path) -> int | None:
    """Make a cache-aware model ready for chunks of ``chunk_ms``; how many it is, None for another model."""
    offered = [(one + 1) * _FRAME_MS for one in lookaheads_of(model)]
    if not offered:
        if chunk_ms is not None:
            raise BadConfig(f"{file} is not a streaming model: it takes utterances, so leave --chunk-ms out.")
        return None
    chunk = chunk_ms or (_CHUNK_MS if _CHUNK_MS in offered else offered[-1])
    if chunk not in offered:
        raise BadConfig(
            f"--chunk-ms is {chunk}; {file} was trained for {', '.join(str(one) for one in offered)}."
        )
    set_lookahead(model, chunk // _FRAME_MS - 1)
    return chunk


def _write_tokens(path: Path, vocabulary: list[str]) -> None:
    lines = [f"{token} {number}\n" for number, token in enumerate([*vocabulary, BLANK])]
    path.write_text("".join(lines), "utf-8")


def _metadata(model: Any, decoder: Decoder, chunk_ms: int | None, file: Path) -> Metadata:
    """What sherpa-onnx reads; it tells a TDT model by "tdt" in ``url``."""
    told = {
        "vocab_size": len(vocabulary_of(model)),
        "normalize_type": _normalisation(model, file),
        "subsampling_factor": FACTOR,
        "feat_dim": int(model.cfg.preprocessor.features),
        "model_type": "EncDecCTCModelBPE" if decoder == "ctc" else "EncDecRNNTBPEModel",
        "version": "1",
        "model_author": "NeMo",
        "url": "tdt" if decoder == "tdt" else "",
        "comment": f"exported from {file.name}",
    }
    if decoder != "ctc":
        told |= {"pred_rnn_layers": model.decoder.pred_rnn_layers, "pred_hidden": model.decoder.pred_hidden}
    return told if chunk_ms is None else told | _caches(model.encoder, chunk_ms)


def _normalisation(model: Any, file: Path) -> str:
    kind = model.cfg.preprocessor.get("normalize") or "NA"
    if kind not in {"NA", "per_feature"}:
        raise BadConfig(f"{file} normalises features by {kind}, which sherpa-onnx does not do.")
    return "" if kind == "NA" else str(kind)


def _caches(encoder: Any, chunk_ms: int) -> dict[str, object]:
    """Feature frames of a chunk and of what it sees again, and the sizes of what is carried on."""
    streaming = encoder.streaming_cfg
    shift, again = _later(streaming.chunk_size), _later(streaming.pre_encode_cache_size)
    return {
        "window_size": shift + again,
        "chunk_shift": shift,
        "chunk_size_ms": chunk_ms,
        **{f"cache_last_channel_dim{axis}": size for axis, size in enumerate(cache_shape(encoder), 1)},
        "cache_last_time_dim1": len(encoder.layers),
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
    }


def _later(sizes: Any) -> int:
    """Of a pair, the size for all chunks but the first."""
    return int(sizes if isinstance(sizes, int) else sizes[1])


def _write_parts(
    torch: Any, model: Any, decoder: Decoder, folder: Path, *, streams: bool, report: Report
) -> list[str]:
    """Trace the networks into ``folder``; their names, of which the first gets the metadata."""
    if decoder == "ctc":
        networks = {"model": model}
    else:
        networks = {"encoder": model.encoder, "decoder": model.decoder, "joiner": model.joint}
    if streams:
        model.set_export_config({"cache_support": True})
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing warns of every shape that it takes for fixed
        for name, network in networks.items():
            report(f"exporting {name}")
            (folder / name).mkdir()  # weights beyond 2 GB are many files beside
            network.export(str(folder / name / f"{name}.onnx"))
    return list(networks)


def _finish(onnx: Any, folder: Path, name: str, metadata: Metadata) -> None:
    """One file of each network, or two if it is too large for one; with metadata."""
    traced = folder / name
    model = onnx.load(str(traced / f"{name}.onnx"))
    onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    is_large = sum(file.stat().st_size for file in traced.iterdir()) >= _ROOM
    shutil.rmtree(traced)
    onnx.save(
        model,
        str(folder / f"{name}.onnx"),
        save_as_external_data=is_large,
        all_tensors_to_one_file=True,
        location=f"{name}.weights",
    )


def _quantise(onnx: Any, folder: Path, name: str) -> None:
    """``name.int8.onnx`` instead of ``name.onnx``; activations are quantised as they come.

    Convolutions stay as they are, those that became products too: they are a hundredth of the weights, and
    slower in 8 bit. So do the positions of attention, of which every number counts.
    """
    quantization = import_module("onnxruntime.quantization")
    plain, small = folder / f"{name}.onnx", folder / f"{name}.int8.onnx"
    kinds = import_module("onnxruntime.quantization.registry").IntegerOpsRegistry
    graph = onnx.load(str(plain), load_external_data=False).graph
    stacks = {one.name for one in graph.initializer if len(one.dims) > _MATRIX}
    quantization.quantize_dynamic(
        str(plain),
        str(small),
        op_types_to_quantize=[kind for kind in kinds if kind != "Conv"],
        weight_type=quantization.QuantType.QUInt8,
        nodes_to_exclude=[
            node.name for node in graph.node if node.op_type == "MatMul" and stacks & set(node.input)
        ],
    )
    metadata = onnx.load(str(plain), load_external_data=False).metadata_props
    model = onnx.load(str(small))
    onnx.helper.set_model_props(model, {one.key: one.value for one in metadata})
    onnx.save(model, str(small))
    for file in (plain, folder / f"{name}.weights"):
        file.unlink(missing_ok=True)
