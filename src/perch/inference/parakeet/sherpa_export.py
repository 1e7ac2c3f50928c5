"""Whether an export is one that sherpa-onnx can load: it ends the process over one that it cannot.

Everything its loaders of NeMo's models read is looked at here first, and told in words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perch.core.command import command
from perch.errors import BadConfig, EngineFailed, PerchError
from perch.inference.parakeet.model import FRAME, WORD_START
from perch.inference.parakeet.sherpa_files import Files
from perch.inference.parakeet.sherpa_header import Header, Shape, read_header

FACTOR = 8
"""Feature frames for each encoder frame."""

OVERLAP = FACTOR + 1
"""Feature frames of the chunk before that the encoder of a streaming export sees again."""

BLANK = "<blk>"
_BINS = 80
_MOST_DURATIONS = 16
"""That a TDT model tells apart; NVIDIA's have five."""

_CACHES = ("cache_last_channel", "cache_last_time")


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a streaming export takes audio."""

    samples: int
    """Of a chunk."""
    context: int
    """Encoder frames before a chunk that its own see."""


@dataclass(frozen=True, slots=True)
class Export:
    """A model that can be loaded."""

    files: Files
    decoder: Literal["rnnt", "tdt", "ctc"]
    bins: int
    """Mel bands of the features."""
    chunks: Chunks | None
    """None if it takes an utterance at once."""
    punctuation: bool
    """Whether it can write a full stop."""


def read_export(files: Files) -> Export:
    """What the files are, all of them checked.

    Raises:
        BadConfig: A model of a kind that is not served.
        EngineFailed: A broken export; the message names the file and what is wrong with it.
    """
    tokens = read_tokens(files.tokens)
    main = read_header(files.main)
    metadata = _Metadata(main)
    if metadata.number("subsampling_factor", least=1) != FACTOR:
        raise metadata.wrong("subsampling_factor", f"it must be {FACTOR}, as every Parakeet's is")
    _check_vocabulary(metadata, tokens, files)
    decoder = _transducer(files, metadata) if files.is_transducer else _ctc(files, metadata, tokens)
    return Export(
        files=files,
        decoder=decoder,
        bins=_bins(metadata),
        chunks=_chunks(metadata) if metadata.has("window_size") else None,
        punctuation=any(token.strip(WORD_START) == "." for token in tokens),
    )


def read_tokens(path: Path) -> dict[str, int]:
    """The vocabulary: a token and its number in each line.

    Raises:
        EngineFailed: It is not like that.
    """
    tokens: dict[str, int] = {}
    for count, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        fields = line.split()
        if len(fields) > 2 or not fields or not fields[-1].isdigit():
            raise EngineFailed(f"{path}, line {count}: expected a token and its number.")
        tokens[fields[0].decode(errors="replace") if len(fields) == 2 else " "] = int(fields[-1])
    if sorted(tokens.values()) != list(range(len(tokens))):
        raise EngineFailed(f"{path}: the numbers are not 0 to {len(tokens) - 1}, each once.")
    return tokens


class _Metadata:
    """Of one file, with complaints that name it."""

    def __init__(self, header: Header) -> None:
        self.header = header

    def has(self, key: str) -> bool:
        return bool(self.header.metadata.get(key))

    def number(self, key: str, *, least: int) -> int:
        value = self.header.metadata.get(key, "")
        if not value:
            raise self.wrong(key, "it is missing")
        if not value.isdigit() or int(value) < least:
            raise self.wrong(key, f"it is {value!r}, not a number from {least} up")
        return int(value)

    def wrong(self, key: str, what: str) -> PerchError:
        return _broken(self.header, f"metadata {key}: {what}")


def _broken(header: Header, what: str) -> PerchError:
    return EngineFailed(
        f"{header.path}: {what}. Export the model again with `{command('models export')}`, or take a release of "
        "k2-fsa's as it is."
    )


def _check_vocabulary(metadata: _Metadata, tokens: dict[str, int], files: Files) -> None:
    size = metadata.number("vocab_size", least=1)
    if BLANK not in tokens:
        raise EngineFailed(f"{files.tokens} has no {BLANK}: it is not this model's.")
    # Without the blank; exports of CTC models count it or not.
    fits = {len(tokens) - 1} if files.is_transducer else {len(tokens) - 1, len(tokens)}
    if size not in fits:
        raise metadata.wrong(
            "vocab_size", f"it is {size}, but {files.tokens} has {len(tokens) - 1} and a blank"
        )
    if tokens[BLANK] != len(tokens) - 1:
        raise EngineFailed(f"{files.tokens}: {BLANK} is not the last token.")


def _transducer(files: Files, encoder: _Metadata) -> Literal["rnnt", "tdt"]:
    decoder, joiner = read_header(files.parts["decoder"]), read_header(files.parts["joiner"])
    if decoder.metadata.get("streaming_model_type"):
        raise BadConfig(
            f"{files.folder} is a buffered streaming export of {decoder.path}, which is not served."
        )
    if len(decoder.inputs) != 4 or len(decoder.outputs) != 4:
        raise _broken(decoder, "it is not the decoder of a NeMo transducer, which has two states")
    layers, hidden = (encoder.number(key, least=1) for key in ("pred_rnn_layers", "pred_hidden"))
    _check_shape(encoder, "pred_rnn_layers and pred_hidden", (layers, None, hidden), decoder.inputs[2])
    return _kind(encoder, joiner)


def _kind(encoder: _Metadata, joiner: Header) -> Literal["rnnt", "tdt"]:
    """A joiner of a TDT model scores durations beside tokens; the library looks for "tdt" in ``url``."""
    size = encoder.number("vocab_size", least=1) + 1
    scores = joiner.outputs[0][-1] if joiner.outputs and joiner.outputs[0] else None
    is_tdt = "tdt" in encoder.header.metadata.get("url", "")
    if scores == size and is_tdt:
        raise encoder.wrong("url", "it says tdt, but the joiner scores no durations")
    if not is_tdt and scores is not None and size < scores <= size + _MOST_DURATIONS:
        raise encoder.wrong("url", 'the joiner scores durations, so it must have "tdt" in it')
    if not is_tdt and scores != size:
        raise _broken(joiner, f"it scores {scores or 'any number of'} tokens, and the vocabulary has {size}")
    return "tdt" if is_tdt else "rnnt"


def _ctc(files: Files, metadata: _Metadata, tokens: dict[str, int]) -> Literal["ctc"]:
    if metadata.has("window_size"):
        raise BadConfig(f"{files.main} is a streaming CTC model, which is not served; take a transducer.")
    outputs = metadata.header.outputs
    scores = outputs[0][-1] if outputs and outputs[0] else None
    if scores is not None and scores != len(tokens):
        raise _broken(metadata.header, f"it scores {scores} tokens, and {files.tokens} has {len(tokens)}")
    return "ctc"


def _bins(metadata: _Metadata) -> int:
    """Mel bands, which the encoder's first input says, or the metadata, or nobody."""
    inputs = metadata.header.inputs
    told = metadata.number("feat_dim", least=1) if metadata.has("feat_dim") else None
    shape = inputs[0] if inputs else ()
    taken = shape[1] if len(shape) == 3 else None
    if told is not None and taken is not None and told != taken:
        raise metadata.wrong("feat_dim", f"it is {told}, but the model takes {taken}")
    if taken is None and metadata.has("window_size"):
        raise _broken(metadata.header, "its first input has no fixed number of features")
    return taken or told or _BINS


