"""Parakeet by transformers: what the library's own plain loop says, for many streams at once."""

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perch.core.speech import RecognitionConfig
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet import transformers_offline
from perch.inference.parakeet.greedy import Decoder
from perch.inference.parakeet.model import Audio, LoadOptions, Model, Piece, Token
from perch.inference.parakeet.recogniser import ModelRecogniser
from perch.inference.parakeet.slot_store import SlotStore
from perch.inference.parakeet.transformers import load

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from inference.parakeet import retrying
from inference.parakeet.retrying import FailsOnce
from inference.parakeet.tiny_transformers import BLANK, PIECES, build

KINDS = ("ctc", "rnnt", "tdt", "streaming")
CLASSES = {
    "ctc": "ParakeetForCTC",
    "rnnt": "ParakeetForRNNT",
    "tdt": "ParakeetForTDT",
    "streaming": "NemotronAsrStreamingForRNNT",
}
SECONDS = (2.0, 5.3, 0.37, 1.13)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def options(folder: Path, **changes: Any) -> LoadOptions:
    return LoadOptions(**{"path": str(folder), "name": "tiny", "allow_cpu": True, "device": "cpu", **changes})


def sound(seconds: float) -> Audio:
    """Something that changes all the time: a warble with bursts of noise."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    noise = np.random.default_rng(1).normal(size=len(time)) * (np.sin(3 * time) > 0)
    warble = np.sin(2 * np.pi * (200 + 300 * np.sin(2 * time)) * time)
    return (0.2 * warble + 0.05 * noise).astype(np.float32)


def pieces_of(audio: Audio, chunk: int) -> list[tuple[Audio, bool]]:
    size = chunk or max(1, len(audio))
    starts = range(0, max(1, len(audio)), size)
    return [(audio[start : start + size], start + size >= len(audio)) for start in starts]


def recognise(model: Model, audios: Sequence[Audio]) -> list[list[Token]]:
    """All at once: each step takes the next piece of every utterance that has one."""
    model.reserve(len(audios))
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


def by_the_library(folder: Path, kind: str, audio: Audio) -> list[str]:
    import torch
    import transformers as hf

    processor = hf.AutoProcessor.from_pretrained(folder)
    if kind == "streaming":
        processor.set_num_lookahead_tokens(6)
    network = getattr(hf, CLASSES[kind]).from_pretrained(folder)
    inputs = processor(audio, sampling_rate=16_000)
    longest = {} if kind == "ctc" else {"max_new_tokens": 5_000}
    with torch.inference_mode():
        ids = network.generate(**inputs, **longest, return_dict_in_generate=True).sequences[0].tolist()
    if kind == "ctc":
        ids = [one for one, _ in itertools.groupby(ids)]
    return [PIECES[one] for one in ids if one not in (BLANK, BLANK - 1, BLANK - 2)]


def texts(tokens: Sequence[Token]) -> list[str]:
    return [token.text for token in tokens]


@pytest.mark.filterwarnings("ignore")  # what the library says of its own ways
@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_library_says_for_all_streams_at_once(folders: dict[str, Path], kind: str) -> None:
    model = load(options(folders[kind]))
    audios = [sound(seconds) for seconds in SECONDS]
    said = recognise(model, audios)
    wanted = [by_the_library(folders[kind], kind, audio) for audio in audios]
    assert [texts(tokens) for tokens in said] == wanted
    assert sum(map(len, wanted)) > 10
    assert len(set(itertools.chain.from_iterable(wanted))) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_have_times_within_the_audio_and_real_chances(folders: dict[str, Path], kind: str) -> None:
    tokens = recognise(load(options(folders[kind])), [sound(5.3)])[0]
    frames = [token.frame for token in tokens]
    assert frames == sorted(frames)
    assert frames[0] >= 0
    assert frames[-1] < 5.3 / 0.08 + 1
    chances = {token.confidence for token in tokens}
    assert all(chance is not None and 0 < chance <= 1 for chance in chances)
    assert len(chances) > 1


def test_streams_at_different_points_do_not_disturb_each_other(folders: dict[str, Path]) -> None:
    model = load(options(folders["streaming"], chunk_ms=160))
    alone = recognise(model, [sound(5.3)])[0]
    model.reserve(3)
    early, late, said = model.begin(), None, []
    for number, (audio, last) in enumerate(pieces_of(sound(5.3), model.facts.chunk)):
        pieces = [Piece(early, audio, last)]
        if number == 4:
            late = model.begin()
        if number >= 4:
            pieces.append(Piece(late, audio[::-1].copy(), last=False))
        if number == 9:  # a third comes and goes
            passing = model.begin()
            model.step([Piece(passing, audio, last=False)])
            model.end(passing)
        said += model.step(pieces)[0]
    assert said
    assert texts(said) == texts(alone)


def test_every_frame_is_encoded_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """004-13, 004-15: what the encoder is given grows with the audio, not with its square."""
    model: Any = load(options(folders["streaming"], chunk_ms=560))
    given: list[int] = []
    subsample = model._network.encoder.subsampling.forward

    def counting(features: Any, *arguments: Any, **named: Any) -> Any:
        given.append(features.shape[1])
        return subsample(features, *arguments, **named)

    monkeypatch.setattr(model._network.encoder.subsampling, "forward", counting)
    recognise(model, [sound(5.6)])
    assert given[0] == 49
    assert set(given[1:]) == {56}
    assert 560 <= sum(given) < 560 + 56


@pytest.mark.parametrize(("chunk_ms", "frames"), [(80, 1), (160, 2), (320, 4), (560, 7), (1120, 14)])
def test_the_chunk_is_configurable(folders: dict[str, Path], chunk_ms: int, frames: int) -> None:
    facts = load(options(folders["streaming"], chunk_ms=chunk_ms)).facts
    assert (facts.mode, facts.chunk) == ("cache-aware", frames * 1280)


def test_a_piece_of_two_chunks_says_what_two_pieces_say(folders: dict[str, Path]) -> None:
    one = recognise(load(options(folders["streaming"], chunk_ms=160)), [sound(5.3), sound(1.0)])
    two = recognise(load(options(folders["streaming"], chunk_ms=320)), [sound(5.3), sound(1.0)])
    assert two == one
    assert one[0]


@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt"])
def test_buffered_streams_say_the_same_alone_and_together(folders: dict[str, Path], kind: str) -> None:
    model = load(options(folders[kind], chunk_ms=560))
    assert (model.facts.mode, model.facts.chunk, model.facts.lookahead) == ("buffered", 7 * 1280, 14 * 1280)
    audios = [sound(9.1), sound(3.3), sound(0.2)]
    together = recognise(model, audios)
    assert [texts(tokens) for tokens in together] == [texts(recognise(model, [audio])[0]) for audio in audios]
    for tokens in together:
        assert [token.frame for token in tokens] == sorted(token.frame for token in tokens)
    assert together[0][-1].frame > 7  # past the first chunk


def test_a_short_buffered_utterance_is_what_it_is_as_a_whole(folders: dict[str, Path]) -> None:
    audio = sound(1.0)
    whole = recognise(load(options(folders["rnnt"], mode="vad-segmented")), [audio])
    assert recognise(load(options(folders["rnnt"], mode="buffered")), [audio]) == whole


def test_nothing_heard_is_nothing_said(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        assert recognise(load(options(folders[kind])), [np.zeros(0, dtype=np.float32)]) == [[]]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("rnnt", {"mode": "cache-aware"}, "offline model"),
        ("streaming", {"mode": "buffered"}, "always cache-aware"),
        ("streaming", {"chunk_ms": 300}, "80, 160, 560, 1120"),
        ("rnnt", {"chunk_ms": 100}, "multiple of 80"),
        ("rnnt", {"dtype": "int8"}, "ONNX"),
        ("rnnt", {"device": "cuda"}, "no CUDA device"),
        ("rnnt", {"allow_cpu": False}, "--allow-cpu"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    folders: dict[str, Path], kind: str, changes: dict[str, Any], message: str
) -> None:
    """004-06 and 004-45: no CUDA fails at once, with what to do."""
    with pytest.raises(BadConfig, match=message):
        load(options(folders[kind], **changes))


def test_a_broken_checkpoint_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for source in folders["rnnt"].iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(EngineFailed, match="no whole safetensors file"):
        load(options(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadConfig, match="holds a bert model"):
        load(options(tmp_path))


@pytest.mark.parametrize(
    ("place", "call", "lost"),
    [
        ("encoder", 1, ()),
        ("encoder", 2, (2, 3)),
        ("decoder", 1, ()),
        ("decoder", 2, (2, 3)),
        ("rows", 1, (2, 3)),
        ("rows", 2, (0, 1, 2, 3)),
    ],
)
def test_a_step_that_fails_half_way_fails_those_it_had_advanced_and_no_others(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, place: str, call: int, lost: tuple[int, ...]
) -> None:
    """Streams 2 and 3 begin while 0 and 1 are under way, and in a step beginners go first: audio that they have
    taken must not be taken again. Nobody else has to notice."""
    model: Any = load(options(folders["streaming"], chunk_ms=160))
    audios, begins = [sound(2.0), sound(1.3)[::-1].copy(), sound(1.1), sound(0.9)[::-1].copy()], (0, 0, 4, 4)
    alone = [recognise(model, [audio])[0] for audio in audios]
    owner, name = {
        "encoder": (model._network.encoder.subsampling, "forward"),
        "decoder": (model._transducer, "decode"),
        "rows": (Decoder, "keep"),
    }[place]
    failing = FailsOnce(getattr(owner, name))

    def failing_call(*arguments: Any, **named: Any) -> Any:
        return failing(*arguments, **named)

    monkeypatch.setattr(owner, name, failing_call)
    said = retrying.recognise(
        model, audios, begins, lambda step: failing.fail(call) if step == begins[-1] else None
    )
    assert failing.has_failed
    assert [None if tokens is None else texts(tokens) for tokens in said] == [
        None if stream in lost else texts(tokens) for stream, tokens in enumerate(alone)
    ]
    assert all(alone)


def test_windows_that_fail_together_say_one_at_a_time_what_they_would_have_said(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out while the decoder's states are told apart leaves none of them advanced."""
    model = load(options(folders["rnnt"], chunk_ms=560))
    audios = [sound(4.0), sound(3.3)[::-1].copy()]
    alone = [recognise(model, [audio])[0] for audio in audios]
    failing = FailsOnce(transformers_offline._one)
    monkeypatch.setattr(transformers_offline, "_one", failing)
    said = retrying.recognise(model, audios, (0, 0), lambda step: failing.fail(2) if step == 3 else None)
    assert failing.has_failed
    assert [texts(tokens or []) for tokens in said] == [texts(tokens) for tokens in alone]
    assert all(alone)


