"""Browser tokens: good for a short while and for one connection, so that no key has to be in a page.

A token is signed JSON, so any process with the same secret can check it. That it is used once is seen to by a
claim on its identifier: a file that only one can make, in the ``state_dir`` the processes of a machine share,
or Redis for several machines. Processes that share the secret and neither of the two would each take it once.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from perch.errors import BadConfig, Unauthorized
from perch.server.principal import ONCE, KeyLimits, Principal
from perch.server.rate import Counts

log = structlog.get_logger(__name__)

PREFIX = "ek_"
"""As OpenAI's: some of its clients look for it."""
MAX_TTL_S = 7200.0
_SECRET_BYTES = 32
_SWEEP_S = 60.0


@dataclass(frozen=True, slots=True)
class BrowserToken:
    """What a page is given instead of a key; ``expires_at`` is in seconds since 1970."""

    value: str
    expires_at: float

    def __repr__(self) -> str:
        return f"BrowserToken(expires_at={self.expires_at})"


class Tokens:
    """Makes tokens and takes each of them once."""

    def __init__(self, secret: bytes, used: "UsedTokens") -> None:
        self._secret = secret
        self._used = used

    def mint(self, principal: Principal, ttl_s: float, now: float) -> BrowserToken:
        """A token that stands for ``principal`` once, and for no more than ``ONCE``.

        Raises:
            BadConfig: That is too long or no time at all.
        """
        if not 0 < ttl_s <= MAX_TTL_S:
            raise BadConfig(f"A token may live from 1 to {MAX_TTL_S:g} seconds.")
        claims = {
            "name": principal.name,
            "source": principal.source,
            "scopes": sorted(principal.scopes & ONCE),
            "limits": asdict(principal.limits),
            "exp": now + ttl_s,
            "jti": secrets.token_hex(16),
        }
        body = _encoded(json.dumps(claims, separators=(",", ":")).encode())
        return BrowserToken(f"{PREFIX}{body}.{self._signature(body)}", now + ttl_s)

    async def redeem(self, token: str, now: float) -> Principal:
        """Whom ``token`` stands for; from now on it stands for nobody.

        Raises:
            Unauthorized: It is not one of ours, too old, or was used before.
        """
        claims = self._checked(token)
        if claims["exp"] <= now:
            raise Unauthorized("The token has expired; ask for a new one.")
        if not await self._used.claim(claims["jti"], claims["exp"], now):
            raise Unauthorized("The token was used before; ask for a new one for each connection.")
        return Principal(
            claims["name"], frozenset(claims["scopes"]), KeyLimits(**claims["limits"]), claims["source"]
        )

    def _checked(self, token: str) -> dict[str, Any]:
        body, _, signature = token.removeprefix(PREFIX).partition(".")
        if not token.isascii() or not hmac.compare_digest(signature.encode(), self._signature(body).encode()):
            raise Unauthorized("The token was not made here.")
        claims: dict[str, Any] = json.loads(_decoded(body))
        return claims

    def _signature(self, body: str) -> str:
        return _encoded(hmac.digest(self._secret, body.encode(), hashlib.sha256))


class UsedTokens:
    """Which tokens were used, until they expire: in Redis if there is one that answers, and in files."""

    def __init__(self, folder: Path, counts: Counts) -> None:
        self._folder = folder
        self._counts = counts
        self._swept = 0.0

    async def claim(self, name: str, expires_at: float, now: float) -> bool:
        """Whether this is the first to use ``name``. Without any place to note that, nobody is.

        Both are asked: what was used while Redis was away is not taken again when it is back.
        """
        first = await asyncio.to_thread(self._claim_file, name, expires_at, now)
        if not first:
            return False
        elsewhere = await self._counts.claim(name, int(expires_at - now) + 1)
        return elsewhere is not False

    def _claim_file(self, name: str, expires_at: float, now: float) -> bool:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if now - self._swept > _SWEEP_S:
                self._swept = now
                _sweep(self._folder, now)
            with (self._folder / f"{name}.{int(expires_at) + 1}").open("x"):
                return True
        except FileExistsError:
            return False
        except OSError as error:
            log.error("token_not_noted", problem=str(error))  # noqa: TRY400 - a full disk, not a bug
            return False


def token_secret(configured: str, state_dir: Path) -> bytes:
    """The secret that signs tokens: the configured one, or one the processes of this machine share.

    Raises:
        BadConfig: It is too short, or there is nowhere to keep one.
    """
    if configured:
        if len(configured.encode()) < _SECRET_BYTES:
            raise BadConfig(f"PERCH_TOKEN_KEY needs at least {_SECRET_BYTES} bytes.")
        return configured.encode()
    path = state_dir / "token-secret"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        secret = _kept(path) or _made(path)
    except OSError as error:
        log.warning("token_secret_not_shared", problem=str(error))
        return secrets.token_bytes(_SECRET_BYTES)
    return secret


def _kept(path: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        secret = path.read_bytes()
        return secret if len(secret) >= _SECRET_BYTES else None
    return None


def _made(path: Path) -> bytes:
    """A new secret, or the one that another process has put there meanwhile."""
    temporary = path.with_name(f".token-secret.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        with suppress(FileExistsError):
            os.link(temporary, path)  # like open("x"), and never seen half written
    finally:
        temporary.unlink()
    return path.read_bytes()


def narrowed(principal: Principal, current: Principal) -> Principal:
    """The holder of a token as its key is now: what the key may no longer do, the token may not either."""
    return replace(current, scopes=principal.scopes & current.scopes)


def _sweep(folder: Path, now: float) -> None:
    for path in _expired(folder.iterdir(), now):
        path.unlink(missing_ok=True)


def _expired(paths: Iterable[Path], now: float) -> list[Path]:
    return [path for path in paths if (end := path.suffix[1:]).isdigit() and int(end) < now]


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
