"""Frames out and frames in, in any pieces."""

import pytest

from perch.loadtest.wire import BINARY, LONGEST, TEXT, BadFrame, ServerFrames, client_frame

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_client_frame_unmasks_to_its_payload(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    frame = client_frame(BINARY, payload)
    header = len(frame) - size - 4
    key, masked = frame[header : header + 4], frame[header + 4 :]
    assert frame[0] == 0x82
    assert frame[1] & 0x80, "a client must mask"
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(masked)) == payload


def test_messages_come_out_whole_however_they_come_in() -> None:
    stream = UPGRADED + b"\x81\x02hi" + b"\x81\x7e\x00\x80" + b"x" * 128 + b"\x88\x02\x03\xe8"
    frames, found = ServerFrames(), []
    upgraded = False
    for byte in stream:
        frames.feed(bytes([byte]))
        upgraded = upgraded or frames.answer() is not None
        while upgraded and (message := frames.next()) is not None:
            found.append(message)
    assert found == [(TEXT, b"hi"), (TEXT, b"x" * 128), (8, b"\x03\xe8")]


def test_a_refusal_has_its_code_and_its_hint() -> None:
    body = b'{"error": {"code": "at_capacity"}}'
    frames = ServerFrames()
    frames.feed(b"HTTP/1.1 503 No\r\nRetry-After: 2\r\nContent-Length: %d\r\n\r\n" % len(body))
    assert frames.answer() is None
    frames.feed(body)
    answer = frames.answer()
    assert answer is not None
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "at_capacity", "2")


def test_somebody_elses_refusal_is_called_by_its_status() -> None:
    frames = ServerFrames()
    frames.feed(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno")
    answer = frames.answer()
    assert answer is not None
    assert answer.code == "http_502"


def test_what_is_no_event_is_refused_before_it_is_kept() -> None:
    frames = ServerFrames()
    frames.feed(UPGRADED + b"\x81\x7f" + (LONGEST + 1).to_bytes(8, "big"))
    assert frames.answer() is not None
    with pytest.raises(BadFrame):
        frames.next()
