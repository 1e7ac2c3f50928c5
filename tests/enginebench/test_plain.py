"""The other side of the bench: rounds of a plain loop, and the libraries' own loops on tiny models."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import cast

import numpy as np
import pytest

from perch.core.audio import RATE
from perch.enginebench import clips
from perch.enginebench.plain import Heard, PullingLoop, Spec, load
from perch.enginebench.plain_orders import Order
from perch.enginebench.plain_process import PlainProcess
from perch.enginebench.plain_rounds import PlainRounds
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet.backends import backend
from perch.inference.parakeet.model import Audio, LoadOptions, Piece
from perch.inference.parakeet.words import text_of

CHUNK = RATE // 10
SPEECH = Path(__file__).parents[1] / "fixtures" / "speech" / "ps_librivox_0880.wav"


@dataclass
class Counting:
    """Implements ``PlainLoop`` and ``PullingLoop``: says how many samples an utterance had."""

    most: int | None = None
    about: str = "counting"
    fed: list[int] = field(default_factory=list)

    def open(self) -> list[int]:
        return []

    def feed(self, utterance: list[int], audio: Audio) -> None:
        utterance.append(len(audio))
        self.fed.append(len(audio))

    def finish(self, utterance: list[int]) -> Heard:
        return Heard(str(sum(utterance)), len(utterance))

    def whole(self, audio: Audio) -> Heard:
        return Heard(str(len(audio)), 1)

    def pull(self, pieces: Iterator[Audio]) -> Heard:
        utterance = self.open()
        for piece in pieces:
            self.feed(utterance, piece)
        return self.finish(utterance)


def rounds(loop: Counting, seconds: float = 0.25) -> PlainRounds:
    return PlainRounds(loop, [bytes(2 * round(seconds * RATE))], CHUNK)


def test_a_live_round_takes_every_piece_when_it_is_spoken_and_not_before() -> None:
    told = rounds(Counting()).live(2, 0.6)
    assert len(told.answers) == 6 + 6  # 0.1, 0.2 and 0.25 s of each utterance of 0.25 s, and so on
    assert all(answer.sent >= answer.due for answer in told.answers)
    assert {said.text for said in told.said} == {str(RATE // 4)}
    assert told.seconds >= 0.6
    assert told.resident_mib > 10


def test_a_round_as_fast_as_it_goes_does_not_wait() -> None:
    told = rounds(Counting()).flat_out(3, 0.05)
    assert told.audio_s > told.seconds
    assert {said.tokens for said in told.said} == {3}


def test_a_loop_that_asks_for_audio_gets_one_stream() -> None:
    live, flat = rounds(Counting(most=1)).live(1, 0.6), rounds(Counting(most=1)).flat_out(4, 0.05)
    assert [answer.due for answer in live.answers] == pytest.approx([0.1, 0.2, 0.25, 0.35, 0.45, 0.5])
    assert all(answer.sent >= answer.due for answer in live.answers)
    assert [said.text for said in live.said] == [str(RATE // 4)] * 2
    assert flat.audio_s > flat.seconds


def test_what_a_slow_loop_does_not_get_to_counts_as_late() -> None:
    class Slow(Counting):
        def feed(self, utterance: list[int], audio: Audio) -> None:
            super().feed(utterance, audio)
            sleep(0.5)

    loop = Slow()
    told = rounds(loop).live(2, 0.4)
    taken, *missed = told.answers
    assert loop.fed == [taken.samples]
    assert len(missed) > 3
    assert {answer.samples for answer in missed} == {0}
    assert max(answer.latency for answer in missed) > 0.2


def test_recordings_are_taken_one_after_the_other() -> None:
    told = rounds(Counting()).offline(3)
    assert [answer.samples for answer in told.answers] == [RATE // 4] * 3
    assert all(
        late.sent >= early.answered for early, late in zip(told.answers, told.answers[1:], strict=False)
    )


# --- libraries


def options(folder: Path, **changes: object) -> LoadOptions:
    made = {"path": str(folder), "name": "tiny", "allow_cpu": True, "device": "cpu", "threads": 1, **changes}
    return LoadOptions(**made)  # type: ignore[arg-type]


def speech() -> bytes:
    return clips.load([SPEECH])[0]


def float_of(pcm: bytes) -> Audio:
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32_768)


@pytest.mark.filterwarnings("ignore")  # what the library says of its own ways
@pytest.mark.parametrize("kind", ["ctc", "rnnt", "tdt", "streaming"])
def test_transformers_alone_says_what_the_served_model_says(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from inference.parakeet.tiny_transformers import build

    chosen = options(build(tmp_path, kind))
    served = backend("transformers")(chosen)
    loop = load(Spec("transformers", chosen, served.facts.chunk, []))
    audio = float_of(speech())
    served.reserve(1)
    tokens = served.step([Piece(served.begin(), audio, last=True)])[0]
    assert tokens
    assert loop.whole(audio) == Heard(text_of(tokens), len(tokens))
    if kind == "streaming":
        chunk = served.facts.chunk
        asked = (audio[start : start + chunk] for start in range(0, len(audio), chunk))
        assert cast("PullingLoop", loop).pull(asked) == Heard(text_of(tokens), len(tokens))


@pytest.mark.parametrize(("kind", "chunk"), [("streaming", 2560), ("rnnt", 0), ("ctc", 0)])
async def test_sherpa_alone_in_its_process_hears_the_words(tmp_path: Path, kind: str, chunk: int) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from inference.parakeet import tiny_onnx

    folder = getattr(tiny_onnx, f"build_{kind}")(tmp_path)
    said = [(tiny_onnx.say(words) * 32_767).astype("<i2").tobytes() for words in ("alpha bravo", "delta")]
    process = await PlainProcess.start(Spec("sherpa-onnx", options(folder), chunk, said))
    try:
        assert "decode_stream" in process.loaded.about
        flat = await process.run(Order("flat_out", 2, 0.2))
        whole = await process.run(Order("offline", 2))
    finally:
        await process.aclose()
    assert [one.text.lower() for one in whole.said] == ["alpha bravo", "delta"]
    assert {one.text for one in flat.said} == {one.text for one in whole.said}
    assert flat.cpu_s > 0


@pytest.mark.parametrize("kind", ["tdt", "ctc"])
async def test_onnx_asr_hears_what_sherpa_hears_in_the_same_files(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    from inference.parakeet import tiny_onnx

    # As every Parakeet has its features, and onnx-asr always makes them. The tiny models mishear them alike.
    folder = getattr(tiny_onnx, f"build_{kind}")(tmp_path, metadata={"normalize_type": "per_feature"})
    said = [(tiny_onnx.say(words) * 32_767).astype("<i2").tobytes() for words in ("alpha bravo", "delta")]
    heard = []
    for library in ("onnx-asr", "sherpa-onnx"):
        process = await PlainProcess.start(Spec(library, options(folder), 0, said))
        try:
            told = await process.run(Order("offline", 2))
            flat = await process.run(Order("flat_out", 2, 0.2))
        finally:
            await process.aclose()
        assert {one.text for one in flat.said} == {one.text for one in told.said}
        heard.append([(one.text, one.tokens) for one in told.said])
    assert heard[0] == heard[1]
    assert heard[0][0][0]


async def test_onnx_asr_joins_the_parts_of_a_transducer(tmp_path: Path) -> None:
    """It takes up to ten tokens of a frame, sherpa-onnx one: so the words begin alike, and no more."""
    pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    from inference.parakeet import tiny_onnx

    said = (tiny_onnx.say("alpha bravo") * 32_767).astype("<i2").tobytes()
    process = await PlainProcess.start(Spec("onnx-asr", options(tiny_onnx.build_rnnt(tmp_path)), 0, [said]))
    try:
        told = await process.run(Order("offline", 1))
    finally:
        await process.aclose()
    assert told.said[0].text.startswith("Alpha bravo")


async def test_onnx_asr_knows_no_streams(tmp_path: Path) -> None:
    pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    from inference.parakeet import tiny_onnx

    with pytest.raises(BadConfig, match="whole utterances"):
        await PlainProcess.start(Spec("onnx-asr", options(tiny_onnx.build_streaming(tmp_path)), 2560, []))


async def test_a_plain_loop_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="tones"):
        await PlainProcess.start(Spec("tones", options(tmp_path), 0, []))


async def test_a_plain_loop_whose_process_ends_is_an_error_not_a_wait(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from inference.parakeet import tiny_onnx

    spec = Spec("sherpa-onnx", options(tiny_onnx.build_rnnt(tmp_path)), 0, [bytes(RATE)])
    process = await PlainProcess.start(spec)
    process._process.kill()
    with pytest.raises(EngineFailed, match="ended"):
        await process.run(Order("offline", 1))
    await process.aclose()
