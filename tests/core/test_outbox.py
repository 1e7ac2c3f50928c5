"""Outbox: numbers without gaps, partials that merge, finals that stay."""

from typing import Any

import pytest

from perch.core.messages import Ack, Event, Final, Partial, Pong
from perch.core.outbox import EventsForgotten, Outbox, OutboxFull


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


# --- for a client that comes back --------------------------------------------------------------------


def sent(*events: Event, **bounds: Any) -> Outbox:
    outbox = Outbox(**bounds)
    for event in events:
        outbox.push(event)
        outbox.pop()
    return outbox


def test_what_was_missed_is_sent_again_with_its_numbers_before_anything_new() -> None:
    outbox = sent(final(0), final(1), final(2))
    outbox.push(final(3))
    outbox.resume_after(1)
    assert everything(outbox) == [(2, final(1)), (3, final(2)), (4, final(3))]


def test_what_a_later_event_replaced_is_not_sent_again() -> None:
    outbox = sent(partial(0, "a"), Ack(1), partial(0, "a b"), Ack(2), final(0), partial(1, "c"))
    outbox.resume_after(0)
    assert everything(outbox) == [(4, Ack(2)), (5, final(0)), (6, partial(1, "c"))]


def test_what_belongs_to_one_socket_is_not_sent_on_another() -> None:
    outbox = sent(Pong(), final(0))
    outbox.push(Pong())
    outbox.resume_after(0)
    assert everything(outbox) == [(2, final(0))]


@pytest.mark.parametrize("bounds", [{"max_sent": 2}, {"max_sent_bytes": 450}])
def test_memory_of_what_was_sent_is_bounded_and_what_is_gone_is_not_pretended(bounds: dict[str, int]) -> None:
    outbox = sent(final(0), final(1), final(2), **bounds)
    outbox.resume_after(1)
    assert everything(outbox) == [(2, final(1)), (3, final(2))]
    with pytest.raises(EventsForgotten):
        outbox.resume_after(0)


def test_a_client_cannot_have_more_than_was_sent() -> None:
    with pytest.raises(EventsForgotten):
        sent(final(0)).resume_after(2)


def test_another_outbox_goes_on_after_what_was_sent_and_what_waited() -> None:
    outbox = sent(final(0))
    outbox.push(final(1))
    successor = Outbox(sent=outbox.all_sent())
    successor.push(final(2))
    successor.resume_after(1)
    assert everything(successor) == [(2, final(1)), (4, final(2))], "3 was for the goodbye"
