"""Session: the state table, by values."""

import pytest

from perch import errors
from perch.core.audio import RATE
from perch.core.messages import (
    Ack,
    Audio,
    Backend,
    Command,
    Done,
    Event,
    Failed,
    Final,
    Finalize,
    Limits,
    Notice,
    Partial,
    Ping,
    Pong,
    Ready,
    Resume,
    ResumeOffer,
    SessionConfig,
    Start,
    Stop,
)
from perch.core.session import TRANSITIONS, Session, State
from perch.core.speech import Hypothesis, Word

BACKEND = Backend("mock", "m")
START = Start(SessionConfig())
COMMANDS: list[Command] = [START, Audio(b""), Finalize(), Stop(), Ping(), Resume("t", 0)]


def session(limits: Limits | None = None) -> Session:
    return Session(BACKEND, limits or Limits())


def started(config: SessionConfig | None = None, limits: Limits | None = None) -> Session:
    new = session(limits)
    new.receive_command(Start(config or SessionConfig()))
    events(new)
    return new


def events(of: Session) -> list[Event]:
    collected = []
    while (item := of.outbox.pop()) is not None:
        collected.append(item[1])
    return collected


def in_state(state: State) -> Session:
    new = session()
    new.state = state
    return new


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_outside_its_states_is_refused_and_changes_nothing(state: State, command: Command) -> None:
    if type(command) in TRANSITIONS[state]:
        return
    new = in_state(state)
    with pytest.raises(errors.ClientFault):
        new.receive_command(command)
    assert new.state is state
    assert events(new) == []


def test_start_is_answered_with_ready() -> None:
    new = session()
    new.receive_command(START)
    assert events(new) == [Ready(BACKEND, SessionConfig(), Limits())]


def test_a_second_start_is_refused_unless_the_first_was_implicit() -> None:
    new = session()
    new.receive_command(Start(SessionConfig(), implicit=True))
    chosen = SessionConfig(partials=False)
    new.receive_command(Start(chosen))
    assert new.config == chosen
    with pytest.raises(errors.BadMessage):
        new.receive_command(START)


def test_no_start_replaces_another_once_audio_was_accepted() -> None:
    new = session()
    new.receive_command(Start(SessionConfig(), implicit=True))
    new.audio_accepted(10, 0)
    with pytest.raises(errors.BadMessage):
        new.receive_command(START)


def test_ping_is_answered_in_every_open_state() -> None:
    for state in (State.NEW, State.STREAMING, State.DRAINING):
        new = in_state(state)
        new.receive_command(Ping())
        assert events(new) == [Pong()]


def test_audio_is_acknowledged_once_a_second_and_at_the_end() -> None:
    new = started()
    for _ in range(15):
        new.audio_accepted(RATE // 10, 0)
    assert events(new) == [Ack(RATE)]
    new.receive_command(Stop())
    new.receive_engine_end()
    assert events(new) == [Ack(RATE * 3 // 2), Done(RATE * 3 // 2, 0, "")]
    assert new.state is State.CLOSED


def test_partials_are_kept_back_when_not_wanted() -> None:
    new = started(SessionConfig(partials=False))
    new.receive_hypothesis(Hypothesis("a", is_final=False))
    new.receive_hypothesis(Hypothesis("a b", is_final=True, words=(Word("a", 0, 10), Word("b", 10, 20))))
    kinds = [type(event) for event in events(new)]
    assert Partial not in kinds
    assert Final in kinds


def test_a_session_may_not_be_longer_than_its_limit() -> None:
    new = started(limits=Limits(max_session_s=2))
    new.audio_accepted(2 * RATE, 0)
    with pytest.raises(errors.SessionTooLong):
        new.audio_accepted(RATE, 0)


def test_lag_is_announced_once_then_ends_the_session() -> None:
    new = started(limits=Limits(lag_warn_s=5, lag_limit_s=10))
    for lag_s in (1, 6, 7):
        new.audio_accepted(RATE, lag_s * RATE)
    assert [event.code for event in events(new) if isinstance(event, Notice)] == ["lagging"]
    with pytest.raises(errors.LagExceeded):
        new.audio_accepted(RATE, 11 * RATE)


def test_a_failure_is_told_with_its_code_and_advice() -> None:
    new = started()
    new.receive_failure(errors.EngineFull("full", retry_after=2))
    assert events(new) == [Failed("engine_full", "full", retryable=True, retry_after_s=2)]
    assert new.state is State.CLOSED


def test_a_client_that_is_back_hears_what_it_missed_then_where_to_go_on() -> None:
    new = Session(BACKEND, Limits(), ResumeOffer("t", 30))
    new.receive_command(START)
    new.audio_accepted(RATE, 0)
    events(new)
    new.receive_resume(1, 8000)
    assert events(new) == [
        Ack(RATE),
        Ready(BACKEND, SessionConfig(), Limits(), ResumeOffer("t", 30), received=8000),
    ]


def test_a_session_that_is_over_has_nothing_to_go_on_with() -> None:
    new = started()
    new.receive_command(Stop())
    new.receive_engine_end()
    new.receive_resume(1, 0)
    assert events(new) == [Done(0, 0, "")]


def test_too_much_missed_is_not_pretended_to_be_there() -> None:
    with pytest.raises(errors.ResumeUnknown):
        started().receive_resume(9, 0)


def test_a_session_goes_on_from_its_snapshot() -> None:
    new = started(SessionConfig(partials=False))
    new.audio_accepted(RATE, 0)
    new.receive_hypothesis(Hypothesis("a", is_final=True, words=(Word("a", 0, 10),)))
    other = Session.restored(new.snapshot(), BACKEND, Limits(), None)
    other.receive_hypothesis(Hypothesis("a", is_final=True, words=(Word("a", 0, 10),)))  # said again
    other.receive_hypothesis(Hypothesis("b", is_final=True, words=(Word("b", 20, 30),)))
    assert [event.segment for event in events(other) if isinstance(event, Final)] == [1]
    assert (other.accepted, other.config, other.text) == (RATE, new.config, "a b")
