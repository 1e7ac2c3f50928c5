"""ReplayWindow: nothing unsent is ever lost, nothing covered is kept, memory is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.core.replay import ReplayWindow, WindowFull


def chunk(samples: int, fill: int = 0) -> bytes:
    return bytes([fill]) * (2 * samples)


def test_audio_is_taken_in_order_and_once() -> None:
    window = ReplayWindow(10_000)
    window.append(chunk(100, 1))
    window.append(chunk(50, 2))
    assert window.take(4) == chunk(100, 1)
    assert window.take(10_000) == chunk(50, 2)
    assert window.take(10_000) == b""
    assert (window.start, window.sent, window.end) == (0, 150, 150)


def test_waiting_chunks_are_joined_up_to_the_bound() -> None:
    window = ReplayWindow(10_000)
    for fill in range(5):
        window.append(chunk(10, fill))
    assert window.take(40) == chunk(10, 0) + chunk(10, 1)
    assert len(window.take(1000)) == 60


def test_taking_stops_where_an_utterance_is_to_end() -> None:
    window = ReplayWindow(10_000)
    window.append(chunk(10))
    mark = window.end
    window.append(chunk(10))
    assert len(window.take(1000, until=mark)) == 20
    assert window.take(1000, until=mark) == b""
    assert len(window.take(1000)) == 20


def test_after_a_rewind_only_uncovered_audio_is_sent_again() -> None:
    window = ReplayWindow(10_000)
    for fill in range(4):
        window.append(chunk(100, fill))
    window.take(10_000)
    window.trim(250)
    assert window.rewind() == 250
    assert window.take(10_000) == chunk(50, 2) + chunk(100, 3)


def test_what_was_sent_is_kept_only_up_to_the_replay_horizon() -> None:
    window = ReplayWindow(10_000, max_replay_bytes=400)
    for fill in range(5):
        window.append(chunk(100, fill))
    assert window.waiting == 500, "what waits is not bounded by the horizon"
    window.take(10_000)
    assert window.size == 400
    assert window.forgotten == 300
    window.trim(window.start)
    assert window.forgotten == 0


def test_a_trim_never_forgets_what_was_not_sent() -> None:
    window = ReplayWindow(10_000)
    window.append(chunk(100))
    window.trim(1000)
    assert window.waiting == 100
    assert len(window.take(1000)) == 200


def test_sent_audio_gives_way_when_the_window_is_full() -> None:
    window = ReplayWindow(400)
    window.append(chunk(100, 1))
    window.take(1000)
    window.append(chunk(100, 2))
    window.append(chunk(100, 3))
    assert window.forgotten == 100
    assert window.rewind() == 100
    assert window.take(1000) == chunk(100, 2) + chunk(100, 3)


def test_unsent_audio_does_not_give_way() -> None:
    window = ReplayWindow(400)
    window.append(chunk(200))
    with pytest.raises(WindowFull):
        window.append(chunk(1))
    assert window.waiting == 200


@given(st.lists(st.tuples(st.sampled_from(["append", "take", "trim", "rewind"]), st.integers(1, 300))))
def test_the_cursors_stay_in_order_and_the_bound_holds(steps: list[tuple[str, int]]) -> None:
    window = ReplayWindow(2000)
    accepted = 0
    for action, number in steps:
        if action == "append":
            try:
                window.append(chunk(number))
                accepted += number
            except WindowFull:
                assert 2 * (window.waiting + number) > 2000
        elif action == "take":
            window.take(number)
        elif action == "trim":
            window.trim(number * 4)
        else:
            window.rewind()
        assert 0 <= window.start <= window.sent <= window.end == accepted
        assert window.size <= 2000
        assert window.size == 2 * (window.end - window.start)