def test_more_slots_need_no_room_beside_the_fewer(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams to try are doubled, so with the old rows kept a third of the memory could not be used."""
    model: Any = load(options(folders["streaming"]))
    memory = _Memory(SlotStore.zeros)

    def zeros(store: SlotStore, shape: Sequence[int]) -> Any:
        return memory.zeros(store, shape)

    monkeypatch.setattr(SlotStore, "zeros", zeros)
    model.reserve(4)
    memory.most = memory.used + memory.used // 2
    model.reserve(6)
    with pytest.raises(MemoryError, match="7 streams"):
        model.reserve(7)
    model.reserve(6)
    with pytest.raises(MemoryError, match="7 streams"):
        model.reserve(7)
    state = model.begin()  # there is a slot still
    said = [
        model.step([Piece(state, audio, last)])[0] for audio, last in pieces_of(sound(2.0), model.facts.chunk)
    ]
    monkeypatch.undo()
    assert list(itertools.chain.from_iterable(said)) == recognise(model, [sound(2.0)])[0]


class _Memory:
    """Of a device: ``most`` numbers, of which those of tensors that are alive are used."""

    def __init__(self, zeros: Callable[[SlotStore, Sequence[int]], Any]) -> None:
        self.most = math.inf
        self.used = 0
        self._zeros = zeros

    def zeros(self, store: SlotStore, shape: Sequence[int]) -> Any:
        size = math.prod(shape)
        if self.used + size > self.most:
            raise store.torch.OutOfMemoryError
        self.used += size
        tensor = self._zeros(store, shape)
        weakref.finalize(tensor, self._give_back, size)
        return tensor

    def _give_back(self, size: int) -> None:
        self.used -= size


async def test_in_its_process_it_learns_its_slots_and_recognises(folders: dict[str, Path]) -> None:
    recogniser = await ModelRecogniser.start("transformers", options(folders["streaming"], threads=1))
    try:
        told = recogniser.capabilities
        assert told.streaming_mode == "cache-aware"
        assert 1 <= told.slots <= 64
        voice = await recogniser.open(RecognitionConfig())
        audio = sound(3.0)
        pcm = (audio * 32_768).astype("<i2").tobytes()
        partials = [await voice.feed(pcm[start : start + 6_400]) for start in range(0, len(pcm), 6_400)]
        final = await voice.finish()
        shown = [partial for partial in partials if partial is not None]
        assert final.text
        assert all(final.text.startswith(partial) for partial in shown)
        assert final.confidence is not None
        await voice.aclose()
    finally:
        await recogniser.aclose()
