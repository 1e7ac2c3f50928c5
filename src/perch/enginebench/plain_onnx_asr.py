"""onnx-asr as in its examples: ``load_model(TYPE, FOLDER).recognize`` of one utterance after the other.

It loads NeMo's own exports, in which decoder and joiner are one network. Exports for sherpa-onnx have two, which
are joined here, so that both libraries compute the same numbers from the same files.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_asr
import onnxruntime
from onnx import compose

from perch.core.audio import RATE
from perch.enginebench.plain import Heard, PlainLoop, Spec, WholeUtterances
from perch.errors import BadConfig
from perch.inference.parakeet.model import Audio
from perch.inference.parakeet.sherpa_export import Export, read_export
from perch.inference.parakeet.sherpa_files import find


class Utterances(WholeUtterances):
    """Implements ``PlainLoop``."""

    about = "onnx_asr.load_model(…).recognize, one utterance after the other"

    def __init__(self, model: Any) -> None:
        self._model = model

    def whole(self, audio: Audio) -> Heard:
        heard = self._model.recognize(audio, sample_rate=RATE)
        return Heard(heard.text, len(heard.tokens))


def load(spec: Spec) -> PlainLoop:
    """The library with the same files and threads as the worker process, on the CPU.

    Raises:
        BadConfig: The folder is not an export for sherpa-onnx, or one for streams.
    """
    export = read_export(find(Path(spec.options.path), spec.options.dtype))
    if export.chunks is not None:
        raise BadConfig("onnx-asr recognises whole utterances, and this export takes pieces.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.options.threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="perch-onnx-asr-") as folder:
        as_nemo(export, Path(folder))
        model = onnx_asr.load_model(
            f"nemo-conformer-{export.decoder}",
            folder,
            sess_options=options,
            providers=["CPUExecutionProvider"],
        )
    return Utterances(model.with_timestamps())


def as_nemo(export: Export, folder: Path) -> None:
    """Fill ``folder`` with ``export`` as NeMo would have written it."""
    names = {"encoder": "encoder-model.onnx", "model": "model.onnx"}
    main = export.files.main
    for beside in main.parent.glob("*.weights"):  # of a network that is too large for one file
        (folder / beside.name).symlink_to(beside.resolve())
    (folder / names["encoder" if export.files.is_transducer else "model"]).symlink_to(main.resolve())
    (folder / "vocab.txt").write_bytes(export.files.tokens.read_bytes())
    (folder / "config.json").write_text(json.dumps({"features_size": export.bins}))
    if export.files.is_transducer:
        decoder, joiner = (onnx.load(str(export.files.parts[part])) for part in ("decoder", "joiner"))
        onnx.save(joined(decoder, joiner), str(folder / "decoder_joint-model.onnx"))


def joined(decoder: onnx.ModelProto, joiner: onnx.ModelProto) -> onnx.ModelProto:
    """Both as one network, its inputs and outputs named as NeMo names them.

    A decoder takes a token, how many there are, and two states; it gives a vector, how many there are, and the
    states. A joiner takes the encoder's vector and the decoder's, and scores tokens.
    """
    decoder, joiner = (compose.add_prefix(one, part) for one, part in ((decoder, "d."), (joiner, "j.")))
    vector, _, *states = (one.name for one in decoder.graph.output)
    encoded, decoded = (one.name for one in joiner.graph.input)
    scores = joiner.graph.output[0].name
    both = compose.merge_models(decoder, joiner, io_map=[(vector, decoded)], outputs=[scores, *states])
    old_inputs = [*(one.name for one in decoder.graph.input), encoded]
    new_inputs = ["targets", "target_length", "input_states_1", "input_states_2", "encoder_outputs"]
    new_outputs = ["outputs", "output_states_1", "output_states_2"]
    names = dict(zip(old_inputs, new_inputs, strict=True))
    names |= zip([scores, *states], new_outputs, strict=True)
    _rename(both.graph, names)
    return both


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for one in (*graph.input, *graph.output):
        one.name = names.get(one.name, one.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
