"""JWTs of an identity provider, as an alternative to API keys.

The algorithms are a list of ours, never the token's choice; ``exp``, ``iss``, ``aud`` and the subject must be
there. Keys come from one PEM or secret, or from a JWKS address that is asked in a thread, within a deadline,
and at most once every few seconds, however many tokens name unknown keys. What was fetched stays good while
the address does not answer.
"""

import asyncio
import math
import time
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from perch.errors import BadConfig, Unauthorized
from perch.server.config import JwtConfig
from perch.server.principal import EVERYDAY, SCOPES, Principal

log = structlog.get_logger(__name__)

_HMAC = frozenset({"HS256", "HS384", "HS512"})
_PUBLIC_KEY = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_HMAC_BYTES = 32
_MAX_NAME = 128
_MAX_TOKEN = 16_384


def looks_like_jwt(text: str) -> bool:
    """Whether it has the three parts of one."""
    return text.count(".") == 2


class JwtVerifier:
    """Says whom a JWT is about.

    Raises:
        BadConfig: The configuration makes no sense, or no safe one.
    """

    def __init__(self, config: JwtConfig) -> None:
        self._config = config
        if bool(config.key) == bool(config.jwks_url):
            raise BadConfig("JWTs need either PERCH_JWT_KEY or PERCH_JWT_JWKS_URL.")
        if not config.issuer or not config.audience:
            raise BadConfig("JWTs need PERCH_JWT_ISSUER and PERCH_JWT_AUDIENCE.")
        if config.jwks_url and not _is_trustworthy(config.jwks_url):
            raise BadConfig("PERCH_JWT_JWKS_URL must begin with https:// (http:// only on this machine).")
        _check_algorithms(config)
        self._key = _prepared(config.key)
        self._jwks = _Jwks(config) if config.jwks_url else None

    async def verify(self, token: str) -> Principal:
        """Whom ``token`` is about.

        Raises:
            Unauthorized: It is not valid here; the message says why, for its holder to correct.
        """
        if len(token) > _MAX_TOKEN or not token.isascii():
            raise Unauthorized("The JWT is too long, or no JWT.")
        try:
            key = self._key if self._jwks is None else await self._jwks.key(_key_id(token))
            claims = self._claims(token, key)
        except jwt.PyJWTError as error:
            raise Unauthorized(f"The JWT is not valid here: {_reason(error)}.") from error
        return self._principal(claims)

    def _claims(self, token: str, key: Any) -> dict[str, Any]:
        config = self._config
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(config.algorithms),
            audience=config.audience,
            issuer=config.issuer,
            leeway=config.leeway_s,
            options={
                "require": ["exp", "iss", "aud", config.subject_claim],
                "enforce_minimum_key_length": True,
            },
        )
        return claims

    def _principal(self, claims: dict[str, Any]) -> Principal:
        subject = claims[self._config.subject_claim]
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_NAME:
            raise Unauthorized(f"The JWT's {self._config.subject_claim!r} must be a short text.")
        return Principal(f"jwt:{subject}", scopes_of(claims.get(self._config.scope_claim)), source="jwt")


def scopes_of(claim: Any) -> frozenset[str]:
    """Our scopes in a claim: a list, or words in a text, each with ``perch:`` before it or without.

    A token that says nothing of scopes is for everyday use; one that does is taken at its word.
    """
    if claim is None:
        return EVERYDAY
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(str(word).removeprefix("perch:") for word in words) & frozenset(SCOPES)


class _Jwks:
    """The keys behind a URL."""

    def __init__(self, config: JwtConfig) -> None:
        self._config = config
        self._client = jwt.PyJWKClient(config.jwks_url, cache_jwk_set=False, timeout=config.fetch_timeout_s)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = -math.inf
        self._lock = asyncio.Lock()

    async def key(self, key_id: str) -> jwt.PyJWK:
        """The key of that name.

        Raises:
            Unauthorized: There is none.
        """
        if not self._is_good(key_id):
            async with self._lock:
                if not self._is_good(key_id) and time.monotonic() - self._tried >= self._config.refresh_s:
                    await self._fetch()
        if key_id not in self._keys:
            raise Unauthorized("The JWT is signed with a key that its issuer does not list.")
        return self._keys[key_id]

    def _is_good(self, key_id: str) -> bool:
        return key_id in self._keys and time.monotonic() - self._fetched < self._config.cache_s

    async def _fetch(self) -> None:
        self._tried = time.monotonic()
        try:
            async with asyncio.timeout(self._config.fetch_timeout_s):
                listed = await asyncio.to_thread(self._client.get_signing_keys)
        except (TimeoutError, OSError, ValueError, jwt.PyJWTError) as error:
            log.warning("jwks_not_fetched", problem=str(error), kept=len(self._keys))
            return
        self._keys = {key.key_id: key for key in listed if key.key_id}
        self._fetched = time.monotonic()


def _is_trustworthy(url: str) -> bool:
    """Whoever can change what the address answers can let anybody in."""
    parts = urlsplit(url)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    return parts.scheme == "https" or (parts.scheme == "http" and local)


def _check_algorithms(config: JwtConfig) -> None:
    algorithms = set(config.algorithms)
    if unknown := sorted(algorithms - _HMAC - _PUBLIC_KEY):
        raise BadConfig(f"PERCH_JWT_ALGORITHMS: {', '.join(unknown)} cannot be used.")
    is_secret = bool(config.key) and not _is_pem(config.key)
    wrong = sorted(algorithms - (_HMAC if is_secret else _PUBLIC_KEY))
    if wrong or not algorithms:
        kind = "a secret (HS256 …)" if is_secret else "public keys (RS256, ES256, EdDSA …)"
        raise BadConfig(f"PERCH_JWT_ALGORITHMS: {', '.join(wrong) or 'none'} does not go with {kind}.")
    if is_secret and len(config.key.encode()) < _HMAC_BYTES:
        raise BadConfig(f"PERCH_JWT_KEY: a secret needs at least {_HMAC_BYTES} bytes.")


def _prepared(key: str) -> Any:
    """The key in the form that is quickest to check with: a PEM is parsed once."""
    if not _is_pem(key):
        return key
    try:
        return load_pem_public_key(key.encode())
    except ValueError as error:
        raise BadConfig("PERCH_JWT_KEY is not a public key in PEM.") from error


def _is_pem(key: str) -> bool:
    return key.lstrip().startswith("-----BEGIN")


def _key_id(token: str) -> str:
    key_id = jwt.get_unverified_header(token).get("kid")
    if not isinstance(key_id, str):
        raise Unauthorized("The JWT does not name the key it is signed with (kid).")
    return key_id


def _reason(error: jwt.PyJWTError) -> str:
    reasons = {
        jwt.ExpiredSignatureError: "it has expired",
        jwt.InvalidAudienceError: "it is for another audience",
        jwt.InvalidIssuerError: "it is from another issuer",
        jwt.ImmatureSignatureError: "its time has not come yet",
        jwt.InvalidAlgorithmError: "its algorithm is not allowed",
        jwt.InvalidSignatureError: "its signature is wrong",
    }
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no {error.claim!r}"
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "it cannot be read")
