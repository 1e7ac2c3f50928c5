"""Headers of a gRPC call over HTTP/2: the request's as a block of bytes, the response's as a status. No I/O.

The block is encoded once per endpoint and sent for every call on every connection. That is sound because it
neither reads nor writes HPACK's dynamic table, and begins by setting the size of that table to zero, which no
limit of a server's can forbid.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

import grpc
import hpack

from perch import __version__
from perch.asr.http2.frames import MAX_HEADER_BLOCK, ConnectionViolation, ErrorCode
from perch.riva.status import Status

_NO_DYNAMIC_TABLE = b"\x20"
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_OURS = {"te", "content-type", "user-agent", "host", "connection"}

Metadata = Sequence[tuple[str, str]]

_STATUS_OF_HTTP: Mapping[bytes, grpc.StatusCode] = {
    b"400": grpc.StatusCode.INTERNAL,
    b"401": grpc.StatusCode.UNAUTHENTICATED,
    b"403": grpc.StatusCode.PERMISSION_DENIED,
    b"404": grpc.StatusCode.UNIMPLEMENTED,
    b"429": grpc.StatusCode.UNAVAILABLE,
    b"502": grpc.StatusCode.UNAVAILABLE,
    b"503": grpc.StatusCode.UNAVAILABLE,
    b"504": grpc.StatusCode.UNAVAILABLE,
}
_STATUS_OF_RESET: Mapping[int, grpc.StatusCode] = {
    ErrorCode.STREAM_CLOSED: grpc.StatusCode.UNKNOWN,
    ErrorCode.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}
_BY_NUMBER: Mapping[bytes, grpc.StatusCode] = {str(c.value[0]).encode(): c for c in grpc.StatusCode}


def request_block(*, authority: str, path: str, tls: bool, metadata: Metadata = ()) -> bytes:
    """The encoded headers of a call.

    Raises:
        ValueError: Some of ``metadata`` may not be sent; says which, without its value.
    """
    fields = [
        (":method", "POST"),
        (":scheme", "https" if tls else "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", f"perch/{__version__}"),
        *(_checked(key.lower(), value) for key, value in metadata),
    ]
    never_indexed = [hpack.NeverIndexedHeaderTuple(key.encode(), value.encode()) for key, value in fields]
    return _NO_DYNAMIC_TABLE + hpack.Encoder().encode(never_indexed)


def metadata_block(metadata: Metadata) -> bytes:
    """What one call adds to the block of all calls; raises as ``request_block``."""
    if not metadata:
        return b""
    fields = (_checked(key.lower(), value) for key, value in metadata)
    return hpack.Encoder().encode(
        [hpack.NeverIndexedHeaderTuple(key.encode(), value.encode()) for key, value in fields]
    )


def _checked(key: str, value: str) -> tuple[str, str]:
    if not _KEY.fullmatch(key) or key in _OURS or key.startswith("grpc-"):
        raise ValueError(f"{key!r} is no name for gRPC metadata")
    if key.endswith("-bin"):
        return key, base64.b64encode(value.encode()).decode().rstrip("=")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"the value of the gRPC metadata {key!r} is not printable ASCII")
    return key, value


class HeaderDecoder:
    """Decodes the header blocks of one connection, all of them and in order."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BLOCK)

    def decode(self, block: bytes) -> dict[bytes, bytes]:
        """The last value of each header.

        Raises:
            ConnectionViolation: ``block`` is not HPACK.
        """
        try:
            return dict(self._decoder.decode(block, raw=True))
        except hpack.HPACKError as error:
            raise ConnectionViolation(ErrorCode.COMPRESSION_ERROR, "headers cannot be decoded") from error


def is_informational(fields: Mapping[bytes, bytes]) -> bool:
    """Whether the response proper is still to come."""
    return fields.get(b":status", b"").startswith(b"1")


def status_of_response(fields: Mapping[bytes, bytes]) -> Status | None:
    """What is wrong with the response headers; None if messages may follow."""
    http = fields.get(b":status", b"")
    if http != b"200":
        code = _STATUS_OF_HTTP.get(http, grpc.StatusCode.UNKNOWN)
        return Status(code, f"the server answered with HTTP status {_text(http) or 'missing'}")
    kind = fields.get(b"content-type", b"")
    if not kind.startswith(b"application/grpc"):
        return Status(grpc.StatusCode.UNKNOWN, f"the server answered with {_text(kind) or 'no content type'}")
    return None


def status_of_trailers(fields: Mapping[bytes, bytes]) -> Status:
    """How the call ended."""
    number = fields.get(b"grpc-status")
    if number is None:
        missing = Status(grpc.StatusCode.UNKNOWN, "the server ended the call without a status")
        return (status_of_response(fields) or missing) if b":status" in fields else missing
    details = unquote_to_bytes(fields.get(b"grpc-message", b"")).decode(errors="replace")
    return Status(_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN), details)


def status_of_reset(code: int) -> Status:
    """What RST_STREAM means for a call (the table of gRPC over HTTP/2)."""
    return Status(
        _STATUS_OF_RESET.get(code, grpc.StatusCode.INTERNAL), f"the server reset the stream ({code})"
    )


def _text(value: bytes) -> str:
    return value[:100].decode(errors="replace")