def _chunks(metadata: _Metadata) -> Chunks:
    shift = metadata.number("chunk_shift", least=FACTOR)
    if shift % FACTOR:
        raise metadata.wrong("chunk_shift", f"it is {shift}, not a multiple of {FACTOR}")
    window = metadata.number("window_size", least=1)
    if window != shift + OVERLAP:
        raise metadata.wrong(
            "window_size", f"it is {window}, and not {OVERLAP} more than chunk_shift, {shift}"
        )
    if len(metadata.header.inputs) < 5:
        raise _broken(metadata.header, "it has no inputs for the caches that its metadata tells of")
    for place, cache in enumerate(_CACHES, 2):
        sizes = tuple(metadata.number(f"{cache}_dim{axis}", least=1) for axis in (1, 2, 3))
        _check_shape(metadata, f"{cache}_dim1 to 3", (None, *sizes), metadata.header.inputs[place])
    return Chunks(shift * FRAME // FACTOR, metadata.number("cache_last_channel_dim2", least=1))


def _check_shape(metadata: _Metadata, keys: str, told: Shape, taken: Shape) -> None:
    """Dimensions that the metadata tells must be those that the model takes, where it is fixed."""
    pairs = zip(told, taken, strict=False)
    if len(told) != len(taken) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise metadata.wrong(keys, f"they say {_written(told)}, but the model takes {_written(taken)}")


def _written(shape: Shape) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
