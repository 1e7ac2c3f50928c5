"""Parakeet by sherpa-onnx: exact words and times, many streams in one batch, and exports that are broken."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from inference.parakeet.tiny_onnx import TONES, build_ctc, build_rnnt, build_streaming, build_tdt, say
from perch.core.speech import RecognitionConfig
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet import sherpa
from perch.inference.parakeet.model import FRAME, Audio, LoadOptions, Model, Piece, Token
from perch.inference.parakeet.recogniser import ModelRecogniser
from perch.inference.parakeet.sherpa import load
from perch.inference.parakeet.sherpa_files import find
from perch.inference.parakeet.sherpa_header import read_header
from perch.inference.parakeet.sherpa_signed import is_faster, signed
from perch.inference.parakeet.sherpa_tokens import Said, spell
from perch.inference.parakeet.words import recognition, text_of

pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")


SPOKEN = ["alpha charlie alpha", "bravo", "delta charlie bravo alpha delta"]
WRITTEN = ["Alpha charlie alpha", "Bravo", "Delta charlie bravo alpha delta"]
BUILDERS: dict[str, Callable[..., Path]] = {
    "streaming": build_streaming,
    "rnnt": build_rnnt,
    "tdt": build_tdt,
    "ctc": build_ctc,
}


def options(folder: Path, **changes: Any) -> LoadOptions:
    return LoadOptions(**{"path": str(folder), "name": "tiny", "threads": 1, **changes})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind)) for kind, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def streaming(folders: dict[str, Path]) -> Model:
    return load(options(folders["streaming"]))


def pieces_of(audio: Audio, chunk: int) -> list[tuple[Audio, bool]]:
    starts = range(0, max(1, len(audio)), chunk or max(1, len(audio)))
    ends = [*starts[1:], len(audio)]
    return [(audio[start:end], end == len(audio)) for start, end in zip(starts, ends, strict=True)]


def in_step(model: Model, audios: Sequence[Audio]) -> list[list[Token]]:
    """All at once: each step takes the next piece of every utterance that has one."""
    states = [model.begin() for _ in audios]
    said: list[list[Token]] = [[] for _ in audios]
    for row in itertools.zip_longest(*(pieces_of(audio, model.facts.chunk) for audio in audios)):
        here = [(index, piece) for index, piece in enumerate(row) if piece is not None]
        added = model.step([Piece(states[index], audio, last) for index, (audio, last) in here])
        for (index, _), tokens in zip(here, added, strict=True):
            said[index] += tokens
    for state in states:
        model.end(state)
    return said


def times(tokens: Sequence[Token]) -> list[tuple[str, float, float]]:
    return [(token.text, token.frame, token.frames) for token in tokens]


# --- streams


def test_streams_in_step_say_exactly_what_each_heard(streaming: Model) -> None:
    """004-10, 004-11: words, and the encoder frame that each was heard in."""
    said = in_step(streaming, [say(text) for text in SPOKEN])
    assert [text_of(tokens) for tokens in said] == WRITTEN
    assert times(said[0]) == [("▁Alpha", 5, 1), ("▁char", 12, 1), ("lie", 12, 1), ("▁alpha", 19, 1)]
    assert times(said[1]) == [("▁Bravo", 5, 1)]


@pytest.mark.parametrize("chunk_ms", [80, 560, 1120])
def test_times_are_the_same_whatever_the_chunk(streaming: Model, tmp_path: Path, chunk_ms: int) -> None:
    model = load(options(build_streaming(tmp_path, chunk_ms=chunk_ms), chunk_ms=chunk_ms))
    audios = [say(text) for text in SPOKEN]
    assert model.facts.chunk == chunk_ms * 16
    assert [times(said) for said in in_step(model, audios)] == [
        times(said) for said in in_step(streaming, audios)
    ]


def test_a_chunk_is_decoded_when_it_is_there_and_not_when_the_next_is(tmp_path: Path) -> None:
    model = load(options(build_streaming(tmp_path, chunk_ms=560)))
    state = model.begin()
    first = say("alpha bravo", pause=0.08)[: model.facts.chunk]
    assert text_of(model.step([Piece(state, first, last=False)])[0]) == "Alpha"


def test_the_first_sound_of_an_utterance_is_heard(streaming: Model) -> None:
    said = in_step(streaming, [say("bravo", pause=0.0)])
    assert times(said[0]) == [("▁Bravo", 2, 1)]


@pytest.mark.parametrize("cut", [0, 1, 700, 1279, 1280, 2559])
def test_the_last_sound_of_an_utterance_is_heard_wherever_it_ends(streaming: Model, cut: int) -> None:
    """004-13: what is shorter than a chunk is decoded too. The tone takes two frames to be a word."""
    audio = np.concatenate([np.zeros(2560 + cut, np.float32), say("delta", pause=0.0, seconds=0.2)])
    assert text_of(in_step(streaming, [audio])[0]) == "Delta"


def test_one_that_begins_late_and_one_that_is_dropped_disturb_nobody(streaming: Model) -> None:
    """004-12."""
    audio = say(SPOKEN[2])
    alone = in_step(streaming, [audio])[0]
    pieces = pieces_of(audio, streaming.facts.chunk)
    early, dropped, late = streaming.begin(), streaming.begin(), None
    said: dict[str, list[Token]] = {"early": [], "late": []}
    for number in range(len(pieces) + 5):
        here = []
        if number < len(pieces):
            here.append(("early", Piece(early, *pieces[number])))
        if number == 5:
            late = streaming.begin()
        if late is not None:
            here.append(("late", Piece(late, *pieces[number - 5])))
        if number < 3:
            here.append(("dropped", Piece(dropped, say("bravo")[: streaming.facts.chunk], last=False)))
        if number == 3:
            streaming.end(dropped)
        for (name, _), tokens in zip(here, streaming.step([piece for _, piece in here]), strict=True):
            if name in said:
                said[name] += tokens
    assert said == {"early": alone, "late": alone}


def test_an_utterance_without_sound_says_nothing(streaming: Model) -> None:
    assert in_step(streaming, [np.zeros(0, np.float32), np.zeros(5000, np.float32)]) == [[], []]


def test_an_utterance_may_come_as_one_long_piece_beside_others(streaming: Model) -> None:
    state = streaming.begin()
    audio = say("alpha bravo")
    first, rest = audio[: streaming.facts.chunk], audio[streaming.facts.chunk :]
    before = streaming.step([Piece(state, first, last=False)])[0]
    whole = [Piece(streaming.begin(), say(text), last=True) for text in SPOKEN]
    *said, after = streaming.step([*whole, Piece(state, rest, last=True)])
    assert [text_of(tokens) for tokens in said] == WRITTEN
    assert text_of([*before, *after]) == "Alpha bravo"


def test_a_stream_that_failed_is_over(streaming: Model) -> None:
    states = [streaming.begin(), streaming.begin()]
    nothing: Any = None
    with pytest.raises(TypeError):
        streaming.step([Piece(states[0], say("alpha"), True), Piece(states[1], nothing, True)])
    with pytest.raises(EngineFailed, match="failed before"):
        streaming.step([Piece(states[0], say("alpha"), last=True)])
    assert text_of(in_step(streaming, [say("alpha")])[0]) == "Alpha"


def test_a_token_says_how_sure_it_is(streaming: Model) -> None:
    """004-16: the probability of the token among all that it might have been."""
    said = in_step(streaming, [say(SPOKEN[0])])[0]
    assert [token.confidence for token in said] == [1.0, 0.9931, 0.9931, 0.9932]


@pytest.mark.parametrize("kind", ["streaming", "ctc"])
def test_weights_in_8_bits_say_the_same_signed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The library loads the copy with signed weights where the processor has the instructions for it."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder = BUILDERS[kind](tmp_path)
    part = "model" if kind == "ctc" else "joiner"
    quantization.quantize_dynamic(
        folder / f"{part}.onnx",
        folder / f"{part}.int8.onnx",
        weight_type=quantization.QuantType.QUInt8,
        op_types_to_quantize=["MatMul"],
    )
    with signed({part: folder / f"{part}.int8.onnx"}) as files:
        assert files[part].parent == Path("/proc/self/fd")
    said = []
    for is_signed in (False, is_faster()):
        monkeypatch.setattr(sherpa, "is_faster", lambda is_signed=is_signed: is_signed)
        said.append(in_step(load(options(folder)), [say(words) for words in SPOKEN]))
    assert [text_of(tokens) for tokens in said[0]] == [
        words.lower() if kind == "ctc" else words for words in WRITTEN
    ]
    assert said[0] == said[1]


def test_what_a_streaming_export_is(streaming: Model) -> None:
    facts = streaming.facts
    assert (facts.mode, facts.decoder, facts.device, facts.chunk) == ("cache-aware", "rnnt", "cpu", 2 * FRAME)
    assert facts.parameters == {"dtype": "float32", "threads": "1", "left_context_ms": "160"}
    assert facts.confidence
    assert facts.punctuation


# --- whole utterances


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "ctc"])
def test_utterances_of_all_lengths_are_recognised_in_one_batch(folders: dict[str, Path], kind: str) -> None:
    model = load(options(folders[kind]))
    audios = [say(text) for text in SPOKEN] + [np.zeros(7, np.float32), np.zeros(9000, np.float32)]
    said = in_step(model, audios)
    written = [*SPOKEN, "", ""] if kind == "ctc" else [*WRITTEN, "", ""]  # CTC does not know what came before
    assert [text_of(tokens) for tokens in said] == written
    assert (model.facts.mode, model.facts.chunk, model.facts.decoder) == ("vad-segmented", 0, kind)


def test_tdt_says_how_long_a_token_lasts(folders: dict[str, Path]) -> None:
    said = in_step(load(options(folders["tdt"])), [say("alpha charlie")])[0]
    assert times(said) == [("▁Alpha", 4, 2), ("▁char", 11, 1), ("lie", 12, 2)]
    words = recognition(said, samples=len(say("alpha charlie"))).words
    assert [(word.text, word.start // FRAME, word.end // FRAME) for word in words] == [
        ("Alpha", 4, 6),
        ("charlie", 11, 14),
    ]


def test_confidence_is_never_invented(folders: dict[str, Path]) -> None:
    """004-16: the library's CTC decoder tells none."""
    model = load(options(folders["ctc"]))
    assert not model.facts.confidence
    assert {token.confidence for token in in_step(model, [say(SPOKEN[0])])[0]} == {None}


