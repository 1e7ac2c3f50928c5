"""The gateway's certificate: the operator's own, or a self-signed one made on the first run."""

import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perch.server.config import TlsConfig

_DAYS = 397


def server_context(config: TlsConfig, state_dir: Path, host: str) -> tuple[ssl.SSLContext, Path | None]:
    """The TLS context to serve with, and the self-signed certificate's path if that is what it uses.

    Raises:
        ValueError: Only one of certificate and key is set.
        OSError, ssl.SSLError: A file cannot be used.
    """
    if bool(config.cert) != bool(config.key):
        raise ValueError("PERCH_TLS_CERT and PERCH_TLS_KEY must be set together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.cert is not None and config.key is not None:
        context.load_cert_chain(config.cert, config.key)
        return context, None
    cert, key = self_signed(state_dir, host)
    context.load_cert_chain(cert, key)
    return context, cert


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
