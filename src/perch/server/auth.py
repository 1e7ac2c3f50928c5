"""Who is calling, whatever it shows for itself: an API key, a browser token, a JWT or a certificate."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from perch.errors import Forbidden, OriginRefused, RateLimited, Unauthorized
from perch.server.config import AccessConfig, GatewayConfig
from perch.server.credentials import (
    KEY_SUBPROTOCOL,
    Credentials,
    identities,
    presented,
    strip_credentials,
)
from perch.server.jwt_auth import JwtVerifier, looks_like_jwt
from perch.server.keys import KeyStore
from perch.server.principal import ANONYMOUS, SCOPES, Principal
from perch.server.rate import Counts, RateLimits
from perch.server.reload import Stamp
from perch.server.throttle import FailedAttempts
from perch.server.tokens import PREFIX, BrowserToken, Tokens, UsedTokens, narrowed, token_secret

__all__ = [
    "ANONYMOUS",
    "KEY_SUBPROTOCOL",
    "Authenticator",
    "BrowserToken",
    "Credentials",
    "Principal",
    "check_origin",
    "strip_credentials",
]

_NOBODY = Principal(ANONYMOUS, frozenset(SCOPES) - {"admin"})
_GUESSABLE = 20
"""A key shorter than this may be a word somebody chose."""


class Authenticator:
    """Finds out who is calling and what it may do. With nothing configured everybody is ``anonymous``.

    Raises:
        BadConfig: The configuration cannot be used.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        access: AccessConfig | None = None,
        *,
        state_dir: Path = Path(".perch"),
        takes_certificates: bool = False,
        on_outage: Callable[[], None] = lambda: None,
    ) -> None:
        access = access or AccessConfig()
        self._keys = KeyStore(access.key_store, keys)
        self._jwt = None if access.jwt is None else JwtVerifier(access.jwt)
        self._takes_certificates = takes_certificates
        self._counts = Counts(access.rate, on_outage)
        self._rates = RateLimits(access.rate, self._counts)
        self._failures = FailedAttempts(access.rate.failures_per_min)
        self._tokens = _LazyTokens(access.token_secret, state_dir, self._counts)

    @classmethod
    def of(cls, config: GatewayConfig, on_outage: Callable[[], None] = lambda: None) -> Self:
        """The one a gateway is configured to have; ``on_outage`` hears of each time Redis fails.

        Raises:
            BadConfig: The configuration cannot be used.
        """
        return cls(
            config.api_keys,
            config.access,
            state_dir=config.state_dir,
            takes_certificates=config.tls is not None and config.tls.client_ca is not None,
            on_outage=on_outage,
        )

    @property
    def required(self) -> bool:
        """Whether anybody is asked who it is."""
        return self._keys.is_configured or self._jwt is not None or self._takes_certificates

    async def authenticate(self, credentials: Credentials, scope: str) -> Principal:
        """Who is calling, if it may do what ``scope`` names, now.

        Raises:
            Unauthorized: It does not say who it is, or not so that it can be believed.
            Forbidden: It may not do that.
            RateLimited: It, or its address, has to wait.
            AtCapacity: Its limits cannot be checked.
        """
        principal = await self._identified(credentials) if self.required else _NOBODY
        if scope not in principal.scopes:
            raise Forbidden(f"These credentials do not allow {scope!r}; use some that do.")
        await self._rates.request(principal)
        if scope == "transcribe":
            await self._rates.admit(principal)
        return principal

    def mint(self, principal: Principal, ttl_s: float) -> BrowserToken:
        """A token that stands for ``principal`` on one connection. The caller needs the scope ``tokens``.

        Raises:
            BadConfig: ``ttl_s`` is not between 0 and two hours.
        """
        return self._tokens.get().mint(principal, ttl_s, time.time())

    def spend(self, principal: Principal, audio_s: float) -> None:
        """Count audio of an open session, without waiting.

        Raises:
            RateLimited: There was too much within a minute.
        """
        self._rates.spend(principal, audio_s)

    async def aclose(self) -> None:
        await self._rates.aclose()
        await self._counts.aclose()

    # --- its files -----------------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        return self._keys.stamp()

    async def reload(self) -> None:
        """Take the key file as it is now; whoever is in a session stays there."""
        await self._keys.reload()

    # --- who it is -----------------------------------------------------------------------------------

    async def _identified(self, credentials: Credentials) -> Principal:
        shown = presented(credentials)
        try:
            if shown is not None:
                principal = await self._holder(shown)
            else:
                principal = self._of_certificate(credentials.peer_certificate)
        except Unauthorized:
            if shown is not None:
                now = time.monotonic()
                self._refuse_throttled(credentials.address, now)
                self._failures.add(credentials.address, now)
            raise
        if shown is not None and len(shown) < _GUESSABLE:
            # A long key is let in even then: one bad client behind a proxy must not lock the others out.
            self._refuse_throttled(credentials.address, time.monotonic())
        return principal

    async def _holder(self, shown: str) -> Principal:
        found = self._keys.ring.find(shown, datetime.now(UTC))
        if found is not None:
            return found
        if shown.startswith(PREFIX):
            return self._current(await self._tokens.get().redeem(shown, time.time()))
        if self._jwt is not None and looks_like_jwt(shown):
            return await self._jwt.verify(shown)
        raise Unauthorized("The API key is not known here.")

    def _current(self, principal: Principal) -> Principal:
        """A token is worth no more than what it was made with is now."""
        if principal.source == "nobody":
            raise Unauthorized("The token was made while nobody was asked for a key; ask for a new one.")
        if principal.source == "jwt" or ":" in principal.name:
            return principal
        return narrowed(principal, self._keys.ring.current(principal.name, datetime.now(UTC)))

    def _of_certificate(self, certificate: Mapping[str, Any] | None) -> Principal:
        if not self._takes_certificates or not certificate:
            raise Unauthorized(
                "An API key is needed: send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY', "
                "?api_key=KEY, or the WebSocket subprotocol 'perch-key.KEY'."
            )
        names = identities(certificate)
        found = self._keys.ring.find_certificate(names, datetime.now(UTC))
        if found is not None:
            return found
        if self._keys.ring.names_certificates or not names:
            raise Unauthorized("The client certificate is valid, and none of its names is known here.")
        return Principal(f"cert:{names[0]}", source="certificate")

    def _refuse_throttled(self, address: str, now: float) -> None:
        wait_s = self._failures.wait_s(address, now)
        if wait_s:
            raise RateLimited("Too many wrong credentials came from this address.", retry_after=wait_s)


class _LazyTokens:
    """Tokens need a secret on disk; most gateways never make one."""

    def __init__(self, secret: str, state_dir: Path, counts: Counts) -> None:
        self._secret = secret
        self._state_dir = state_dir
        self._used = UsedTokens(state_dir / "tokens", counts)
        self._tokens: Tokens | None = None

    def get(self) -> Tokens:
        if self._tokens is None:
            self._tokens = Tokens(token_secret(self._secret, self._state_dir), self._used)
        return self._tokens


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