# --- what is refused


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("streaming", {"chunk_ms": 80}, "an export for 160.*80, 160, 560 and 1120"),
        ("streaming", {"mode": "buffered"}, "always cache-aware"),
        ("rnnt", {"mode": "buffered"}, "load the same model by transformers"),
        ("tdt", {"chunk_ms": 560}, "leave --chunk-ms out"),
        ("ctc", {"device": "cuda"}, r"a build for the CPU.*\+cuda"),
        ("ctc", {"dtype": "bfloat16"}, "int8 or float32"),
        ("ctc", {"dtype": "int8"}, r"no model\.int8\.onnx; it holds: model\.onnx"),
    ],
)
def test_what_an_export_cannot_do_is_refused(
    folders: dict[str, Path], kind: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadConfig, match=told):
        load(options(folders[kind], **changes))


@pytest.mark.parametrize("kind", ["streaming", "rnnt", "ctc"])
@pytest.mark.parametrize("key", ["vocab_size", "subsampling_factor"])
def test_every_export_must_say_its_vocabulary_and_its_frames(tmp_path: Path, kind: str, key: str) -> None:
    folder = BUILDERS[kind](tmp_path, metadata={key: None})
    with pytest.raises(EngineFailed, match=rf"onnx: metadata {key}: it is missing"):
        load(options(folder))


