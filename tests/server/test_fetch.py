"""Recordings at addresses that callers name: nothing of our own network can be reached through them. (X-10)"""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web

from perch import errors
from perch.server.config import FetchConfig
from perch.server.fetch import Fetcher, is_public

ON = FetchConfig(enabled=True, max_bytes=100_000, deadline_s=2.0)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def site(handler: Handler) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """A real https server for files.example; returns its port and a context that trusts it."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("files.example").configure_cert(server)
    authority.configure_trust(client)
    app = web.Application()
    app.router.add_get("/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
        yield runner.addresses[0][1], client
    finally:
        await runner.cleanup()


async def here(host: str, port: int) -> list[str]:
    del port
    assert host == "files.example"
    return ["127.0.0.1"]


def local(config: FetchConfig, tls: ssl.SSLContext) -> Fetcher:
    """One that takes this machine for a public one."""
    return Fetcher(config, here, tls, lambda address: address.is_loopback)


async def test_a_recording_is_fetched_over_https_from_where_its_name_led() -> None:
    async def file(request: web.Request) -> web.Response:
        assert request.host.startswith("files.example")
        return web.Response(body=b"x" * 50_000)

    async with site(file) as (port, tls), local(ON, tls).fetched(f"https://files.example:{port}/a") as upload:
        assert (upload.size, upload.file.read()) == (50_000, b"x" * 50_000)
        assert len(upload.sha256) == 64


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ],
)  # fmt: skip
async def test_no_address_of_our_own_network_is_fetched_from(address: str) -> None:
    async def private(host: str, port: int) -> list[str]:
        del host, port
        return ["8.8.8.8", address]

    assert not is_public(ipaddress.ip_address(address))
    literal = f"[{address}]" if ":" in address else address
    for url in ("https://files.example/a", f"https://{literal}/a"):
        with pytest.raises(errors.UrlRefused):
            async with Fetcher(ON, private).fetched(url):
                pass


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    ["http://files.example/a", "ftp://x/a", "file:///etc/passwd", "https:///a", "https://u:p@files.example/"],
)
async def test_other_kinds_of_address_are_refused(url: str) -> None:
    with pytest.raises(errors.UrlRefused):
        async with Fetcher(ON, here).fetched(url):
            pass


async def test_hosts_beside_the_allowed_ones_are_refused() -> None:
    with pytest.raises(errors.UrlRefused, match=r"files\.example"):
        async with Fetcher(FetchConfig(enabled=True, hosts=("other.example",)), here).fetched(
            "https://files.example/a"
        ):
            pass


async def test_a_redirect_is_followed_under_the_same_rules() -> None:
    async def moved(request: web.Request) -> web.Response:
        if request.path == "/once":
            return web.Response(status=302, headers={"Location": "/file"})
        if request.path == "/inside":
            return web.Response(status=302, headers={"Location": "https://169.254.169.254/latest"})
        if request.path == "/plain":
            return web.Response(status=302, headers={"Location": "http://files.example/"})
        if request.path == "/round":
            return web.Response(status=302, headers={"Location": "/round"})
        return web.Response(body=b"here")

    async with site(moved) as (port, tls):
        fetcher, base = local(ON, tls), f"https://files.example:{port}"
        async with fetcher.fetched(base + "/once") as upload:
            assert upload.file.read() == b"here"
        for path in ("/inside", "/plain"):
            with pytest.raises(errors.UrlRefused):
                async with fetcher.fetched(base + path):
                    pass
        with pytest.raises(errors.UrlFailed, match="redirects"):
            async with fetcher.fetched(base + "/round"):
                pass


async def test_size_time_and_status_are_bounded() -> None:
    never = asyncio.Event()

    async def hostile(request: web.Request) -> web.StreamResponse:
        if request.path == "/404":
            return web.Response(status=404)
        response = web.StreamResponse()
        await response.prepare(request)
        if request.path == "/big":
            for _ in range(100):
                await response.write(bytes(10_000))
        else:
            await response.write(b"a little")
            await never.wait()
        return response

    async with site(hostile) as (port, tls):
        fetcher, base = (
            local(FetchConfig(enabled=True, max_bytes=100_000, deadline_s=0.5), tls),
            f"https://files.example:{port}",
        )
        with pytest.raises(errors.MessageTooBig):
            async with fetcher.fetched(base + "/big"):
                pass
        for path in ("/404", "/slow"):
            with pytest.raises(errors.UrlFailed):
                async with fetcher.fetched(base + path):
                    pass
        never.set()


async def test_a_certificate_of_another_name_is_not_believed() -> None:
    async def file(_: web.Request) -> web.Response:
        return web.Response(body=b"x")

    async def other(host: str, port: int) -> list[str]:
        del host, port
        return ["127.0.0.1"]

    async with site(file) as (port, tls):
        fetcher = Fetcher(ON, other, tls, lambda address: address.is_loopback)
        with pytest.raises(errors.UrlFailed):
            async with fetcher.fetched(f"https://evil.example:{port}/a"):
                pass
