"""The parts of the HTTP/2 client that do no I/O: frames, messages, headers."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import grpc
import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.asr.http2 import frames
from perch.asr.http2.dial import TlsFiles, target_of
from perch.asr.http2.frames import ConnectionViolation, ErrorCode, FrameParser
from perch.asr.http2.headers import (
    HeaderDecoder,
    request_block,
    status_of_reset,
    status_of_response,
    status_of_trailers,
)
from perch.asr.http2.messages import PREFIX, BadMessages, MessageReader
from perch.riva.status import Status
from raw_frames import raw


def parsed(pieces: Sequence[bytes]) -> tuple[list[frames.Frame], ErrorCode | None]:
    parser, found = FrameParser(), []
    try:
        for piece in pieces:
            for frame in parser.receive(piece):
                found.append(frame)  # noqa: PERF402 - those before the violation count
    except ConnectionViolation as violation:
        return found, violation.code
    return found, None


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


ANY_FRAME = st.builds(raw, st.integers(0, 11), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=40))
LIKELY = st.one_of(
    ANY_FRAME,
    st.builds(raw, st.sampled_from([3, 8]), st.just(0), st.integers(0, 5), st.binary(min_size=4, max_size=4)),
    st.builds(raw, st.sampled_from([6, 7]), st.just(0), st.just(0), st.binary(min_size=8, max_size=8)),
    st.builds(raw, st.just(0), st.sampled_from([0, 1, 8]), st.integers(1, 5), st.binary(max_size=40)),
    st.builds(raw, st.sampled_from([1, 9]), st.sampled_from([0, 4, 5]), st.just(1), st.binary(max_size=40)),
)
CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@given(st.lists(LIKELY, max_size=12).map(b"".join), CUTS)
def test_frames_do_not_depend_on_how_the_bytes_are_cut(data: bytes, places: list[int]) -> None:
    assert parsed(cut(data, places)) == parsed([data])


@given(st.binary(max_size=200), CUTS)
def test_any_bytes_give_frames_or_a_violation(data: bytes, places: list[int]) -> None:
    assert parsed(cut(data, places)) == parsed([data])


def test_padding_is_removed_and_counted() -> None:
    assert parsed([raw(0, 0x9, 1, b"\x02abc\0\0")]) == ([frames.Data(1, b"abc", 6, end=True)], None)


def test_a_header_block_in_pieces_is_given_whole() -> None:
    pieces = raw(1, 0x21, 3, bytes(5) + b"one") + raw(9, 0, 3, b"two") + raw(9, 4, 3, b"three")
    assert parsed([pieces]) == ([frames.Headers(3, b"onetwothree", end=True)], None)


def test_a_long_request_block_is_sent_in_pieces_that_fit() -> None:
    block = bytes(range(256)) * 150
    assert parsed([frames.headers(5, block)]) == ([frames.Headers(5, block, end=False)], None)


def test_what_means_nothing_to_a_client_is_skipped() -> None:
    assert parsed([raw(2, 0, 1, bytes(5)), raw(77, 3, 9, b"??"), frames.PING]) == (
        [frames.Ping(bytes(8))],
        None,
    )


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xff\xff\0\0\0\0\0\1", ErrorCode.FRAME_SIZE_ERROR),
        (raw(0, 0, 0, b""), ErrorCode.PROTOCOL_ERROR),
        (raw(0, 8, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
        (raw(0, 8, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (raw(1, 0, 1, b"") + raw(0, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (raw(1, 0, 1, b"") + raw(9, 4, 3, b""), ErrorCode.PROTOCOL_ERROR),
        (raw(1, 0, 1, b"") + raw(9, 0, 1, b""), ErrorCode.ENHANCE_YOUR_CALM),
        (raw(1, 0, 1, b"x") + raw(9, 0, 1, bytes(16_384)) * 4, ErrorCode.ENHANCE_YOUR_CALM),
        (raw(1, 0x20, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (raw(9, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (raw(3, 0, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (raw(4, 0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (raw(4, 0, 0, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (raw(4, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (raw(5, 4, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (raw(6, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (raw(7, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_a_broken_frame_is_a_violation(data: bytes, code: ErrorCode) -> None:
    assert parsed([data])[1] is code


MESSAGES = st.lists(st.binary(max_size=30), max_size=8)


@given(MESSAGES, CUTS)
def test_messages_do_not_depend_on_how_the_data_is_cut(messages: list[bytes], places: list[int]) -> None:
    data = b"".join(PREFIX.pack(0, len(message)) + message for message in messages)
    reader, found = MessageReader(30), []
    for piece in cut(data, places):
        found += reader.receive(piece)
    assert found == messages
    assert not reader.incomplete


@pytest.mark.parametrize("cut_at", [0, 3, 5, 6])
def test_compressed_and_oversized_messages_are_refused_before_they_are_read(cut_at: int) -> None:
    for prefix, code in (
        (PREFIX.pack(1, 3), grpc.StatusCode.INTERNAL),
        (PREFIX.pack(0, 31), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        reader = MessageReader(30)
        with pytest.raises(BadMessages) as bad:
            _ = [reader.receive(piece) for piece in cut(prefix + b"a", [cut_at])]
        assert bad.value.status.code is code


def test_the_request_block_is_read_alike_by_every_connection_whatever_came_before() -> None:
    metadata = (("Authorization", "Bearer sekret"), ("trace-bin", "\N{SNOWMAN}"), ("function-id", "f"))
    block = request_block(authority="riva:50051", path="/a/B", tls=True, metadata=metadata)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    for _ in range(2):
        fields = dict(decoder.decode(block, raw=True))
        assert fields.pop(b"user-agent").startswith(b"perch/")
        assert fields == {
            b":method": b"POST",
            b":scheme": b"https",
            b":authority": b"riva:50051",
            b":path": b"/a/B",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
            b"authorization": b"Bearer sekret",
            b"trace-bin": b"4piD",
            b"function-id": b"f",
        }


@pytest.mark.parametrize(
    "pair",
    [("two words", "x"), (":path", "x"), ("te", "x"), ("grpc-timeout", "1S"), ("", "x"), ("k", "a\nb")],
)
def test_metadata_that_may_not_be_sent_is_refused_without_showing_its_value(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError) as refused:
        request_block(authority="a", path="/", tls=False, metadata=[pair])
    assert "a\nb" not in str(refused.value)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_header_blocks_give_headers_or_a_violation(blocks: list[bytes]) -> None:
    decoder = HeaderDecoder()
    with suppress(ConnectionViolation):
        for block in blocks:
            fields = decoder.decode(block)
            status_of_trailers(fields)
            status_of_response(fields)


def test_a_status_message_is_percent_decoded_and_bad_text_is_no_error() -> None:
    trailers = {b"grpc-status": b"3", b"grpc-message": b"100%25 %E2%98%83 %zz %ff"}
    assert status_of_trailers(trailers) == Status(
        grpc.StatusCode.INVALID_ARGUMENT, "100% \N{SNOWMAN} %zz \N{REPLACEMENT CHARACTER}"
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "UNKNOWN"),
        ({b"grpc-status": b"999"}, "UNKNOWN"),
        ({b"grpc-status": b"x"}, "UNKNOWN"),
        ({b":status": b"200", b"grpc-status": b"8"}, "RESOURCE_EXHAUSTED"),
        ({b":status": b"503", b"content-type": b"text/html"}, "UNAVAILABLE"),
        ({b":status": b"401"}, "UNAUTHENTICATED"),
        ({b":status": b"404"}, "UNIMPLEMENTED"),
        ({b":status": b"200", b"content-type": b"text/html"}, "UNKNOWN"),
    ],
)
def test_the_end_of_a_call_always_has_a_status(fields: dict[bytes, bytes], code: str) -> None:
    assert status_of_trailers(fields).code.name == code


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (7, "UNAVAILABLE"),
        (8, "CANCELLED"),
        (11, "RESOURCE_EXHAUSTED"),
        (12, "PERMISSION_DENIED"),
        (2, "INTERNAL"),
        (5, "UNKNOWN"),
        (99, "INTERNAL"),
    ],
)
def test_a_reset_means_what_grpc_says_it_means(reset: int, code: str) -> None:
    assert status_of_reset(reset).code.name == code


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("riva:50051", ("riva", 50051)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:50051", ("::1", 50051)),
        ("[::1]", ("::1", 443)),
        ("grpc.nvcf.nvidia.com", ("grpc.nvcf.nvidia.com", 443)),
        ("dns:///riva:50051", ("riva", 50051)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    target = target_of(address)
    assert (target.host, target.port) == expected


@pytest.mark.parametrize("address", ["", ":1", "riva:port", "::1:50051", "riva:70000"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        target_of(address)


def test_the_name_of_a_server_may_be_another_than_its_hosts() -> None:
    target = target_of("10.0.0.1:50051", tls=TlsFiles(), server_name="riva.example")
    assert (target.server_name, target.authority) == ("riva.example", "riva.example")
