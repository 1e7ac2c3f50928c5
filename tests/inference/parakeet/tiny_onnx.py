"""Tiny models in the files and with the metadata of a real export for sherpa-onnx, and sounds they know.

Nothing is random: the weights are written so that a tone is a word. While a tone of ``TONES`` sounds for
two encoder frames or longer, the model emits that tone's word, once, until another word was emitted
(a CTC model: once per tone, however often); silence and noise are blank. The parts of a real model all
matter: the second frame of a tone may lie in the next chunk, so the encoder's cache decides too; the
decoder's state knows whether anything was said before, for the first word of an utterance is capitalised;
and "charlie" is two tokens, the second of which follows from the first.

    folder = build_streaming(tmp_path)        # or build_rnnt, build_tdt, build_ctc
    audio = say("alpha charlie alpha")        # what it writes: Alpha charlie alpha
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TONES = {"alpha": 400, "bravo": 800, "charlie": 1600, "delta": 3200}
"""Words and the frequency, in hertz, that stands for each."""

LOWER = ("▁alpha", "▁bravo", "▁char", "▁delta")
UPPER = ("▁Alpha", "▁Bravo", "▁Char", "▁Delta")
VOCABULARY = (*LOWER, *UPPER, "lie", ".")
"""All but the blank, which is last in ``tokens.txt``."""

BINS = 80
CACHED = 9
"""Feature frames of the chunk before that an encoder sees again, as NeMo's do."""

Overrides = Mapping[str, object]
"""Metadata to write instead of the right one; None leaves a key out."""

_LIE, _WORDS, _ALL, _BLANK = 8, len(TONES), len(VOCABULARY) + 1, len(VOCABULARY)
_LOUD = -3.0
"""Log energy of a mel band in which there is a tone; a loud room is at -4 and silence at -16."""