@pytest.mark.parametrize(
    ("kind", "metadata", "told"),
    [
        ("rnnt", {"vocab_size": 11}, "vocab_size: it is 11, but .*tokens.txt has 10 and a blank"),
        ("ctc", {"vocab_size": 12}, "vocab_size: it is 12"),
        ("rnnt", {"vocab_size": "ten"}, "'ten', not a number"),
        ("rnnt", {"subsampling_factor": 4}, "subsampling_factor: it must be 8"),
        ("rnnt", {"pred_hidden": None}, "pred_hidden: it is missing"),
        ("tdt", {"pred_rnn_layers": 2}, r"they say \[2, any, 11\], but the model takes \[1, any, 11\]"),
        ("tdt", {"url": None}, 'url: the joiner scores durations, so it must have "tdt" in it'),
        ("rnnt", {"url": "parakeet-tdt"}, "url: it says tdt, but the joiner scores no durations"),
        ("rnnt", {"feat_dim": 128}, "feat_dim: it is 128, but the model takes 80"),
        ("streaming", {"chunk_shift": None}, "chunk_shift: it is missing"),
        ("streaming", {"chunk_shift": 20}, "chunk_shift: it is 20, not a multiple of 8"),
        ("streaming", {"window_size": 16}, "window_size: it is 16, and not 9 more than chunk_shift, 16"),
        ("streaming", {"cache_last_channel_dim3": None}, "cache_last_channel_dim3: it is missing"),
        (
            "streaming",
            {"cache_last_channel_dim2": 3},
            r"cache_last_channel_dim1 to 3: they say \[any, 1, 3, 4\]",
        ),
        ("streaming", {"cache_last_time_dim1": -1}, "'-1', not a number from 1 up"),
    ],
)
def test_metadata_that_ends_the_library_is_refused_in_words(
    tmp_path: Path, kind: str, metadata: dict[str, object], told: str
) -> None:
    """That the test goes on shows that the library never saw the file."""
    with pytest.raises(EngineFailed, match=told):
        load(options(BUILDERS[kind](tmp_path, metadata=metadata)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-1], "has no <blk>"),
        (lambda lines: [*lines[:-2], "<blk> 9", ". 10"], "<blk> is not the last token"),
        (lambda lines: [*lines[:3], lines[3] + " x", *lines[4:]], "line 4: expected a token and its number"),
        (lambda lines: [*lines[:-1], "<blk> 12"], "not 0 to 10, each once"),
        (lambda lines: ["", *lines], "line 1: expected"),
    ],
)
def test_a_vocabulary_that_ends_the_library_is_refused(
    tmp_path: Path, change: Callable[[list[str]], list[str]], told: str
) -> None:
    folder = build_rnnt(tmp_path)
    tokens = folder / "tokens.txt"
    tokens.write_text("\n".join(change(tokens.read_text("utf-8").splitlines())) + "\n", "utf-8")
    with pytest.raises(EngineFailed, match=told):
        load(options(folder))


