"""Utterances from probabilities, by values: frames of 32 ms, so 800 ms of silence is 25 frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.core.speech import Endpointing
from perch.inference.endpointer import Begin, Decision, Defaults, EarlyEnd, End, Endpointer

FRAME = 512
PLAIN = Defaults(pre_roll_ms=0, post_roll_ms=0)
SHORT = Defaults(pre_roll_ms=0, post_roll_ms=0, max_utterance=100 * FRAME, cut_window_ms=640)


def speech(frames: int) -> list[float]:
    return [0.9] * frames


def silence(frames: int) -> list[float]:
    return [0.01] * frames


def run(
    probabilities: list[float], config: Endpointing | None = None, defaults: Defaults = PLAIN
) -> list[Decision]:
    endpointer = Endpointer(config, FRAME, defaults)
    return endpointer.feed(probabilities) + endpointer.close(len(probabilities) * FRAME)


def test_an_utterance_spans_its_first_and_last_speech() -> None:
    assert run(silence(20) + speech(30) + silence(40)) == [Begin(20 * FRAME), End(50 * FRAME)]


def test_silence_decides_nothing() -> None:
    assert run(silence(2000)) == []


def test_nothing_at_all_decides_nothing() -> None:
    assert run([]) == []


def test_rolls_add_audio_before_and_after() -> None:
    defaults = Defaults(pre_roll_ms=320, post_roll_ms=160)
    assert run(silence(20) + speech(30) + silence(40), defaults=defaults) == [
        Begin(20 * FRAME - 5120),
        End(50 * FRAME + 2560),
    ]


def test_a_pre_roll_does_not_reach_before_the_stream() -> None:
    assert run(silence(2) + speech(30) + silence(40), defaults=Defaults(pre_roll_ms=500))[0] == Begin(0)


def test_a_pre_roll_does_not_reach_into_the_utterance_before() -> None:
    defaults = Defaults(pre_roll_ms=1000, post_roll_ms=600)
    found = run(speech(10) + silence(26) + speech(10) + silence(26), defaults=defaults)
    assert found[1:3] == [End(10 * FRAME + 9600), Begin(10 * FRAME + 9600)]


def test_the_end_is_decided_by_the_frame_that_completes_the_stop_history() -> None:
    endpointer = Endpointer(None, FRAME, PLAIN)
    assert endpointer.feed(speech(10) + silence(24)) == [Begin(0)]
    assert endpointer.feed(silence(1)) == [End(10 * FRAME)]


def test_a_pause_shorter_than_the_stop_history_ends_nothing() -> None:
    assert run(speech(10) + silence(24) + speech(10)) == [Begin(0), End(44 * FRAME)]


def test_a_single_probable_frame_starts_nothing() -> None:
    assert run(silence(20) + speech(1) + silence(40)) == []


def test_start_threshold_is_the_share_of_the_start_history_that_must_be_speech() -> None:
    wish = Endpointing(start_history_ms=320, start_threshold=0.5)
    assert run(silence(20) + speech(4) + silence(40), wish) == []
    assert run(silence(20) + speech(5) + silence(40), wish) == [Begin(20 * FRAME), End(25 * FRAME)]


def test_stop_history_and_threshold_are_the_callers() -> None:
    wish = Endpointing(stop_history_ms=320, stop_threshold=0.5)
    endpointer = Endpointer(wish, FRAME, PLAIN)
    assert endpointer.feed(speech(10) + silence(4)) == [Begin(0)]
    assert endpointer.feed(silence(1)) == [End(10 * FRAME)]


def test_an_early_end_is_told_once_before_the_end() -> None:
    wish = Endpointing(stop_history_eou_ms=320)
    assert run(speech(10) + silence(40), wish) == [Begin(0), EarlyEnd(10 * FRAME), End(10 * FRAME)]


def test_an_early_end_is_told_again_after_speech_went_on() -> None:
    wish = Endpointing(stop_history_eou_ms=320)
    assert run(speech(10) + silence(15) + speech(10) + silence(30), wish) == [
        Begin(0),
        EarlyEnd(10 * FRAME),
        EarlyEnd(35 * FRAME),
        End(35 * FRAME),
    ]


@pytest.mark.parametrize("unset", [0, -1, None])
def test_values_that_are_not_positive_mean_the_default(unset: int | None) -> None:
    wish = Endpointing(unset, unset, unset, unset, unset, unset)
    stream = silence(20) + speech(30) + silence(40)
    assert run(stream, wish) == run(stream)


def test_inside_an_utterance_a_lower_probability_still_counts_as_speech() -> None:
    assert run(speech(10) + [0.25] * 40 + silence(30)) == [Begin(0), End(50 * FRAME)]
    assert run([0.25] * 40) == []


def test_a_long_utterance_is_cut_at_its_least_probable_late_frame() -> None:
    stream = [*speech(90), 0.6, *speech(9), *speech(20), *silence(30)]
    assert run(stream, defaults=SHORT) == [
        Begin(0),
        End(90 * FRAME + 256, cut=True),
        Begin(90 * FRAME + 256),
        End(120 * FRAME),
    ]


def test_a_cut_after_the_last_speech_is_an_end() -> None:
    stream = speech(89) + silence(11) + speech(10) + silence(30)
    assert run(stream, defaults=SHORT) == [Begin(0), End(89 * FRAME), Begin(100 * FRAME), End(110 * FRAME)]


def test_the_end_of_the_stream_ends_the_utterance_with_the_samples_short_of_a_frame() -> None:
    endpointer = Endpointer(None, FRAME, Defaults(pre_roll_ms=0))
    assert endpointer.feed(speech(10)) == [Begin(0)]
    assert endpointer.close(10 * FRAME + 100) == [End(10 * FRAME + 100)]


def test_nothing_is_ready_while_no_utterance_is_open() -> None:
    endpointer = Endpointer(None, FRAME, PLAIN)
    endpointer.feed(silence(50))
    assert endpointer.ready is None


def test_audio_is_ready_up_to_the_post_roll_after_the_last_speech() -> None:
    endpointer = Endpointer(None, FRAME, Defaults(pre_roll_ms=0, post_roll_ms=160))
    endpointer.feed(speech(10) + silence(20))
    assert endpointer.ready == 10 * FRAME + 2560


def test_audio_that_a_cut_might_take_away_is_not_ready() -> None:
    endpointer = Endpointer(None, FRAME, SHORT)
    endpointer.feed(speech(95))
    assert endpointer.ready == 79 * FRAME


def test_while_listening_only_the_start_history_and_pre_roll_need_keeping() -> None:
    endpointer = Endpointer(None, FRAME, Defaults(pre_roll_ms=320))
    endpointer.feed(silence(1000))
    assert endpointer.needed_from == (1000 - 9) * FRAME - 5120


probability = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.9, 0.9, 1.0]))
streams = st.lists(st.tuples(probability, st.integers(1, 60)), max_size=20).map(
    lambda runs: [value for value, count in runs for _ in range(count)]
)
wishes = st.builds(
    Endpointing,
    start_history_ms=st.none() | st.integers(-80, 3000),
    start_threshold=st.none() | st.floats(-1, 1),
    stop_history_ms=st.none() | st.integers(-80, 3000),
    stop_threshold=st.none() | st.floats(-1, 1),
    stop_history_eou_ms=st.none() | st.integers(-80, 3000),
    stop_threshold_eou=st.none() | st.floats(-1, 1),
)
rules = st.builds(
    Defaults,
    pre_roll_ms=st.integers(0, 600),
    post_roll_ms=st.integers(0, 600),
    max_utterance=st.integers(40, 200).map(lambda frames: frames * FRAME),
)


def utterances(decisions: list[Decision]) -> list[tuple[int, int]]:
    """Begins and ends, paired; fails if they do not alternate."""
    edges = [decision for decision in decisions if not isinstance(decision, EarlyEnd)]
    assert [type(edge) for edge in edges] == [Begin, End] * (len(edges) // 2)
    positions = [edge.at for edge in edges]
    return list(zip(positions[::2], positions[1::2], strict=True))


@given(streams, wishes, rules)
def test_utterances_are_ordered_disjoint_bounded_and_inside_the_stream(
    stream: list[float], wish: Endpointing, defaults: Defaults
) -> None:
    previous = 0
    for begin, end in utterances(run(stream, wish, defaults)):
        assert previous <= begin < end <= len(stream) * FRAME
        assert end - begin <= defaults.max_utterance
        previous = end


@given(streams, rules)
def test_every_frame_of_speech_is_in_an_utterance_when_one_frame_starts_it(
    stream: list[float], defaults: Defaults
) -> None:
    found = utterances(run(stream, Endpointing(start_history_ms=32, start_threshold=1.0), defaults))
    for index, value in enumerate(stream):
        if value >= defaults.onset:
            covered = sum(
                max(0, min(end, (index + 1) * FRAME) - max(begin, index * FRAME)) for begin, end in found
            )
            assert covered == FRAME


@given(streams, wishes, rules, st.data())
def test_what_is_ready_or_forgotten_is_never_taken_back(
    stream: list[float], wish: Endpointing, defaults: Defaults, data: st.DataObject
) -> None:
    endpointer = Endpointer(wish, FRAME, defaults)
    given_away, forgotten, begin = 0, 0, 0
    while stream:
        size = data.draw(st.integers(1, 50))
        for decision in endpointer.feed(stream[:size]):
            if isinstance(decision, Begin):
                begin = given_away = decision.at
                assert begin >= forgotten
            elif isinstance(decision, End):
                assert decision.at >= given_away
        ready = endpointer.ready
        if ready is not None:
            assert ready >= begin
            given_away = max(given_away, ready)
        assert endpointer.needed_from >= forgotten
        forgotten = endpointer.needed_from
        stream = stream[size:]


@given(streams, wishes, rules, st.integers(1, 30))
def test_decisions_do_not_depend_on_how_the_stream_is_divided(
    stream: list[float], wish: Endpointing, defaults: Defaults, size: int
) -> None:
    endpointer = Endpointer(wish, FRAME, defaults)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    found = [decision for piece in pieces for decision in endpointer.feed(piece)]
    assert found + endpointer.close(len(stream) * FRAME) == run(stream, wish, defaults)