def build_streaming(folder: Path, *, chunk_ms: int = 160, metadata: Overrides | None = None) -> Path:
    """A cache-aware transducer that takes ``chunk_ms`` of audio at a time."""
    shift = chunk_ms // 10
    own = {
        "window_size": shift + CACHED,
        "chunk_shift": shift,
        "cache_last_channel_dim1": 1,
        "cache_last_channel_dim2": 2,
        "cache_last_channel_dim3": _WORDS,
        "cache_last_time_dim1": 1,
        "cache_last_time_dim2": _WORDS,
        "cache_last_time_dim3": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _save(_streaming_encoder(), folder / "encoder.onnx", _metadata(own, metadata))
    return _transducer(folder, tdt=False)


def build_rnnt(folder: Path, *, metadata: Overrides | None = None) -> Path:
    """A transducer that takes an utterance at once."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(_offline_encoder(), folder / "encoder.onnx", _metadata({}, metadata))
    return _transducer(folder, tdt=False)


def build_tdt(folder: Path, *, metadata: Overrides | None = None) -> Path:
    """A token-and-duration transducer: a word lasts two frames, the first half of "charlie" one."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"url": "https://example.test/parakeet-tdt-tiny"}
    _save(_offline_encoder(), folder / "encoder.onnx", _metadata(own, metadata))
    return _transducer(folder, tdt=True)


def build_ctc(folder: Path, *, metadata: Overrides | None = None) -> Path:
    """A CTC model; it has no state, so it capitalises nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(_ctc(), folder / "model.onnx", _metadata({"model_type": "EncDecCTCModelBPE"}, metadata))
    _tokens(folder)
    return folder


def say(words: str, *, seconds: float = 0.32, pause: float = 0.24, level: float = 0.3) -> NDArray[np.float32]:
    """Words of ``TONES`` as audio at 16 kHz, with a pause before, between and after them."""
    rest = np.zeros(round(pause * 16_000), np.float32)
    parts = [rest]
    for word in words.split():
        parts += [_tone(TONES[word], seconds, level), rest]
    return np.concatenate(parts)


def _tone(hertz: int, seconds: float, level: float) -> NDArray[np.float32]:
    at = np.arange(round(seconds * 16_000)) / 16_000
    # Soft edges: a hard one is a click, which has energy in every band.
    envelope = np.minimum(1, np.minimum(at, at[::-1]) / 0.01)
    return (level * envelope * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def _metadata(own: Overrides, overrides: Overrides | None) -> dict[str, str]:
    every: dict[str, object] = {
        "vocab_size": len(VOCABULARY),
        "normalize_type": "NA",
        "pred_rnn_layers": 1,
        "pred_hidden": _ALL,
        "subsampling_factor": 8,
        "feat_dim": BINS,
        "model_type": "EncDecRNNTBPEModel",
        "version": "1",
        **own,
        **(overrides or {}),
    }
    return {key: str(value) for key, value in every.items() if value is not None}


def _transducer(folder: Path, *, tdt: bool) -> Path:
    _save(_decoder(), folder / "decoder.onnx")
    _save(_joiner(tdt=tdt), folder / "joiner.onnx")
    _tokens(folder)
    return folder


def _tokens(folder: Path) -> None:
    lines = (f"{token} {number}\n" for number, token in enumerate((*VOCABULARY, "<blk>")))
    (folder / "tokens.txt").write_text("".join(lines), "utf-8")


class _Graph:
    """An ONNX graph as it is written: each call adds a node and returns the name of what it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def takes(self, name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def gives(self, name: str, value: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        made = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [made], **attributes))
        return made

    def floats(self, values: object) -> str:
        return self._constant(np.asarray(values, np.float32))

    def integers(self, values: object) -> str:
        return self._constant(np.asarray(values, np.int64))

    def cut(self, value: str, start: int, end: int, axis: int) -> str:
        """``value[start:end]`` along an axis."""
        return self("Slice", value, *(self.integers([number]) for number in (start, end, axis)))

    def model(self, name: str) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        # Old enough for the onnxruntime inside of any sherpa-onnx.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _constant(self, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def _save(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


_PAST_ALL = 1 << 30


def _streaming_encoder() -> onnx.ModelProto:
    graph = _Graph()
    audio = graph.takes("audio_signal", ["B", BINS, "T"])
    graph.takes("length", ["B"], TensorProto.INT64)
    channel = graph.takes("cache_last_channel", ["B", 1, 2, _WORDS])
    time = graph.takes("cache_last_time", ["B", 1, _WORDS, 1])
    length = graph.takes("cache_last_channel_len", ["B"], TensorProto.INT64)

    now = _sounding(graph, graph.cut(audio, CACHED, _PAST_ALL, 2))
    before = graph("Squeeze", time, graph.integers([1]))
    both, last = _sustained(graph, now, before)
    lengths = _lengths(graph, both, length)
    graph.gives("outputs", both, ["B", _WORDS, "S"])
    graph.gives("encoded_lengths", lengths, ["B"], TensorProto.INT64)
    graph.gives(
        "cache_last_channel_next",
        graph("Add", channel, graph.floats(1.0)),
        ["B", 1, 2, _WORDS],
    )
    graph.gives("cache_last_time_next", graph("Unsqueeze", last, graph.integers([1])), ["B", 1, _WORDS, 1])
    graph.gives("cache_last_channel_len_next", graph("Add", length, lengths), ["B"], TensorProto.INT64)
    return graph.model("encoder")


def _offline_encoder() -> onnx.ModelProto:
    graph = _Graph()
    both, lengths = _whole(graph)
    graph.gives("outputs", both, ["B", _WORDS, "S"])
    graph.gives("encoded_lengths", lengths, ["B"], TensorProto.INT64)
    return graph.model("encoder")


def _ctc() -> onnx.ModelProto:
    """Each word at its tone's first frame; "lie" through the rest of its tone; blank otherwise."""
    graph = _Graph()
    both, _ = _whole(graph)
    shifted, _ = _shifted(graph, both, _nothing(graph, both))
    first = graph("Sub", both, graph("Min", both, shifted))
    words = graph("Transpose", first, perm=[0, 2, 1])
    lie = graph("Transpose", graph.cut(graph("Min", both, shifted), 2, 3, 1), perm=[0, 2, 1])
    logits = graph("MatMul", graph("Concat", words, lie, axis=2), graph.floats(_CTC_WEIGHTS))
    logits = graph("Add", logits, graph.floats(_BLANK_BIAS))
    graph.gives("logprobs", graph("LogSoftmax", logits, axis=-1), ["B", "S", _ALL])
    return graph.model("ctc")


def _whole(graph: _Graph) -> tuple[str, str]:
    audio = graph.takes("audio_signal", ["B", BINS, "T"])
    length = graph.takes("length", ["B"], TensorProto.INT64)
    now = _sounding(graph, audio)
    both, _ = _sustained(graph, now, _nothing(graph, now))
    return both, graph("Div", length, graph.integers([8]))


def _sounding(graph: _Graph, features: str) -> str:
    """Which tones sound in each frame of 80 ms, 0 to 1: from ``[B, BINS, T]`` to ``[B, words, T / 8]``."""
    pooled = graph("AveragePool", features, kernel_shape=[8], strides=[8])
    energy = graph("MatMul", graph.floats(_BANDS), pooled)
    return graph("Clip", graph("Sub", energy, graph.floats(_LOUD)), graph.floats(0.0), graph.floats(1.0))


def _sustained(graph: _Graph, now: str, before: str) -> tuple[str, str]:
    """Tones that sounded in the frame before too; and the last frame, for the next chunk."""
    shifted, last = _shifted(graph, now, before)
    return graph("Min", now, shifted), last


def _shifted(graph: _Graph, now: str, before: str) -> tuple[str, str]:
    joined = graph("Concat", before, now, axis=2)
    return graph.cut(joined, 0, -1, 2), graph.cut(joined, -1, _PAST_ALL, 2)


def _nothing(graph: _Graph, like: str) -> str:
    return graph("Mul", graph.cut(like, 0, 1, 2), graph.floats(0.0))


def _lengths(graph: _Graph, frames: str, like: str) -> str:
    count = graph("Gather", graph("Shape", frames), graph.integers([2]))
    return graph("Add", graph("Mul", like, graph.integers([0])), count)


def _decoder() -> onnx.ModelProto:
    """Gives which token was the last one and whether there was any; its state is what was said so far."""
    graph = _Graph()
    targets = graph.takes("targets", ["B", "U"], TensorProto.INT32)
    target_length = graph.takes("target_length", ["B"], TensorProto.INT32)
    hidden = graph.takes("states.1", [1, "B", _ALL])
    cell = graph.takes("onnx::LSTM_3", [1, "B", _ALL])

    last = graph("Gather", graph.floats(_EMBEDDING), targets, axis=0)  # [B, 1, all]
    state = graph("Max", hidden, graph("Transpose", last, perm=[1, 0, 2]))
    any_ = graph("ReduceMax", state, axes=[2], keepdims=1)
    outputs = graph("Concat", last, graph("Transpose", any_, perm=[1, 0, 2]), axis=2)
    graph.gives("outputs", graph("Transpose", outputs, perm=[0, 2, 1]), ["B", _ALL + 1, "U"])
    graph.gives("prednet_lengths", target_length, ["B"], TensorProto.INT32)
    graph.gives("states", state, [1, "B", _ALL])
    graph.gives("162", graph("Identity", cell), [1, "B", _ALL])
    return graph.model("decoder")


def _joiner(*, tdt: bool) -> onnx.ModelProto:
    graph = _Graph()
    heard = graph.takes("encoder_outputs", ["B", _WORDS, 1])
    said = graph.takes("decoder_outputs", ["B", _ALL + 1, 1])
    both = graph("Transpose", graph("Concat", heard, said, axis=1), perm=[0, 2, 1])
    logits = graph("Add", graph("MatMul", both, graph.floats(_JOINT_WEIGHTS)), graph.floats(_BLANK_BIAS))
    if tdt:
        logits = graph("Concat", logits, *_durations(graph, logits), axis=2)
    outputs = graph("Unsqueeze", logits, graph.integers([1]))
    graph.gives("outputs", outputs, ["B", 1, 1, _ALL + (5 if tdt else 0)])
    return graph.model("joiner")


def _durations(graph: _Graph, logits: str) -> list[str]:
    """Logits of 0 to 4 frames: one for the blank and the first half of a word, two for the rest."""
    two = [number for number, token in enumerate(VOCABULARY) if "har" not in token]
    one = [number for number in range(_ALL) if number not in two]
    never = graph("Mul", graph.cut(logits, 0, 1, 2), graph.floats(0.0))
    never = graph("Sub", never, graph.floats(100.0))
    best = [
        graph("ReduceMax", graph("Gather", logits, graph.integers(ids), axis=2), axes=[2])
        for ids in (one, two)
    ]
    return [never, *best, never, never]


def _bands() -> NDArray[np.float32]:
    """The mean of the three mel bands nearest to each tone (Slaney's scale, as NeMo and librosa use it)."""
    mel = np.array(
        [
            hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)
            for hertz in (*TONES.values(), 8000)
        ]
    )
    weights = np.zeros((_WORDS, BINS), np.float32)
    for word, nearest in enumerate(np.rint(mel[:-1] / (mel[-1] / (BINS + 1)) - 1).astype(int)):
        weights[word, nearest - 1 : nearest + 2] = 1 / 3
    return weights


