"""Whether a port can be listened on, found out before what takes long."""

import errno
import socket
from typing import Any

_CERTAIN = {errno.EADDRINUSE, errno.EACCES}
"""What else may be wrong, the server itself finds, which may do with some of a name's addresses."""


def try_port(host: str, port: int, *, shared: bool = False) -> None:
    """A port that is taken is told now, and not when a large model has been loaded.

    Args:
        host: An address or a name.
        port: 0 is always free.
        shared: Other processes may listen there too, if they do it with SO_REUSEPORT.

    Raises:
        OSError: It cannot be listened on.
    """
    if not port:
        return
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            _try(family, address, shared=shared)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _try(family: int, address: Any, *, shared: bool) -> None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:  # as the gateway does: who listens on IPv4 is not in its way
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in _CERTAIN:
            raise
