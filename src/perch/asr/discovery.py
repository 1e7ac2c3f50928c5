"""Names of engines → their addresses, looked up again and again: replicas come and go behind one name.

An endpoint is written ``host:port``, which gRPC resolves by itself and connects to once, or
``dns:host:port``, which is every address the name has, each an endpoint of its own.
"""

import asyncio
import socket
from collections.abc import Sequence

DNS = "dns:"


def is_dynamic(endpoint: str) -> bool:
    """Whether ``endpoint`` must be looked up again."""
    return endpoint.startswith(DNS)


def initial(endpoints: Sequence[str]) -> dict[str, str]:
    """What can be used before any look-up: each address, and the host its certificate names."""
    plain = [endpoint.removeprefix(DNS) for endpoint in endpoints]
    return {address: _host(address) for address in plain}


async def resolve(endpoints: Sequence[str], timeout_s: float) -> dict[str, str]:
    """The addresses of ``endpoints`` now, in order, and the host each one's certificate names.

    Raises:
        OSError: A name cannot be looked up; what was known before is better than nothing.
    """
    found: dict[str, str] = {}
    for endpoint in endpoints:
        plain = endpoint.removeprefix(DNS)
        host = _host(plain)
        if is_dynamic(endpoint):
            port = int(plain.rpartition(":")[2])
            found |= dict.fromkeys(await _addresses(host, port, timeout_s), host)
        else:
            found[plain] = host
    return found


async def _addresses(host: str, port: int, timeout_s: float) -> list[str]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = (info[4][0] for info in infos)
    return sorted(
        {f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}" for address in addresses}
    )


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