def test_a_decoder_and_a_joiner_of_something_else_are_refused(tmp_path: Path) -> None:
    folder = build_rnnt(tmp_path / "decoder")
    (folder / "decoder.onnx").write_bytes((folder / "joiner.onnx").read_bytes())
    with pytest.raises(EngineFailed, match=r"decoder\.onnx: it is not the decoder of a NeMo transducer"):
        load(options(folder))
    folder = build_rnnt(tmp_path / "joiner")
    (folder / "joiner.onnx").write_bytes((folder / "encoder.onnx").read_bytes())
    with pytest.raises(EngineFailed, match=r"joiner\.onnx: it scores any number of tokens"):
        load(options(folder))


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    encoder = build_rnnt(tmp_path) / "encoder.onnx"
    encoder.write_bytes(encoder.read_bytes()[:keep])
    with pytest.raises(EngineFailed, match=r"encoder\.onnx is not an ONNX file or is not all there"):
        load(options(tmp_path))


def test_a_graph_that_cannot_run_is_refused_while_it_is_loaded(tmp_path: Path) -> None:
    encoder = build_rnnt(tmp_path) / "encoder.onnx"
    model = onnx.load(encoder)
    next(node for node in model.graph.node if node.op_type == "Clip").op_type = "Clop"
    encoder.write_bytes(model.SerializeToString())
    with pytest.raises(EngineFailed, match=r"cannot be loaded: .*Clop"):
        load(options(tmp_path))


# --- files


def touch(folder: Path, *names: str) -> Path:
    for name in ("tokens.txt", *names):
        (folder / name).touch()
    return folder


def chosen(folder: Path, dtype: str) -> list[str]:
    return sorted(path.name for path in find(folder, dtype).parts.values())


def test_int8_is_taken_where_it_is_there_and_float32_where_it_is_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "encoder.onnx", "encoder.int8.onnx", "decoder.onnx", "joiner.onnx", "joiner.int8.onnx")
    assert chosen(tmp_path, "auto") == ["decoder.onnx", "encoder.int8.onnx", "joiner.int8.onnx"]
    assert chosen(tmp_path, "int8") == ["decoder.onnx", "encoder.int8.onnx", "joiner.int8.onnx"]
    assert chosen(tmp_path, "float32") == ["decoder.onnx", "encoder.onnx", "joiner.onnx"]
    assert (find(tmp_path, "auto").dtype, find(tmp_path, "float32").dtype) == ("int8", "float32")


def test_names_may_say_more_than_the_role(tmp_path: Path) -> None:
    names = ["decoder-x.onnx", "nemotron-encoder.int8.onnx", "x_joiner.onnx"]
    assert chosen(touch(tmp_path, *names), "auto") == names


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["encoder.onnx", "decoder.onnx"], r"no joiner\.onnx; it holds: decoder\.onnx, encoder\.onnx"),
        (["encoder-model.onnx", "decoder_joint-model.onnx"], "NeMo's own export.*perch models export"),
        (["encoder-a.onnx", "encoder-b.onnx"], r"more than one encoder: encoder-a\.onnx, encoder-b\.onnx"),
        ([], r"no model\.onnx; it holds: no \*\.onnx files"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, names: list[str], told: str) -> None:
    with pytest.raises(BadConfig, match=told):
        find(touch(tmp_path, *names), "auto")


