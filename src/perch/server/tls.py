"""The gateway's certificate: the operator's own, or a self-signed one made on the first run."""

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perch.server.config import TlsConfig
from perch.server.reload import Stamp, stamp_of

log = structlog.get_logger(__name__)

_DAYS = 397
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secrecy and authenticated encryption only; TLS 1.3 has nothing else anyway."""


def server_context(config: TlsConfig, state_dir: Path, host: str) -> tuple[ssl.SSLContext, Path | None]:
    """The TLS context to serve with, and the self-signed certificate's path if that is what it uses.

    Raises:
        ValueError: Only one of certificate and key is set.
        OSError, ssl.SSLError: A file cannot be used.
    """
    tls, made = server_tls(config, state_dir, host)
    return tls.context, made


def server_tls(config: TlsConfig, state_dir: Path, host: str) -> tuple["ServerTls", Path | None]:
    """TLS that takes new files while it serves, and the self-signed certificate's path if it uses one.

    Raises:
        ValueError: Only one of certificate and key is set.
        OSError, ssl.SSLError: A file cannot be used.
    """
    if bool(config.cert) != bool(config.key):
        raise ValueError("PERCH_TLS_CERT and PERCH_TLS_KEY must be set together")
    if config.cert is not None and config.key is not None:
        return ServerTls(config.cert, config.key, config), None
    cert, key = self_signed(state_dir, host)
    return ServerTls(cert, key, config), cert


class ServerTls:
    """One context for the life of the process; connections made after a reload see the new certificate.

    Raises:
        OSError, ssl.SSLError: A file cannot be used.
    """

    def __init__(self, cert: Path, key: Path, config: TlsConfig) -> None:
        self._cert, self._key, self._client_ca = cert, key, config.client_ca
        self.context = _new_context(config)
        _load(self.context, cert.read_bytes(), key.read_bytes())

    def stamp(self) -> Stamp:
        return stamp_of(self._cert, self._key, *([self._client_ca] if self._client_ca else []))

    async def reload(self) -> None:
        """Serve with the files as they are now; a pair that is no good changes nothing.

        Client CAs are added this way. One that was removed is trusted until the next start.
        """
        try:
            cert, key = await asyncio.to_thread(_read, self._cert, self._key)
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)  # half a pair would spoil the live one
            _load(self.context, cert, key)
            if self._client_ca is not None:
                self.context.load_verify_locations(self._client_ca)
        except (OSError, ValueError) as error:
            log.error("certificate_not_reloaded", problem=str(error))  # noqa: TRY400 - not a bug
            return
        log.info("certificate_reloaded", cert=str(self._cert), expires=_expiry(cert))


def _new_context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    if config.client_ca is not None:
        context.load_verify_locations(config.client_ca)
        required = config.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _read(cert: Path, key: Path) -> tuple[bytes, bytes]:
    return cert.read_bytes(), key.read_bytes()


def _load(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Give ``context`` this pair: exactly these bytes, which files might not be the next moment."""
    with _in_memory(cert) as cert_path, _in_memory(key) as key_path:
        context.load_cert_chain(cert_path, key_path, password=_no_password)


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path that reads as ``data``; a private key never comes to lie on a disk by this."""
    descriptor = os.memfd_create("perch-tls")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _no_password() -> str:
    raise ValueError("the private key is encrypted; Perch needs one without a password")


def _expiry(pem: bytes) -> str:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.isoformat()


def self_signed(state_dir: Path, host: str) -> tuple[Path, Path]:
    """A certificate for localhost and ``host``, made once and kept in ``state_dir`` until it expires."""
    cert_path, key_path = state_dir / "self-signed.crt", state_dir / "self-signed.key"
    if cert_path.exists() and key_path.exists() and _still_good(cert_path, host):
        return cert_path, key_path
    state_dir.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    cert_path.write_bytes(_certificate(key, host).public_bytes(serialization.Encoding.PEM))
    return cert_path, key_path


def _certificate(key: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "perch self-signed")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    addresses = {"127.0.0.1", "::1"}
    try:
        addresses.add(str(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    return names + [x509.IPAddress(ipaddress.ip_address(address)) for address in sorted(addresses)]


def _still_good(path: Path, host: str) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    wanted = set(_names(host))
    return wanted <= set(names) and certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=7)
