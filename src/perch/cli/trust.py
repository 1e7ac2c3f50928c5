"""Whose certificates are believed when a verb speaks TLS with a gateway."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from perch.cli.native_client import stream_url

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def client_tls(server: str | None, ca: Path | None, *, insecure: bool) -> ssl.SSLContext:
    """The TLS to speak with ``server``; None is the one that was found on this machine.

    That one may use any certificate: nobody has named it. One that is named by a loopback address may have
    signed its own, if it is the one that lies in this machine's state directory.

    Args:
        server: Its address, as a person writes it.
        ca: Who may sign its certificate (PEM); None leaves it to the system.
        insecure: Whether any certificate will do.

    Raises:
        OSError: ``ca`` cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    if insecure or (server is None and ca is None):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None and server is not None and urlsplit(stream_url(server)).hostname in _LOOPBACK:
        _trust_own(context)
    return context


def _trust_own(context: ssl.SSLContext) -> None:
    from perch import settings

    certificate = settings.state_dir() / "self-signed.crt"
    if certificate.is_file():
        context.load_verify_locations(certificate)
