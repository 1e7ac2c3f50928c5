"""The place of one session: counted once, given back once, under the terms of its key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.errors import AtCapacity, RateLimited
from perch.server.admission import Admission, Lease
from perch.server.config import AdmissionConfig

ROOMY = AdmissionConfig(max_sessions=100, max_sessions_per_key=10, max_sessions_per_address=100)


def test_a_key_has_the_smaller_of_its_own_and_the_gateways_limit() -> None:
    admission = Admission(ROOMY)
    first = admission.lease("alice", "a", max_sessions=1)
    with pytest.raises(AtCapacity, match="API key"):
        admission.lease("alice", "b", max_sessions=1)
    admission.lease("bob", "a", max_sessions=1)
    first.release()
    first.release()
    admission.lease("alice", "a", max_sessions=1)
    for _ in range(10):
        admission.lease("carol", "a", max_sessions=50)
    with pytest.raises(AtCapacity):
        admission.lease("carol", "a", max_sessions=50)


def test_a_parked_session_leaves_room_to_come_back_and_not_for_another() -> None:
    admission = Admission(ROOMY)
    parked = admission.lease("alice", "a", max_sessions=1)
    parked.park()
    back = admission.lease("alice", "a", max_sessions=1)
    with pytest.raises(AtCapacity):
        back.confirm()
    parked.release()
    back.confirm()


def test_what_is_spent_goes_to_the_account_of_the_key_and_stays_so_when_handed_on() -> None:
    spent: list[float] = []

    def spend(audio_s: float) -> None:
        spent.append(audio_s)
        if sum(spent) > 2:
            raise RateLimited("too much")

    lease = Admission(ROOMY).lease("alice", "a", spend=spend)
    lease.spend(1.0)
    handed_on = lease.hand_on()
    handed_on.spend(1.0)
    with pytest.raises(RateLimited):
        handed_on.spend(1.0)
    Admission(ROOMY).lease("bob", "b").spend(1e9)


@given(st.lists(st.sampled_from(["lease", "park", "unpark", "release", "hand_on"]), max_size=60))
def test_whatever_happens_to_leases_the_count_ends_at_zero(steps: list[str]) -> None:
    admission = Admission(AdmissionConfig(max_sessions=5))
    leases: list[Lease] = []
    for step in steps:
        if step == "lease" or not leases:
            try:
                leases.append(admission.lease("alice", "a", max_sessions=3))
            except AtCapacity:
                assert admission.active
        elif step == "hand_on":
            leases.append(leases.pop().hand_on())
        else:
            getattr(leases[-1], step)()
    for lease in leases:
        lease.release()
    assert admission.active == 0
    assert not admission._parked
