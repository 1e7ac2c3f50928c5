"""TLS to clients: what is spoken, certificates that change under load, and clients that show their own."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import trustme

from gateways import DEADLINE_S, next_event
from perch.asr.mock import MockASRClient
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.app import build_app
from perch.server.config import AccessConfig, GatewayConfig, TlsConfig
from perch.server.keys import KeyEntry, write_entries
from perch.server.lifecycle import serve
from perch.server.principal import KeyLimits
from perch.server.reload import watching
from perch.server.tls import ServerTls, server_tls
from processes import perch, running


@dataclass
class Served:
    port: int
    tls: ServerTls
    cert: Path
    key: Path

    @property
    def stream(self) -> str:
        return f"wss://localhost:{self.port}/v1/audio/transcriptions/stream"

    @property
    def models(self) -> str:
        return f"https://localhost:{self.port}/v1/models"


def put(ca: trustme.CA, folder: Path, *names: str) -> tuple[Path, Path]:
    """A certificate of ``ca`` where a gateway would find it; moved into place, as certbot does."""
    folder.mkdir(exist_ok=True)
    issued = ca.issue_cert(*(names or ("localhost",)))
    for name, data in (
        ("cert.pem", b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
        ("key.pem", issued.private_key_pem.bytes()),
    ):
        (folder / f"new-{name}").write_bytes(data)
        (folder / f"new-{name}").replace(folder / name)
    return folder / "cert.pem", folder / "key.pem"


def client(ca: trustme.CA, *, show: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if show is not None:
        show.configure_cert(context)
    return context


@asynccontextmanager
async def served(
    ca: trustme.CA,
    folder: Path,
    *,
    client_ca: trustme.CA | None = None,
    asked: str = "required",
    access: AccessConfig | None = None,
    api_keys: tuple[str, ...] = (),
) -> AsyncIterator[Served]:
    """The gateway as ``perch serve`` runs it, in this process."""
    cert, key = put(ca, folder)
    ca_path = None
    if client_ca is not None:
        ca_path = folder / "clients.pem"
        client_ca.cert_pem.write_to_path(str(ca_path))
    tls_config = TlsConfig(cert, key, ca_path, "required" if asked == "required" else "optional")
    config = GatewayConfig(
        port=0, tls=tls_config, access=access or AccessConfig(), api_keys=api_keys, state_dir=folder / "state"
    )
    tls, made = server_tls(tls_config, config.state_dir, config.host)
    assert made is None
    stop, ports = asyncio.Event(), asyncio.Queue[int]()
    app = build_app(config, MockASRClient(), Metrics(), Tracing(None))
    serving = asyncio.create_task(
        serve(app, ssl_context=tls.context, on_listening=ports.put_nowait, stop=stop)
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            port = await ports.get()
        yield Served(port, tls, cert, key)
    finally:
        stop.set()
        await serving


async def shown(port: int) -> bytes:
    """The certificate a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(DEADLINE_S):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
    return certificate


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(tmp_path: Path, version: ssl.TLSVersion) -> None:
    ca = trustme.CA()
    async with served(ca, tmp_path) as at:
        context = client(ca)
        context.minimum_version = context.maximum_version = version
        async with asyncio.timeout(DEADLINE_S):
            _, writer = await asyncio.open_connection("localhost", at.port, ssl=context)
            cipher = writer.get_extra_info("cipher")
            assert writer.get_extra_info("compression") is None
            writer.close()
            await writer.wait_closed()
        assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.parametrize(
    ("versions", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA"),  # no forward secrecy
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA"),  # not authenticated encryption
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_weaker_ones_are_not(tmp_path: Path, versions: ssl.TLSVersion, ciphers: str) -> None:
    ca = trustme.CA()
    async with served(ca, tmp_path) as at:
        context = client(ca)
        context.set_ciphers(ciphers)
        context.minimum_version = context.maximum_version = versions
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection("localhost", at.port, ssl=context)


async def test_new_files_are_served_to_new_connections_and_open_sessions_go_on(tmp_path: Path) -> None:
    """003-147: the drill, with a session open over the change."""
    ca = trustme.CA()
    async with served(ca, tmp_path) as at, watching(at.tls, every_s=0.05):
        before = await shown(at.port)
        connector = aiohttp.TCPConnector(ssl=client(ca))
        async with aiohttp.ClientSession(connector=connector) as http, http.ws_connect(at.stream) as socket:
            await socket.send_json({"type": "start"})
            await next_event(socket)
            put(ca, tmp_path)
            async with asyncio.timeout(DEADLINE_S):
                while (after := await shown(at.port)) == before:
                    pass
            await socket.send_json({"type": "stop"})
            async with asyncio.timeout(DEADLINE_S):
                kinds = [message.json()["type"] async for message in socket]
        assert kinds[-1] == "done"
        assert after != before


@pytest.mark.parametrize("harm", ["half a pair", "no PEM", "gone", "encrypted"])
async def test_files_that_are_no_good_change_nothing(tmp_path: Path, harm: str) -> None:
    ca = trustme.CA()
    async with served(ca, tmp_path) as at:
        before = await shown(at.port)
        if harm == "half a pair":
            at.cert.write_bytes(ca.issue_cert("localhost").cert_chain_pems[0].bytes())
        elif harm == "no PEM":
            at.cert.write_bytes(b"nothing")
        elif harm == "gone":
            at.key.unlink()
        else:
            at.key.write_bytes(_encrypted(at.key.read_bytes()))
        await at.tls.reload()
        assert await shown(at.port) == before
        put(ca, tmp_path)
        await at.tls.reload()
        assert await shown(at.port) != before


def _encrypted(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_pem_private_key(pem, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_key_stays_open_after_a_reload(tmp_path: Path) -> None:
    cert, key = put(trustme.CA(), tmp_path)
    tls = ServerTls(cert, key, TlsConfig(cert, key))
    await tls.reload()  # the thread that reads files exists from now on
    before = open_files()
    for _ in range(20):
        await tls.reload()
    assert open_files() == before


# --- certificates of clients -------------------------------------------------------------------------


async def status(at: Served, context: ssl.SSLContext, headers: dict[str, str] | None = None) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        async with http.get(at.models, headers=headers) as answer:
            return answer.status


async def test_where_certificates_are_required_nobody_comes_in_without_a_good_one(tmp_path: Path) -> None:
    """003-141 towards clients."""
    ca, clients, strangers = trustme.CA(), trustme.CA(), trustme.CA()
    async with served(ca, tmp_path, client_ca=clients) as at:
        assert await status(at, client(ca, show=clients.issue_cert("pbx.example"))) == 200
        for context in (client(ca), client(ca, show=strangers.issue_cert("pbx.example"))):
            with pytest.raises(aiohttp.ClientError):
                await status(at, context)


async def test_where_they_are_optional_a_key_does_as_well_and_nothing_does_not(tmp_path: Path) -> None:
    ca, clients = trustme.CA(), trustme.CA()
    async with served(ca, tmp_path, client_ca=clients, asked="optional", api_keys=("a-key",)) as at:
        assert await status(at, client(ca)) == 401
        assert await status(at, client(ca), {"X-API-Key": "a-key"}) == 200
        assert await status(at, client(ca), {"X-API-Key": "wrong"}) == 401
        certified = client(ca, show=clients.issue_cert("pbx.example"))
        assert await status(at, certified) == 200
        assert await status(at, certified, {"X-API-Key": "wrong"}) == 401, "what is said counts first"


async def test_a_certificate_has_the_limits_and_scopes_of_its_entry_and_others_stay_out(
    tmp_path: Path,
) -> None:
    ca, clients = trustme.CA(), trustme.CA()
    entry = KeyEntry("pbx", certificate="pbx.example", limits=KeyLimits(requests_per_min=1))
    write_entries(tmp_path / "keys", [entry])
    access = AccessConfig(key_store=tmp_path / "keys")
    async with served(ca, tmp_path, client_ca=clients, access=access) as at:
        certified = client(ca, show=clients.issue_cert("pbx.example"))
        assert await status(at, certified) == 200
        assert await status(at, certified) == 429
        assert await status(at, client(ca, show=clients.issue_cert("other.example"))) == 401


async def test_a_session_over_mutual_tls(tmp_path: Path) -> None:
    ca, clients = trustme.CA(), trustme.CA()
    async with served(ca, tmp_path, client_ca=clients) as at:
        context = client(ca, show=clients.issue_cert("pbx.example"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            async with http.ws_connect(at.stream) as socket:
                await socket.send_json({"type": "stop"})
                async with asyncio.timeout(DEADLINE_S):
                    kinds = [message.json()["type"] async for message in socket]
        assert kinds[-1] == "done"


async def test_a_new_client_ca_counts_after_a_reload(tmp_path: Path) -> None:
    ca, first, second = trustme.CA(), trustme.CA(), trustme.CA()
    async with served(ca, tmp_path, client_ca=first) as at:
        context = client(ca, show=second.issue_cert("pbx.example"))
        with pytest.raises(aiohttp.ClientError):
            await status(at, context)
        with (tmp_path / "clients.pem").open("ab") as file:
            file.write(second.cert_pem.bytes())
        await at.tls.reload()
        assert await status(at, context) == 200


# --- the command -------------------------------------------------------------------------------------


async def test_perch_serve_takes_a_new_certificate_and_asks_clients_for_theirs(tmp_path: Path) -> None:
    """003-147 with the real program: other event loop, own process, files changed under it."""
    ca, clients = trustme.CA(), trustme.CA()
    cert, key = put(ca, tmp_path / "tls")
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    environment = {
        "PERCH_PORT": "0",
        "PERCH_BACKEND": "mock",
        "PERCH_STATE_DIR": str(tmp_path / "state"),
        "PERCH_TLS_CERT": str(cert),
        "PERCH_TLS_KEY": str(key),
        "PERCH_TLS_CLIENT_CA": str(tmp_path / "clients.pem"),
    }
    async with running(*perch("serve"), environment=environment) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        context = client(ca, show=clients.issue_cert("pbx.example"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
            url = f"https://localhost:{port}/v1/models"
            async with http.get(url) as answer:
                assert answer.status == 200
            replacement = trustme.CA()
            put(replacement, tmp_path / "tls")
            renewed = client(replacement, show=clients.issue_cert("pbx.example"))
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    try:
                        async with aiohttp.ClientSession() as new, new.get(url, ssl=renewed) as answer:
                            assert answer.status == 200
                            break
                    except aiohttp.ClientConnectorCertificateError:
                        await asyncio.sleep(0.1)
