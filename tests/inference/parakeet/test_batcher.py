"""Which utterances step next, by values alone."""

import numpy as np

from perch.inference.parakeet.batcher import LIGHT_STEPS, Batcher
from perch.inference.parakeet.model import Audio


def audio(samples: int, value: float = 0.0) -> Audio:
    return np.full(samples, value, dtype=np.float32)


def batcher(chunk: int = 100, most: int = 8, most_samples: int = 10_000) -> Batcher:
    return Batcher(chunk=chunk, most=most, most_samples=most_samples)


def open_with(b: Batcher, *lengths: int, last: bool = False) -> None:
    for key, length in enumerate(lengths, 1):
        b.begin(key)
        b.add(key, audio(length, key), last=last)


def test_only_whole_pieces_are_taken_and_the_rest_waits() -> None:
    b = batcher()
    open_with(b, 150, 99, 100)
    taken = b.take()
    assert [(due.key, len(due.audio), due.last) for due in taken] == [(1, 100, False), (3, 100, False)]
    assert not b
    b.add(2, audio(1), last=False)
    assert [due.key for due in b.take()] == [2]


def test_a_backlog_gets_one_piece_a_step_and_then_the_end_of_the_line() -> None:
    b = batcher(most=2)
    open_with(b, 300, 100, 100)
    assert [[due.key for due in b.take()] for _ in range(3)] == [[1, 2], [3, 1], [1]]


def test_pieces_are_the_audio_in_order() -> None:
    b = batcher()
    b.begin(1)
    whole = np.arange(250, dtype=np.float32)
    for start in range(0, 250, 7):
        b.add(1, whole[start : start + 7], last=False)
    b.add(1, audio(0), last=True)
    pieces = []
    while b:
        pieces += b.take()
    assert [(len(due.audio), due.last) for due in pieces] == [(100, False), (100, False), (50, True)]
    assert np.array_equal(np.concatenate([due.audio for due in pieces]), whole)


def test_a_step_may_be_asked_to_take_fewer() -> None:
    b = batcher()
    open_with(b, 100, 100, 100)
    assert [len(b.take(1)), len(b.take(2))] == [1, 2]


def test_an_utterance_that_ends_on_a_piece_ends_with_it() -> None:
    b = batcher()
    open_with(b, 100, last=True)
    assert [(len(due.audio), due.last) for due in b.take()] == [(100, True)]


def test_an_utterance_that_ends_after_its_last_piece_was_taken_ends_with_nothing() -> None:
    b = batcher()
    open_with(b, 100)
    b.take()
    b.add(1, audio(0), last=True)
    assert [(len(due.audio), due.last) for due in b.take()] == [(0, True)]


def test_whole_utterances_wait_for_their_end() -> None:
    b = batcher(chunk=0)
    open_with(b, 500, 700)
    assert not b
    b.add(2, audio(0), last=True)
    assert [(due.key, len(due.audio), due.last) for due in b.take()] == [(2, 700, True)]


def test_a_step_is_bounded_by_its_padded_length_and_never_empty() -> None:
    b = batcher(chunk=0, most_samples=1000)
    open_with(b, 300, 400, 100, 2000, last=True)
    assert [[due.key for due in b.take()] for _ in range(3)] == [[1, 2], [3], [4]]


def test_a_dropped_utterance_is_gone_and_can_be_dropped_again() -> None:
    b = batcher()
    open_with(b, 100, 100)
    b.drop(1)
    b.drop(1)
    assert [due.key for due in b.take()] == [2]


def test_context_counts_in_what_a_step_may_take() -> None:
    b = Batcher(chunk=100, most=8, most_samples=2_400, context=700)
    open_with(b, 100, 100, 100, 100)
    assert [len(b.take()), len(b.take())] == [3, 1]


def test_after_memory_ran_out_no_step_is_of_more_than_half_as_much() -> None:
    b = batcher()
    open_with(b, 100, 100, 100, 100, 100, 100, 100)
    b.lighten(b.take())
    open_with(b, *[100] * 14)
    assert [len(b.take()) for _ in range(5)] == [3, 3, 3, 3, 2]


def test_after_some_steps_that_had_memory_enough_larger_ones_are_tried_again() -> None:
    b = batcher(most_samples=800)
    open_with(b, *[100] * 8)
    dues = b.take()
    b.lighten(dues)
    b.lighten(dues[:4])
    sizes = []
    for _ in range(3):
        open_with(b, *[100] * 8)
        sizes.append(len(b.take()))
        while b:
            b.take()
        for _ in range(LIGHT_STEPS):
            b.succeeded()
    assert sizes == [2, 4, 8]