def _joint_weights() -> NDArray[np.float32]:
    """From (tones heard, the last token, whether there was any) to logits."""
    weights = np.zeros((_WORDS + _ALL + 1, _ALL), np.float32)
    any_ = _WORDS + _ALL
    for word in range(_WORDS):
        upper = word + _WORDS
        weights[word, [word, upper]] = 10, 30
        weights[any_, upper] = -40
        for said in (word, upper):  # not a second time
            weights[_WORDS + said, [word, upper]] -= 20
    for half in (2, 2 + _WORDS):
        weights[[2, _WORDS + half], _LIE] = 10
    for word in range(_WORDS):  # after all of "charlie", not "char" again
        if word == 2:
            weights[_WORDS + _LIE, [word, word + _WORDS]] = -20
    return weights


def _ctc_weights() -> NDArray[np.float32]:
    weights = np.zeros((_WORDS + 1, _ALL), np.float32)
    weights[range(_WORDS), range(_WORDS)] = 10
    weights[_WORDS, _LIE] = 20
    return weights


_BANDS = _bands()
_JOINT_WEIGHTS = _joint_weights()
_CTC_WEIGHTS = _ctc_weights()
_EMBEDDING = np.eye(_ALL, dtype=np.float32) * (np.arange(_ALL) != _BLANK)
_BLANK_BIAS = np.array([5.0 if token == _BLANK else -10.0 if token == _LIE else 0.0 for token in range(_ALL)])
