"""Who is calling: API keys from every place a client can put one, and the Origin of pages."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from perch.errors import OriginRefused, Unauthorized

KEY_SUBPROTOCOL = "perch-key."
"""Browsers cannot set headers on a WebSocket; they offer ``perch-key.<key>`` beside ``perch.v1``."""
ANONYMOUS = "anonymous"


class Authenticator:
    """Checks API keys in constant time. With no keys configured everybody is ``anonymous``."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @property
    def required(self) -> bool:
        return bool(self._digests)

    def principal(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """A stable name for the caller that does not reveal its key.

        Raises:
            Unauthorized: A key is needed, and there is none or a wrong one.
        """
        if not self._digests:
            return ANONYMOUS
        key = presented_key(headers, query)
        if key is None:
            raise Unauthorized(
                "An API key is needed: send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY', "
                "?api_key=KEY, or the WebSocket subprotocol 'perch-key.KEY'."
            )
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized("The API key is not known here.")
        return f"key-{digest[:8].hex()}"


def presented_key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The key a request carries, if any."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "token"} and credentials.strip():
        return credentials.strip()
    if "X-API-Key" in headers:
        return headers["X-API-Key"]
    for offered in headers.get("Sec-WebSocket-Protocol", "").split(","):
        if offered.strip().startswith(KEY_SUBPROTOCOL):
            return offered.strip().removeprefix(KEY_SUBPROTOCOL)
    return query.get("api_key")


def check_origin(headers: Mapping[str, str], allowed: Iterable[str]) -> None:
    """Refuse pages of other sites: a browser sends their Origin and its user's network position.

    Raises:
        OriginRefused: The Origin is neither the gateway's own nor in ``allowed``.
    """
    origin = headers.get("Origin")
    if origin is None:
        return
    allowed = set(allowed)
    if "*" in allowed or origin in allowed:
        return
    if urlsplit(origin).netloc.lower() != headers.get("Host", "").lower():
        raise OriginRefused(
            f"Pages of {origin} may not use this gateway; allow it with PERCH_ALLOWED_ORIGINS."
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
