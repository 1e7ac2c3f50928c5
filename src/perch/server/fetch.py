"""Recordings at an address that a caller names, without being led into our own network.

Only where an operator allows it. The name is looked up once, every address it has must be a public one, and the
connection goes to those addresses, whatever the name says a moment later. Redirects are followed one by one
under the same rules.
"""

import asyncio
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from perch import errors
from perch.server.config import FetchConfig
from perch.server.uploads import Upload

_IN_MEMORY = 1 << 20
_CHUNK = 1 << 16
_MAX_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Every address of a host, as text."""


async def look_up(host: str, port: int) -> list[str]:
    """What the system's resolver knows."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: Address) -> bool:
    """Whether ``address`` leads out of our own network, however it is written."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that traffic to ``address`` may be translated or tunnelled to."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches by the rules of ``config``; the rest is there for tests to lead it to their own machine."""

    config: FetchConfig
    look_up: Lookup = look_up
    tls: ssl.SSLContext | None = None
    is_allowed: Callable[[Address], bool] = field(default=is_public)

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[Upload]:
        """The file at ``url``, while the block runs.

        Raises:
            UrlRefused: It may not be fetched; says why.
            UrlFailed: It cannot be fetched.
            MessageTooBig: It has more bytes than ``config`` allows.
        """
        if not self.config.enabled:
            raise errors.UrlRefused("Recordings are not fetched here; send the recording itself.")
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
            try:
                async with asyncio.timeout(self.config.deadline_s):
                    upload = await self._follow(url, cast("BinaryIO", file))
            except TimeoutError as error:
                raise errors.UrlFailed(
                    f"The recording did not come within {self.config.deadline_s:g} s."
                ) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise errors.UrlFailed("The recording could not be fetched from there.") from error
            file.seek(0)
            yield upload

    async def _follow(self, url: str, file: BinaryIO) -> Upload:
        for _ in range(_MAX_REDIRECTS + 1):
            target = _checked(url, self.config)
            addresses = await self._addresses(target)
            connector = aiohttp.TCPConnector(
                resolver=_Pinned(addresses), ssl=self.tls or True, use_dns_cache=False
            )
            async with (
                aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as session,
                session.get(target, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS:
                    url = str(target.join(URL(response.headers.get("Location", ""))))
                    continue
                if response.status != 200:
                    raise errors.UrlFailed(f"The recording could not be fetched: status {response.status}.")
                return await self._read(response, file)
        raise errors.UrlFailed(f"The address redirects more than {_MAX_REDIRECTS} times.")

    async def _addresses(self, url: URL) -> list[str]:
        """Where ``url`` may be fetched from.

        Raises:
            UrlRefused: One of the addresses is in a network that is not for callers.
        """
        host = url.host or ""
        try:
            found = [ipaddress.ip_address(host)]
        except ValueError:
            found = [ipaddress.ip_address(address) for address in await self.look_up(host, url.port or 443)]
        if not found or not all(map(self.is_allowed, found)):
            raise errors.UrlRefused("That address is in a network that recordings are not fetched from.")
        return [str(address) for address in found]

    async def _read(self, response: aiohttp.ClientResponse, file: BinaryIO) -> Upload:
        upload, digest = Upload(file), hashlib.sha256()
        async for chunk in response.content.iter_chunked(_CHUNK):
            upload.size += len(chunk)
            if upload.size > self.config.max_bytes:
                raise errors.MessageTooBig(f"The recording has more than {self.config.max_bytes >> 20} MiB.")
            digest.update(chunk)
            file.write(chunk)
        upload.sha256 = digest.hexdigest()
        return upload


def _checked(url: str, config: FetchConfig) -> URL:
    target = URL(url)
    if target.scheme != "https":
        raise errors.UrlRefused("Recordings are fetched over https only.")
    if not target.host or target.user or target.password:
        raise errors.UrlRefused("The address must have a host and no user name.")
    if config.hosts and target.host.lower() not in config.hosts:
        raise errors.UrlRefused(f"Recordings are not fetched from {target.host[:80]}.")
    return target


class _Pinned(AbstractResolver):
    """Answers with addresses that were looked up and checked before."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """It holds nothing."""
