import pytest
from bench.events import Heard
from bench.job import Outcome, StreamLog
from bench.latency import causes, latencies, percentile, slope

FRAME = 0.1


def outcome(*streams: StreamLog, start: float = 0.0, end: float = 100.0) -> Outcome:
    return Outcome(
        streams=list(streams),
        start=start,
        end=end,
        frames=sum(len(log.sent) for log in streams),
        messages=sum(len(log.heard) for log in streams),
        cpu_s={"generator": 0.0, "others": 0.0},
        late_ms=(0.0, 0.0),
        lag_ms=(0.0, 0.0),
        failures=[],
    )


def stream(*heard: Heard, begun: float = 0.0, frames: int = 10) -> StreamLog:
    return StreamLog([begun + index * FRAME for index in range(frames)], list(heard))


def word(at: float, text: str = "perch", *, segment: int = 0, is_final: bool = False) -> Heard:
    return Heard(at, segment, is_final, text)


def test_an_event_is_caused_by_the_frame_after_which_the_quickest_stream_heard_it() -> None:
    quick = stream(word(0.305))
    slow = stream(word(5.47), begun=5.0)
    assert causes([outcome(slow), outcome(quick)]) == {(0, False, "perch"): 3}


def test_a_stream_slower_than_a_frame_is_measured_from_the_frame_that_caused_the_event() -> None:
    quick, slow = outcome(stream(word(0.305))), outcome(stream(word(5.47), begun=5.0))
    caused_by = causes([quick, slow])
    assert latencies(quick, caused_by) == pytest.approx([0.005])
    assert latencies(slow, caused_by) == pytest.approx([0.170])


def test_what_the_end_of_a_stream_brought_about_is_no_event_of_a_frame() -> None:
    natural = stream(word(0.805, is_final=True))
    cut_short = stream(word(0.405, is_final=True), frames=5)
    caused_by = causes([outcome(cut_short), outcome(natural)])
    assert caused_by == {(0, True, "perch"): 8}
    assert latencies(outcome(cut_short), caused_by) == []


def test_a_repeated_partial_counts_once_at_its_first_time() -> None:
    measured = outcome(stream(word(0.305), word(0.755)))
    assert latencies(measured, causes([measured])) == pytest.approx([0.005])


def test_the_same_words_of_another_segment_are_another_event() -> None:
    measured = outcome(stream(word(0.305), word(0.755, segment=1)))
    assert len(latencies(measured, causes([measured]))) == 2


def test_only_frames_sent_while_measuring_count() -> None:
    measured = outcome(stream(word(0.105), word(0.305, "bird")), start=0.2)
    assert latencies(measured, causes([measured])) == pytest.approx([0.005])


def test_percentiles_of_nothing_are_zero() -> None:
    assert percentile([], 95) == 0.0


def test_percentiles_lie_between_the_values() -> None:
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([1.0, 2.0], 75) == 1.75


def test_the_slope_of_a_line_is_found() -> None:
    assert slope([(0.0, 1.0), (10.0, 6.0), (20.0, 11.0)]) == pytest.approx(0.5)
    assert slope([(0.0, 1.0)]) == 0.0
