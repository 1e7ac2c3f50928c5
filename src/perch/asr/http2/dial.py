"""Where a server is and how its connections are made: addresses and TLS."""

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from perch import errors

_DEFAULT_PORT = 443


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What secures a connection. Without ``root_cert`` the system's authorities are trusted."""

    root_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and how to reach it."""

    host: str
    port: int
    authority: str
    """What the server is called in requests."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str = ""
    """The name its certificate must bear; for TLS only."""


def target_of(address: str, *, tls: TlsFiles | None = None, server_name: str = "") -> Target:
    """The server at ``address``, which is ``host:port``; an IPv6 address stands in brackets.

    Raises:
        ValueError: ``address`` is none, or the files of ``tls`` do not make sense.
    """
    host, port = _host_and_port(address.removeprefix("dns:///").removeprefix("dns:"))
    context = None if tls is None else _context(tls)
    return Target(host, port, server_name or address, context, server_name or host)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or "]" in port:
        host, port = address, str(_DEFAULT_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r} is not host:port; an IPv6 address needs brackets")
    if not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


def _context(files: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.root_cert)
        # Strict checks (the default from Python 3.13 on) refuse the certificates many private authorities
        # issue, which gRPC everywhere else accepts.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.set_alpn_protocols(["h2"])
        if files.client_cert is not None:
            # An encrypted key must fail, not ask on the terminal.
            context.load_cert_chain(files.client_cert, files.client_key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"the TLS files for the speech engine cannot be used ({error})") from error
    return context


async def dial(target: Target, protocol: asyncio.Protocol) -> None:
    """Connect ``protocol`` to ``target``. TCP_NODELAY is set by the loop.

    Raises:
        EngineUnavailable: It could not be connected.
    """
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: protocol,
            target.host,
            target.port,
            ssl=target.tls,
            server_hostname=target.server_name if target.tls is not None else None,
        )
    except (OSError, ValueError) as error:  # a ValueError: no name a resolver takes
        raise errors.EngineUnavailable(f"cannot connect to {target.host}: {error}") from error
