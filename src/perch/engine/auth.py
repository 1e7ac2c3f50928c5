"""An optional shared key, as NVIDIA's clients send it: ``authorization: Bearer <key>``."""

import hmac
from collections.abc import Iterable

from perch.errors import Unauthorized

Metadata = Iterable[tuple[str, str | bytes]]


def check_key(metadata: Metadata, key: str | None) -> None:
    """Require ``key`` in the call's metadata, unless it is None.

    ``riva.client`` sends every header twice over TLS, as metadata and as call credentials, so any one
    that fits will do.

    Raises:
        Unauthorized: No authorization header carries the key.
    """
    if key is None:
        return
    wanted = f"Bearer {key}".encode()
    given = [_as_bytes(value) for name, value in metadata if name == "authorization"]
    if not any(hmac.compare_digest(value, wanted) for value in given):
        raise Unauthorized("This engine wants its key as metadata: authorization: Bearer <key>.")


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
