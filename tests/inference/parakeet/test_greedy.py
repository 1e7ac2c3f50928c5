"""Greedy decoding of transducers: cutting the frames into chunks changes nothing."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from perch.inference.parakeet.greedy import Emitted, Transducer

FRAMES, WIDTH, BLANK = 45, 24, 6
DURATIONS = [0, 1, 2, 3, 4]


def transducer(durations: list[int] | None) -> Transducer:
    """Random networks that are blank at most frames, where a token depends on the frame and on the last one."""
    torch.manual_seed(1)
    head = torch.nn.Linear(WIDTH, BLANK + 1 + len(durations or []))
    with torch.no_grad():
        head.bias[BLANK] += 1
    return Transducer(
        torch,
        SimpleNamespace(
            config=SimpleNamespace(
                blank_token_id=BLANK,
                vocab_size=BLANK + 1,
                max_symbols_per_step=3,
                num_decoder_layers=1,
                decoder_hidden_size=WIDTH,
                durations=durations,
            ),
            decoder=SimpleNamespace(
                embedding=torch.nn.Embedding(BLANK + 1, WIDTH),
                lstm=torch.nn.LSTM(WIDTH, WIDTH, batch_first=True),
                decoder_projector=torch.nn.Linear(WIDTH, WIDTH),
            ),
            joint=SimpleNamespace(activation=torch.nn.ReLU(), head=head),
            device=torch.device("cpu"),
            dtype=torch.float32,
        ),
    )


def in_chunks(decoder: Transducer, frames: Any, sizes: list[int]) -> list[list[Emitted]]:
    state = decoder.start(len(frames))
    said: list[list[Emitted]] = [[] for _ in frames]
    begin = 0
    for size in sizes:
        lengths = torch.full((len(frames),), size)
        emitted, state = decoder.decode(frames[:, begin : begin + size], lengths, state)
        for told, new in zip(said, emitted, strict=True):
            told += [Emitted(one.id, begin + one.frame, one.frames, round(one.probability, 5)) for one in new]
        begin += size
    return said


@pytest.mark.parametrize("durations", [None, DURATIONS], ids=["rnnt", "tdt"])
@pytest.mark.parametrize("size", [1, 2, 7, 14, 20])
def test_chunks_say_what_the_whole_says(durations: list[int] | None, size: int) -> None:
    """004-13: the frames after a chunk's last token belong to it, and none of the next chunk is skipped."""
    decoder = transducer(durations)
    with torch.inference_mode():
        frames = torch.randn(3, FRAMES, WIDTH) * 2
        whole = in_chunks(decoder, frames, [FRAMES])
        sizes = [size] * (FRAMES // size) + ([FRAMES % size] if FRAMES % size else [])
        assert in_chunks(decoder, frames, sizes) == whole
    assert all(len(told) > 5 for told in whole)
    assert all(len({one.frame for one in told}) < FRAMES for told in whole)


def test_a_shorter_stream_of_a_batch_is_not_moved_on_by_a_longer_one() -> None:
    decoder = transducer(None)
    with torch.inference_mode():
        frames = torch.randn(2, FRAMES, WIDTH) * 2
        state = decoder.start(2)
        _, state = decoder.decode(frames, torch.tensor([7, FRAMES]), state)
        assert state.skip.tolist() == [0, 0]
