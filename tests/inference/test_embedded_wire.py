"""The frames between voices and workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.core.speech import Word
from perch.errors import EngineFailed
from perch.inference import embedded_wire as wire
from perch.inference.recogniser import Recognition


@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 20))
def test_frames_survive_any_chunking(bodies: list[bytes], size: int) -> None:
    stream = b"".join(wire.frame(wire.FEED, body) for body in bodies)
    deframer = wire.Deframer()
    found = [frame for at in range(0, len(stream), size) for frame in deframer.feed(stream[at : at + size])]
    assert found == [(wire.FEED, body) for body in bodies]


def test_an_impossible_length_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(EngineFailed):
        list(wire.Deframer().feed(b"A" + (wire.MAX_BODY + 1).to_bytes(4, "little")))


def test_a_recognition_survives_the_wire() -> None:
    spoken = Recognition("go naïve", (Word("go", 0, 160, 0.5), Word("naïve", 160, 320)), 0.25)
    assert wire.unpack(wire.pack(spoken)) == spoken
    assert wire.unpack(wire.pack(Recognition(""))) == Recognition("")
