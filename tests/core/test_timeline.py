"""Timeline: silence the client never sent moves no word."""

from hypothesis import given
from hypothesis import strategies as st

from perch.core.timeline import Timeline


def test_without_silence_only_the_base_is_added() -> None:
    assert Timeline(100).to_session(50) == 150
    assert Timeline(0).is_sessions
    assert not Timeline(1).is_sessions


def test_positions_after_silence_are_moved_back_and_those_inside_are_the_moment_before() -> None:
    timeline = Timeline(1000)
    timeline.insert(1400, 300)
    assert timeline.to_session(399) == 1399
    assert timeline.to_session(400) == 1400
    assert timeline.to_session(600) == 1400
    assert timeline.to_session(700) == 1400
    assert timeline.to_session(750) == 1450


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), max_size=8),
    st.integers(0, 500),
)
def test_a_sample_is_found_again_wherever_silence_was_put(
    base: int, steps: list[tuple[int, int]], extra: int
) -> None:
    timeline = Timeline(base)
    session = base
    for audio, silence in steps:
        session += audio
        timeline.insert(session, silence)
    engine = session - base + timeline.inserted + extra
    assert timeline.to_session(engine) == session + extra
    positions = [timeline.to_session(position) for position in range(engine)]
    assert positions == sorted(positions)
