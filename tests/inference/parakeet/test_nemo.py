"""NeMo checkpoints: what NeMo itself says, for many streams and utterances at once."""

import itertools
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("nemo", reason="NeMo is not installed")

from bench.random_nemo import Kind
from bench.talkative import babble

from inference.parakeet import retrying
from inference.parakeet.retrying import FailsOnce
from inference.parakeet.tiny_nemo import build, by_nemo, encoder_frames, restored, streamed_by_nemo
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet.model import Audio, LoadOptions, Model, Piece, Token
from perch.inference.parakeet.nemo import load
from perch.inference.parakeet.words import recognition

pytestmark = pytest.mark.filterwarnings("ignore")  # what NeMo's dependencies say of each other

OFFLINE: tuple[Kind, ...] = ("ctc", "rnnt", "tdt")
SECONDS = (3.13, 0.41, 5.29, 1.21)
"""NeMo's streaming leaves out what is less than a chunk of 80 ms at the end; these end with one."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nemo")
    return {kind: build(folder, kind) for kind in get_args(Kind)}


def options(file: Path, **changes: Any) -> LoadOptions:
    return LoadOptions(**{"path": str(file), "name": "tiny", "device": "cpu", "allow_cpu": True, **changes})


def audios() -> list[Audio]:
    return [babble(6, seed=number)[: round(seconds * 16_000)] for number, seconds in enumerate(SECONDS, 1)]


def pieces_of(audio: Audio, chunk: int) -> list[tuple[Audio, bool]]:
    size = chunk or max(1, len(audio))
    starts = range(0, max(1, len(audio)), size)
    return [(audio[start : start + size], start + size >= len(audio)) for start in starts]


def recognise(model: Model, sounds: Sequence[Audio]) -> list[list[Token]]:
    """All at once: each step takes the next piece of every utterance that has one."""
    model.reserve(len(sounds))
    states = [model.begin() for _ in sounds]
    told: list[list[Token]] = [[] for _ in sounds]
    for row in itertools.zip_longest(*(pieces_of(audio, model.facts.chunk) for audio in sounds)):
        here = [(index, piece) for index, piece in enumerate(row) if piece is not None]
        added = model.step([Piece(states[index], audio, last) for index, (audio, last) in here])
        for (index, _), tokens in zip(here, added, strict=True):
            told[index] += tokens
    for state in states:
        model.end(state)
    return told


def texts(tokens: Sequence[Token]) -> str:
    """Without spaces, which NeMo writes in front of words but not of marks."""
    return "".join(token.text for token in tokens).replace("▁", "")


@pytest.mark.parametrize("kind", OFFLINE)
def test_it_says_what_nemo_says_for_all_utterances_at_once(files: dict[str, Path], kind: str) -> None:
    """004-03, 004-04. The shortest is left out: NeMo makes a second of whatever is shorter."""
    sounds = [audio for audio in audios() if len(audio) > 16_000]
    theirs = [by_nemo(files[kind], audio) for audio in sounds]
    ours = recognise(load(options(files[kind])), sounds)
    assert [texts(tokens) for tokens in ours] == [
        "".join(one.text.replace("⁇", "").split()) for one in theirs
    ]
    assert sum(map(len, ours)) > 10
    if kind != "ctc":
        unknown = 0
        assert [[token.frame for token in tokens] for tokens in ours] == [
            [
                frame
                for frame, one in zip(their.timestamp.tolist(), their.y_sequence.tolist(), strict=True)
                if one != unknown
            ]
            for their in theirs
        ]


@pytest.mark.parametrize("chunk_ms", [80, 160, 560])
def test_streams_say_what_nemo_s_own_streaming_says(files: dict[str, Path], chunk_ms: int) -> None:
    """004-13: four streams in one batch, each as NeMo streams it alone."""
    model = load(options(files["streaming"], chunk_ms=chunk_ms))
    assert (model.facts.mode, model.facts.chunk) == ("cache-aware", chunk_ms * 16)
    vocabulary = restored(files["streaming"]).joint.vocabulary
    theirs = [streamed_by_nemo(files["streaming"], audio, chunk_ms // 80 - 1) for audio in audios()]
    ours = recognise(model, audios())
    assert [[token.text for token in tokens] for tokens in ours] == [
        [vocabulary[one] for one in ids if one] for ids in theirs
    ]
    assert sum(map(len, ours)) > 10


def test_a_piece_may_be_several_of_the_model_s_chunks(files: dict[str, Path]) -> None:
    """004-14: 320 ms, which the model was not trained for, is twice 160 ms."""
    [long] = recognise(load(options(files["streaming"], chunk_ms=320)), audios()[2:3])
    [short] = recognise(load(options(files["streaming"], chunk_ms=160)), audios()[2:3])
    assert long == short


def test_every_frame_of_a_stream_is_encoded_once(files: dict[str, Path]) -> None:
    """004-15: the encoder's frames are the audio's, however many chunks they came in."""
    model: Any = load(options(files["streaming"], chunk_ms=160))
    encoded: list[int] = []
    original = model._encode

    def counted(*args: Any, **named: Any) -> Any:
        frames, lengths = original(*args, **named)
        encoded.append(int(lengths[0]))
        return frames, lengths

    model._encode = counted
    audio = audios()[2]
    recognise(model, [audio])
    assert len(encoded) == len(pieces_of(audio, model.facts.chunk))
    assert sum(encoded) == encoder_frames(files["streaming"], audio)


def test_streams_at_different_points_do_not_disturb_each_other(files: dict[str, Path]) -> None:
    model = load(options(files["streaming"], chunk_ms=160))
    [first, _, second, _] = audios()
    alone = [recognise(model, [audio])[0] for audio in (first, second)]
    model.reserve(2)
    states = [model.begin(), model.begin()]
    told: list[list[Token]] = [[], []]
    for number, (audio, last) in enumerate(pieces_of(second, model.facts.chunk)):
        pieces = [Piece(states[1], audio, last)]
        late = number - 3  # the other begins three pieces later
        if 0 <= late < len(pieces_of(first, model.facts.chunk)):
            pieces.append(Piece(states[0], *pieces_of(first, model.facts.chunk)[late]))
        added = model.step(pieces)
        told[1] += added[0]
        told[0] += added[1] if len(added) > 1 else []
    assert told == alone


@pytest.mark.parametrize(
    ("place", "call", "lost"),
    [("_encode", 1, ()), ("_encode", 2, (2,)), ("decode", 2, (2,)), ("keep", 2, (0, 1, 2))],
)
def test_a_step_that_fails_half_way_fails_those_it_had_advanced_and_no_others(
    files: dict[str, Path], place: str, call: int, lost: tuple[int, ...]
) -> None:
    """The last stream begins while the others are under way, and in a step beginners go first."""
    model: Any = load(options(files["streaming"], chunk_ms=160))
    sounds, begins = audios()[::2] + audios()[3:], (0, 0, 3)
    alone = [recognise(model, [audio])[0] for audio in sounds]
    failures: list[FailsOnce] = []

    def before_step(step: int) -> None:
        if step == begins[-1]:
            owner = {"_encode": model, "decode": model._transducer, "keep": model._store}[place]
            failures.append(FailsOnce(getattr(owner, place)))
            failures[0].fail(call)
            setattr(owner, place, failures[0])

    said = retrying.recognise(model, sounds, begins, before_step)
    assert failures[0].has_failed
    assert [None if tokens is None else texts(tokens) for tokens in said] == [
        None if stream in lost else texts(tokens) for stream, tokens in enumerate(alone)
    ]
    assert all(alone)


def test_a_slot_is_clean_for_the_next_utterance(files: dict[str, Path]) -> None:
    model = load(options(files["streaming"]))
    once = recognise(model, audios()[2:3])
    assert recognise(model, audios()[2:3]) == once


@pytest.mark.parametrize("kind", get_args(Kind))
def test_words_have_times_within_the_utterance_and_real_chances(files: dict[str, Path], kind: str) -> None:
    """004-05."""
    audio = audios()[2]
    [tokens] = recognise(load(options(files[kind])), [audio])
    told = recognition(tokens, samples=len(audio))
    assert len(told.words) >= 2
    starts = [word.start for word in told.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= len(audio) for word in told.words)
    chances = {token.confidence for token in tokens}
    assert all(chance is not None and 0 < chance <= 1 for chance in chances)
    assert len(chances) > 1


@pytest.mark.parametrize("kind", OFFLINE)
def test_an_offline_model_can_stream_in_windows(files: dict[str, Path], kind: str) -> None:
    model = load(options(files[kind], mode="buffered", chunk_ms=560))
    assert (model.facts.backend, model.facts.mode, model.facts.chunk) == ("nemo", "buffered", 8960)
    assert sum(map(len, recognise(model, audios()))) > 10


def test_another_transducer_is_decoded_by_nemo_itself(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perch.inference.parakeet.nemo.is_known", lambda model: False)
    model = load(options(files["tdt"]))
    assert model.facts.parameters["decoding"] == "NeMo's own"
    [ours] = recognise(model, audios()[2:3])
    monkeypatch.undo()
    [known] = recognise(load(options(files["tdt"])), audios()[2:3])
    assert [(one.text, one.frame) for one in ours] == [(one.text, one.frame) for one in known]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_nothing_heard_is_nothing_said(files: dict[str, Path], kind: str) -> None:
    assert recognise(load(options(files[kind])), [np.zeros(0, dtype=np.float32)]) == [[]]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_half_precision_speaks_too(files: dict[str, Path], kind: str) -> None:
    """Networks only: features stay float32."""
    model = load(options(files[kind], dtype="bfloat16"))
    assert model.facts.parameters["dtype"] == "bfloat16"
    assert any(recognise(model, audios()))


def test_what_cannot_be_is_refused_in_words(files: dict[str, Path], tmp_path: Path) -> None:
    """004-06."""
    with pytest.raises(BadConfig, match="always cache-aware"):
        load(options(files["streaming"], mode="buffered"))
    with pytest.raises(BadConfig, match="trained for 80, 160, 560"):
        load(options(files["streaming"], chunk_ms=100))
    with pytest.raises(BadConfig, match="offline model"):
        load(options(files["rnnt"], mode="cache-aware"))
    with pytest.raises(BadConfig, match="--allow-cpu"):
        load(options(files["rnnt"], allow_cpu=False))
    with pytest.raises(BadConfig, match="is not there"):
        load(options(tmp_path / "nothing.nemo"))
    broken = tmp_path / "broken.nemo"
    broken.write_bytes(b"not an archive")
    with pytest.raises(EngineFailed, match=r"not a \.nemo file"):
        load(options(broken))
    empty = tmp_path / "empty.nemo"
    with tarfile.open(empty, "w"):
        pass
    with pytest.raises(EngineFailed, match="cannot be loaded"):
        load(options(empty))