def test_no_folder_and_no_vocabulary_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="not a folder"):
        find(tmp_path / "nowhere", "auto")
    with pytest.raises(BadConfig, match=r"tokens\.txt is missing"):
        find(tmp_path, "auto")


def test_a_header_is_what_the_onnx_library_reads(folders: dict[str, Path]) -> None:
    path = folders["streaming"] / "encoder.onnx"
    header, model = read_header(path), onnx.load(path)
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert header.inputs[:3] == ((None, 80, None), (None,), (None, 1, 2, 4))
    assert len(header.outputs) == len(model.graph.output)


# --- tokens


def test_bytes_of_a_character_become_that_character_when_all_are_there() -> None:
    tokens = [" ", "<0xE2>", "<0x82>", "<0xAC>", "5", "<unk>", " a"]
    said = Said(tokens, [0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48], log_probabilities=[0, 0, -0.5, 0, 0, 0, 0])
    whole, end = spell(said, 0, last=False)
    assert text_of(whole) == "€5 a"
    assert (whole[1].text, whole[1].frame, whole[1].frames, whole[1].confidence) == ("€", 1, 3, 0.6065)
    assert end == 7
    early = Said(tokens[:3], said.seconds[:3], log_probabilities=said.log_probabilities[:3])
    assert [token.text for token in spell(early, 0, last=False)[0]] == ["▁"]
    assert spell(early, 0, last=False)[1] == 1
    assert spell(said, 1, last=False)[0] == whole[1:]


def test_bytes_that_are_no_character_are_marked_and_lose_nothing_else() -> None:
    assert (
        text_of(spell(Said([" a", "<0xE2>", "b"], [0, 0, 0]), 0, last=False)[0])
        == "a\N{REPLACEMENT CHARACTER}b"
    )
    assert text_of(spell(Said([" a", "<0xE2>"], [0, 0]), 0, last=True)[0]) == "a\N{REPLACEMENT CHARACTER}"
    assert text_of(spell(Said(["<0xAC>", "b"], [0, 0]), 0, last=True)[0]) == "\N{REPLACEMENT CHARACTER}b"


# --- in its process


def pcm(audio: Audio) -> bytes:
    return np.rint(audio * 32_767).astype("<i2").tobytes()


async def heard(recogniser: ModelRecogniser, audio: Audio, cut: int) -> tuple[list[str], Any]:
    voice = await recogniser.open(RecognitionConfig())
    partials = [await voice.feed(pcm(audio[at : at + cut])) for at in range(0, len(audio), cut)]
    final = await voice.finish()
    await voice.aclose()
    return [partial for partial in partials if partial], final


async def test_the_engine_serves_an_export_with_as_many_streams_as_it_carries(
    folders: dict[str, Path],
) -> None:
    recogniser = await ModelRecogniser.start("sherpa-onnx", options(folders["streaming"]))
    try:
        told = recogniser.capabilities
        assert told.slots >= 3
        assert (told.streaming_mode, told.parameters["chunk_ms"]) == ("cache-aware", "160")
        answers = await asyncio.gather(
            *(heard(recogniser, say(text), cut) for text, cut in zip(SPOKEN, (160, 2560, 7001), strict=True))
        )
    finally:
        await recogniser.aclose()
    assert [final.text for _, final in answers] == WRITTEN
    assert answers[0][0] == ["Alpha", "Alpha charlie", "Alpha charlie alpha"]
    words = answers[0][1].words
    assert [(word.text, word.start, word.confidence) for word in words] == [
        ("Alpha", 5 * FRAME, 1.0),
        ("charlie", 12 * FRAME, 0.9931),
        ("alpha", 19 * FRAME, 0.9932),
    ]


async def test_a_model_that_ends_its_process_is_told_with_its_last_words(tmp_path: Path) -> None:
    """An encoder that answers for twice as many streams as it was asked: nothing in the file shows it."""
    encoder = build_streaming(tmp_path) / "encoder.onnx"
    model = onnx.load(encoder)
    last = next(node for node in model.graph.node if node.output[0] == "outputs")
    last.op_type, last.input[:] = "Concat", [last.input[0]] * 2
    last.attribute.append(onnx.helper.make_attribute("axis", 0))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "twice"
    encoder.write_bytes(model.SerializeToString())
    with pytest.raises(EngineFailed, match="Size mismatch"):
        await ModelRecogniser.start("sherpa-onnx", options(tmp_path), slots=1)


def test_the_tones_of_the_tiny_model_are_words() -> None:
    assert set(" ".join(SPOKEN).split()) <= set(TONES)
