"""An export that does less work than NeMo's encoder, and says the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nemo", reason="NeMo is not installed")
torch = pytest.importorskip("torch")

import onnxruntime  # noqa: E402

from inference.parakeet.tiny_nemo import SMALL, build  # noqa: E402
from perch.inference.parakeet.export import export  # noqa: E402
from perch.inference.parakeet.export_frugal import cache_shape, make_frugal, use_products  # noqa: E402
from perch.inference.parakeet.nemo_checkpoint import libraries, restore, set_lookahead  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # NeMo's own, of which it has many

BINS, WINDOW, CHUNK, CHUNKS, STREAMS = SMALL.mels, 65, 7, 7, 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nemo"), "streaming")


def encoder_of(checkpoint: Path) -> Any:
    model = restore(*libraries(), checkpoint, "cpu").float().eval()
    set_lookahead(model, 6)
    return model.encoder


def chunks() -> list[Any]:
    made = torch.Generator().manual_seed(3)
    return [torch.randn(STREAMS, BINS, WINDOW, generator=made) for _ in range(CHUNKS)]


def streamed(encoder: Any) -> Any:
    """What an encoder makes of the chunks with its caches carried on, shape (streams, width, frames)."""
    channel, time, length = encoder.get_initial_cache_state(batch_size=STREAMS)
    caches, frames = (channel.transpose(0, 1), time.transpose(0, 1), length), []
    with torch.inference_mode():
        for chunk in chunks():
            made = encoder.forward_for_export(chunk, torch.full((STREAMS,), WINDOW), *caches)
            assert made[1].tolist() == [CHUNK] * STREAMS
            frames.append(made[0])
            caches = made[2:]
    return torch.cat(frames, dim=-1)


def test_keys_and_values_that_are_kept_are_those_that_would_be_made_again(checkpoint: Path) -> None:
    """More chunks than the context has, so that old frames fall out of the cache."""
    plain, frugal = encoder_of(checkpoint), encoder_of(checkpoint)
    use_products(torch, frugal)
    make_frugal(torch, frugal)
    context, width = SMALL.contexts[0][0], SMALL.width // SMALL.heads
    assert cache_shape(frugal) == (2 * SMALL.layers * SMALL.heads, context, width)
    assert not any(isinstance(one, torch.nn.Conv1d) and one.kernel_size == (1,) for one in frugal.modules())
    torch.testing.assert_close(streamed(frugal), streamed(plain), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("int8", "far"), [(False, 1e-4), (True, 0.35)])
def test_an_exported_encoder_says_what_nemos_own_says(
    checkpoint: Path, tmp_path: Path, *, int8: bool, far: float
) -> None:
    """Eight bits are coarse, the more so for a random network; float32 is exact."""
    folder = tmp_path / "exported"
    export(checkpoint, folder, chunk_ms=560, int8=int8, report=lambda _: None)
    session = onnxruntime.InferenceSession(folder / ("encoder.int8.onnx" if int8 else "encoder.onnx"))
    told = session.get_modelmeta().custom_metadata_map
    channel, time = (
        np.zeros((STREAMS, *(int(told[f"{cache}_dim{axis}"]) for axis in (1, 2, 3))), np.float32)
        for cache in ("cache_last_channel", "cache_last_time")
    )
    caches, frames = [channel, time, np.zeros(STREAMS, np.int64)], []
    names = [one.name for one in session.get_inputs()]
    for chunk in chunks():
        fed = [chunk.numpy(), np.full(STREAMS, WINDOW, np.int64), *caches]
        made = session.run(None, dict(zip(names, fed, strict=True)))
        frames.append(made[0])
        caches = made[2:]
    expected = streamed(encoder_of(checkpoint)).numpy()
    assert np.abs(np.concatenate(frames, axis=-1) - expected).mean() < far * np.abs(expected).mean()
