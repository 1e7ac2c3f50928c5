"""A NeMo checkpoint as ONNX files: sherpa-onnx loads them, and says what NeMo says."""

import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("nemo", reason="NeMo is not installed")
pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")

import onnxruntime
import sherpa_onnx
from bench.random_nemo import Kind
from bench.talkative import babble

from inference.parakeet.tiny_nemo import SMALL, build, restored
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet import export as exporting
from perch.inference.parakeet.export import export
from perch.inference.parakeet.model import Audio, LoadOptions, Piece
from perch.inference.parakeet.nemo import load as load_nemo
from perch.inference.parakeet.sherpa import load

pytestmark = pytest.mark.filterwarnings("ignore")  # what NeMo's dependencies say of each other

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nemo")
    return {kind: build(folder, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def exports(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    for kind, file in files.items():
        chunk_ms = 160 if kind == "streaming" else None
        export(file, folder / kind, chunk_ms=chunk_ms, int8=False, report=lambda _: None)
    return {kind: folder / kind for kind in KINDS}


def sound() -> Audio:
    return babble(8, seed=4)


def for_sherpa(audio: Audio) -> Audio:
    """The library's feature frames lie 5 ms behind NeMo's, and it makes one more of the same audio."""
    return np.pad(audio[:-160], (80, 0))


def sessions(folder: Path) -> dict[str, Any]:
    return {path.stem: onnxruntime.InferenceSession(str(path)) for path in folder.glob("*.onnx")}


def run(session: Any, *values: Any) -> list[Any]:
    names = [one.name for one in session.get_inputs()]
    return list(session.run(None, dict(zip(names, values, strict=True))))


def metadata(encoder: Any, cache: str) -> list[int]:
    told = encoder.get_modelmeta().custom_metadata_map
    return [int(told[f"{cache}_dim{axis}"]) for axis in (1, 2, 3)]


def features(file: Path, audio: Audio) -> tuple[Any, Any]:
    import torch

    with torch.inference_mode():
        made, count = restored(file).preprocessor(
            input_signal=torch.from_numpy(audio)[None], length=torch.tensor([len(audio)])
        )
    return made[:, :, : int(count[0])].numpy(), count.numpy()


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_encoder_decoder_and_joiner_compute_what_nemo_computes(
    files: dict[str, Path], exports: dict[str, Path], kind: str
) -> None:
    import torch

    model, parts = restored(files[kind]), sessions(exports[kind])
    made, count = features(files[kind], sound())
    encoded, lengths = run(parts["encoder"], made, count)
    with torch.inference_mode():
        wanted, frames = model.encoder(audio_signal=torch.from_numpy(made), length=torch.from_numpy(count))
        predicted, state = model.decoder.predict(torch.tensor([[5]]), add_sos=False)
        logits = model.joint.joint_net(model.joint.enc(wanted[:, :, 7]) + model.joint.pred(predicted[:, 0]))
    assert lengths == frames.numpy()
    assert np.abs(encoded - wanted.numpy()).max() < 1e-3
    zeros = np.zeros((1, 1, SMALL.predictor), np.float32)
    out, _, hidden, _ = run(
        parts["decoder"], np.array([[5]], np.int32), np.array([1], np.int32), zeros, zeros
    )
    assert np.abs(hidden - state[0].numpy()).max() < 1e-4
    [scores] = run(parts["joiner"], encoded[:, :, 7:8], out)
    assert np.abs(scores[0, 0, 0] - logits[0].numpy()).max() < 1e-2


def test_a_streaming_encoder_computes_what_nemo_s_computes_chunk_after_chunk(
    files: dict[str, Path], exports: dict[str, Path]
) -> None:
    """004-13: with the caches carried on."""
    import torch

    model, encoder = restored(files["streaming"]), sessions(exports["streaming"])["encoder"]
    model.encoder.set_default_att_context_size([28, 1])
    made, _ = features(files["streaming"], sound())
    state = [np.zeros([1, *metadata(encoder, one.name)], np.float32) for one in encoder.get_inputs()[2:4]]
    state.append(np.zeros(1, np.int64))
    theirs = model.encoder.get_initial_cache_state(batch_size=1)
    for chunk in windows(made):
        encoded, _, *state = run(encoder, chunk, np.array([25]), *state)
        with torch.inference_mode():
            wanted, _, *theirs = model.encoder.cache_aware_stream_step(
                torch.from_numpy(chunk), torch.tensor([25]), *theirs, keep_all_outputs=False
            )
        assert np.abs(encoded - wanted.numpy()).max() < 1e-3


def windows(made: Any) -> list[Any]:
    """What the library gives a streaming encoder of 160 ms: from the first on, 25 feature frames every 16."""
    return [made[:, :, begin : begin + 25] for begin in range(0, made.shape[2] - 24, 16)]


def test_the_library_s_plain_calls_say_what_nemo_says(
    files: dict[str, Path], exports: dict[str, Path]
) -> None:
    """Of CTC: a random transducer turns the smallest difference of two libraries' features into other tokens."""
    served = load_nemo(LoadOptions(path=str(files["ctc"]), name="tiny", device="cpu", allow_cpu=True))
    [wanted] = served.step([Piece(served.begin(), sound(), last=True)])
    heard = _offline(exports["ctc"], "ctc", for_sherpa(sound()))
    assert len(wanted) > 20
    known = [token for token in heard if token != "<unk>"]
    texts = [token.text.replace("▁", " ") for token in wanted]
    assert known == texts[: len(known)]
    assert len(known) >= len(texts) - 1  # the library decodes a frame less


@pytest.mark.parametrize("kind", ["rnnt", "tdt", "streaming"])
def test_the_library_s_plain_calls_take_transducers(exports: dict[str, Path], kind: str) -> None:
    audio = for_sherpa(sound())
    heard = _online(exports[kind], audio) if kind == "streaming" else _offline(exports[kind], kind, audio)
    lines = (exports[kind] / "tokens.txt").read_text("utf-8").splitlines()
    assert len(heard) > 5
    assert {token.replace(" ", "▁") for token in heard} <= {line.split()[0] for line in lines}


def _offline(folder: Path, kind: str, audio: Audio) -> list[str]:
    common = {"tokens": str(folder / "tokens.txt"), "feature_dim": SMALL.mels, "num_threads": 1}
    if kind == "ctc":
        recogniser = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(model=str(folder / "model.onnx"), **common)
    else:
        recogniser = sherpa_onnx.OfflineRecognizer.from_transducer(
            encoder=str(folder / "encoder.onnx"),
            decoder=str(folder / "decoder.onnx"),
            joiner=str(folder / "joiner.onnx"),
            model_type="nemo_transducer",
            **common,
        )
    stream = recogniser.create_stream()
    stream.accept_waveform(16_000, audio)
    recogniser.decode_stream(stream)
    return list(stream.result.tokens)


def _online(folder: Path, audio: Audio) -> list[str]:
    recogniser = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(folder / "tokens.txt"),
        encoder=str(folder / "encoder.onnx"),
        decoder=str(folder / "decoder.onnx"),
        joiner=str(folder / "joiner.onnx"),
        feature_dim=SMALL.mels,
        num_threads=1,
    )
    stream = recogniser.create_stream()
    stream.accept_waveform(16_000, audio)
    while recogniser.is_ready(stream):
        recogniser.decode_streams([stream])
    return list(recogniser.tokens(stream))


@pytest.mark.parametrize("kind", ["streaming", "tdt"])
def test_eight_bits_are_loaded_too(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    told: list[str] = []
    export(files[kind], tmp_path / "int8", chunk_ms=None, int8=True, report=told.append)
    names = {path.name for path in (tmp_path / "int8").iterdir()}
    assert names == {"encoder.int8.onnx", "decoder.int8.onnx", "joiner.int8.onnx", "tokens.txt"}
    model = load(LoadOptions(path=str(tmp_path / "int8"), name="tiny", device="cpu", allow_cpu=True))
    assert model.facts.parameters["dtype"] == "int8"
    assert model.facts.chunk == (8960 if kind == "streaming" else 0)
    assert "quantising encoder" in told


def test_weights_beyond_two_gigabytes_are_a_file_of_their_own(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit at a hundred kilobytes."""
    monkeypatch.setattr(exporting, "_ROOM", 100_000)
    export(files["rnnt"], tmp_path / "large", chunk_ms=None, int8=False, report=lambda _: None)
    assert (tmp_path / "large/encoder.weights").stat().st_size > 100_000
    assert (
        sessions(tmp_path / "large")["encoder"].get_modelmeta().custom_metadata_map["subsampling_factor"]
        == "8"
    )


def test_a_run_that_breaks_leaves_nothing(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_quantise", full)
    with pytest.raises(OSError, match="No space"):
        export(files["tdt"], tmp_path / "made", chunk_ms=None, int8=True, report=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_in_words(files: dict[str, Path], tmp_path: Path) -> None:
    def attempt(file: Path, folder: Path, chunk_ms: int | None = None) -> None:
        export(file, folder, chunk_ms=chunk_ms, int8=False, report=lambda _: None)

    with pytest.raises(BadConfig, match="is there already"):
        attempt(files["tdt"], tmp_path)
    with pytest.raises(BadConfig, match="was trained for 80, 160, 560"):
        attempt(files["streaming"], tmp_path / "a", 320)
    with pytest.raises(BadConfig, match="leave --chunk-ms out"):
        attempt(files["tdt"], tmp_path / "b", 560)
    (tmp_path / "broken.nemo").write_bytes(b"no archive")
    with pytest.raises(EngineFailed, match=r"not a \.nemo file"):
        attempt(tmp_path / "broken.nemo", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.nemo"]


def test_tokens_are_the_model_s_with_the_blank_last(files: dict[str, Path], exports: dict[str, Path]) -> None:
    lines = (exports["tdt"] / "tokens.txt").read_text("utf-8").splitlines()
    vocabulary = restored(files["tdt"]).joint.vocabulary
    assert lines == [
        f"{token} {number}" for number, token in enumerate(itertools.chain(vocabulary, ["<blk>"]))
    ]
