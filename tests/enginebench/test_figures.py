"""What a bench of an engine makes of answers: by values, without a clock."""

from itertools import islice

import pytest

from perch.core.audio import RATE
from perch.enginebench.figures import (
    Answer,
    Live,
    Pace,
    Round,
    Said,
    Spread,
    agreement,
    busy,
    carried,
    live,
    pace,
    per_added_stream,
    ratio,
    spread,
    throughput,
)
from perch.enginebench.script import cues, utterances


def answer(due: float, sent: float, answered: float, *, samples: int = RATE, last: bool = False) -> Answer:
    return Answer(due, sent, answered, samples, last)


def step(streams: int, p95: float | None) -> Live:
    return Live(streams, 560, Spread(1, p95, p95, p95), Spread(0), 0.5, 0.1, 0.2, 900)


def test_percentiles_are_milliseconds_and_none_of_nothing() -> None:
    assert spread([0.1] * 99 + [1.1]) == Spread(100, 100.0, 100.0, 110.0)
    assert spread([]) == Spread(0, None, None, None)


def test_busy_counts_what_overlaps_once_and_what_was_never_taken_not_at_all() -> None:
    overlapping = [answer(0, 0.0, 1.0), answer(0, 0.5, 1.5), answer(0, 0.6, 0.8), answer(0, 3.0, 3.25)]
    assert busy(overlapping) == pytest.approx(1.75)
    assert busy([answer(0, 5.0, 5.0, samples=0)]) == 0


def test_latency_counts_from_the_last_sample_not_from_sending() -> None:
    """A piece that waited because the one before it was late is late by the waiting too."""
    late = Round(2, 10.0, [answer(1.0, 4.0, 4.5)], cpu_s=0.5, resident_mib=100)
    found = live([late], limit_ms=560)
    assert found.latency.p50 == 3500
    assert not found.held
    assert (found.rtf, found.cpu) == (0.5, 0.5)
    assert found.busy == pytest.approx(0.5 / 9)


def test_a_piece_that_was_never_taken_is_late_by_what_was_left_of_the_round() -> None:
    quick = [answer(second, second, second + 0.1) for second in range(1, 10)]
    missed = answer(2.0, 10.0, 10.0, samples=0)
    held, overrun = live([Round(1, 10.0, quick)], 560), live([Round(1, 10.0, [*quick, missed])], 560)
    assert held.held
    assert not overrun.held
    assert overrun.latency.p99 is not None
    assert overrun.latency.p99 > 7000


def test_finals_are_counted_by_themselves_too() -> None:
    found = live([Round(1, 10.0, [answer(1, 1, 1.1), answer(2, 2, 2.3, last=True)])], 560)
    assert (found.latency.count, found.final.count, found.final.p95) == (2, 1, 300)


def test_rounds_of_one_side_are_taken_together() -> None:
    calm = Round(1, 5.0, [answer(1, 1, 1.1)], cpu_s=0.2, resident_mib=90)
    disturbed = Round(1, 5.0, [answer(1, 1, 1.3)], cpu_s=0.4, resident_mib=95)
    found = live([calm, disturbed], 560)
    assert (found.latency.p50, found.resident_mib) == (200, 95)
    assert found.rtf == pytest.approx(0.2)
    assert found.cpu == pytest.approx(0.3)
    assert throughput([calm, disturbed]) == pytest.approx(0.2)
    assert throughput([]) is None


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ([(1, 100.0), (2, 300.0), (4, 560.0), (8, 900.0)], 4),
        ([(1, 600.0)], 0),
        ([(1, None)], 0),
        ([(4, 500.0), (1, 100.0), (2, 900.0)], 1),  # whatever held above the first that did not is luck
        ([(1, 100.0), (4, 900.0), (4, 400.0)], 4),  # tried again, and it was the machine
        ([], 0),
    ],
)
def test_carried_is_the_most_streams_below_the_first_that_fell_behind(
    steps: list[tuple[int, float | None]], most: int
) -> None:
    assert carried(step(streams, p95) for streams, p95 in steps) == most


def test_ratios_and_memory_are_none_where_there_is_nothing_to_compare() -> None:
    assert ratio(6, 4) == 1.5
    assert ratio(6, 0) is ratio(6, None) is ratio(None, 4) is None
    assert per_added_stream({1: 950.0, 4: 1025.0, 8: 1055.0}) == 15.0
    assert per_added_stream({1: 950.0}) is per_added_stream({}) is None


def test_pace_says_how_much_was_decoded() -> None:
    said = [Said(0, 2 * RATE, "one two three", tokens=5), Said(1, 2 * RATE, "four", tokens=1)]
    assert pace(said) == Pace(words_per_s=1.0, tokens_per_s=1.5)
    assert pace([Said(0, RATE, "one")]) == Pace(words_per_s=1.0, tokens_per_s=None)
    assert pace([]) == Pace()


def test_agreement_compares_utterances_that_both_sides_finished() -> None:
    ours = [Said(0, RATE, "one two"), Said(1, RATE, "three"), Said(2, RATE, "only ours")]
    plain = [Said(0, RATE, "one  two", 2), Said(1, RATE, "tree", 1)]
    found = agreement(ours, plain)
    assert (found.same, found.of) == (1, 2)


# --- the script


def test_streams_say_every_utterance_in_pieces_and_are_spread_over_a_piece() -> None:
    chunk = RATE // 2
    first, second = (
        list(islice(cues([chunk * 2, chunk + 100], chunk=chunk, stream=stream, streams=2), 5))
        for stream in (0, 1)
    )
    assert [(cue.clip, cue.start, cue.end, cue.last) for cue in first] == [
        (0, 0, chunk, False),
        (0, chunk, 2 * chunk, True),
        (1, 0, chunk, False),
        (1, chunk, chunk + 100, True),
        (0, 0, chunk, False),
    ]
    assert [cue.due for cue in first[:3]] == [0.5, 1.0, 1.5]
    assert first[3].due == pytest.approx(1.5 + 100 / RATE)
    assert (second[0].clip, second[0].due) == (1, 0.75)


def test_a_model_of_whole_utterances_gets_them_whole() -> None:
    script = list(islice(cues([RATE, 2 * RATE], chunk=0, stream=0, streams=1), 3))
    assert [(cue.due, cue.samples, cue.last) for cue in script] == [
        (1.0, RATE, True),
        (3.0, 2 * RATE, True),
        (4.0, RATE, True),
    ]


def test_long_recordings_are_cut_evenly_and_nothing_is_lost() -> None:
    recording = bytes(range(256)) * 100
    cut = utterances([recording, b"ab"], longest=5_000)
    assert b"".join(cut) == recording + b"ab"
    assert [len(one) // 2 for one in cut] == [4267, 4267, 4266, 1]
