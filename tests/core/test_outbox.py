"""Outbox: numbers without gaps, partials that merge, finals that stay."""

import pytest

from perch.core.messages import Ack, Event, Final, Partial, Pong
from perch.core.outbox import Outbox, OutboxFull


def partial(segment: int, text: str) -> Partial:
    return Partial(segment, text, 0, 0)


def final(segment: int) -> Final:
    return Final(segment, "x", 0, 0)


def everything(outbox: Outbox) -> list[tuple[int, Event]]:
    items = []
    while (item := outbox.pop()) is not None:
        items.append(item)
    return items


def test_events_leave_in_order_numbered_from_one() -> None:
    outbox = Outbox()
    outbox.push(Pong())
    outbox.push(final(0))
    assert everything(outbox) == [(1, Pong()), (2, final(0))]


def test_only_the_newest_partial_of_a_segment_waits_and_numbers_have_no_gap() -> None:
    outbox = Outbox()
    for text in "abc":
        outbox.push(partial(0, text))
    outbox.push(Pong())
    assert everything(outbox) == [(1, partial(0, "c")), (2, Pong())]


def test_a_final_takes_the_place_of_its_waiting_partial() -> None:
    outbox = Outbox()
    outbox.push(partial(0, "a"))
    outbox.push(final(0))
    outbox.push(partial(1, "b"))
    assert [event for _, event in everything(outbox)] == [final(0), partial(1, "b")]


def test_acknowledgements_merge() -> None:
    outbox = Outbox()
    outbox.push(Ack(1))
    outbox.push(Ack(2))
    assert everything(outbox) == [(1, Ack(2))]


def test_finals_are_never_dropped_and_too_many_are_an_error() -> None:
    outbox = Outbox(max_events=3)
    for segment in range(3):
        outbox.push(final(segment))
    with pytest.raises(OutboxFull):
        outbox.push(final(3))
    assert [event for _, event in everything(outbox)] == [final(0), final(1), final(2)]
