"""Everything that is not the stream: who may come in, what the gateway says of itself, the page."""

import json
import ssl
from pathlib import Path

import pytest

from gateways import cut, gateway, transcribe
from perch.asr.mock import MockASRClient
from perch.errors import OriginRefused, Unauthorized
from perch.server.auth import Authenticator, Credentials, check_origin
from perch.server.config import GatewayConfig, TlsConfig
from perch.server.tls import server_context

KEYED = GatewayConfig(api_keys=("first-key", "second-key"))


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": "Bearer first-key"}, {}),
        ({"Authorization": "Token second-key"}, {}),
        ({"X-API-Key": "first-key"}, {}),
        ({"Sec-WebSocket-Protocol": "perch.v1, perch-key.first-key"}, {}),
        ({}, {"api_key": "first-key"}),
    ],
)
async def test_a_key_is_found_wherever_a_client_can_put_it(
    headers: dict[str, str], query: dict[str, str]
) -> None:
    principal = await Authenticator(KEYED.api_keys).authenticate(Credentials(headers, query), "transcribe")
    assert principal.name.startswith("key-")


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first-key"}]
)
async def test_without_a_right_key_nobody_comes_in(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        await Authenticator(KEYED.api_keys).authenticate(Credentials(headers, {}), "transcribe")


async def test_a_principal_names_the_key_without_revealing_it() -> None:
    authenticator = Authenticator(KEYED.api_keys)
    given = [Credentials({"X-API-Key": key}, {}) for key in KEYED.api_keys]
    names = {(await authenticator.authenticate(credentials, "transcribe")).name for credentials in given}
    assert len(names) == 2
    assert not any(key in name for key in KEYED.api_keys for name in names)


def test_pages_of_other_sites_are_refused_unless_allowed() -> None:
    own = {"Host": "perch.example:8443", "Origin": "https://perch.example:8443"}
    check_origin(own, ())
    check_origin({"Host": "x"}, ())  # programs send no Origin
    other = own | {"Origin": "https://evil.example"}
    with pytest.raises(OriginRefused):
        check_origin(other, ())
    check_origin(other, ("https://evil.example",))
    check_origin(other, ("*",))


async def test_refusals_come_before_the_upgrade_with_status_and_code() -> None:
    async with gateway(MockASRClient(), KEYED) as at:
        async with at.client.get(at.http + "/ws/transcribe") as refused:
            assert refused.status == 401
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        headers = {"Origin": "https://evil.example", "X-API-Key": "first-key"}
        async with at.client.get(at.http + "/ws/transcribe", headers=headers) as refused:
            assert (refused.status, (await refused.json())["error"]["code"]) == (403, "origin_refused")


async def test_a_browser_authenticates_by_subprotocol_and_its_key_is_not_echoed() -> None:
    async with gateway(MockASRClient(), KEYED) as at:
        offered = ["perch.v1", "perch-key.second-key"]
        async with at.client.ws_connect(at.ws, protocols=offered) as socket:
            assert socket.protocol == "perch.v1"


async def test_health_says_alive_and_models_lists_what_recognises() -> None:
    async with gateway(MockASRClient()) as at:
        async with at.client.get(at.http + "/health") as health:
            assert (await health.json())["status"] == "ok"
        async with at.client.get(at.http + "/ready") as ready:
            body = await ready.json()
            assert (ready.status, body["backend"]) == (200, "mock")
            assert "made up" in body["notice"]
        async with at.client.get(at.http + "/v1/models") as models:
            [model] = (await models.json())["data"]
        async with at.client.get(at.http + f"/v1/models/{model['id']}") as one:
            assert await one.json() == model
        async with at.client.get(at.http + "/v1/models/nope") as missing:
            assert missing.status == 404
            assert "mock" in (await missing.json())["error"]["message"]


async def test_metrics_count_what_happened() -> None:
    async with gateway(MockASRClient()) as at:
        await transcribe(at, cut(bytes(64_000)))
        async with at.client.get(at.http + "/metrics") as metrics:
            text = await metrics.text()
    assert 'outcome="done"' in text
    assert "perch_audio_seconds_total 2.0" in text


async def test_unknown_paths_and_methods_get_coded_json() -> None:
    async with gateway(MockASRClient()) as at:
        async with at.client.get(at.http + "/nope") as missing:
            assert missing.status == 404
            assert "error" in json.loads(await missing.text())
        async with at.client.post(at.http + "/health") as wrong:
            assert wrong.status == 405
            assert "GET" in wrong.headers["Allow"]


async def test_the_page_is_served_with_a_strict_policy() -> None:
    async with gateway(MockASRClient()) as at, at.client.get(at.http + "/") as page:
        assert page.status == 200
        assert "text/html" in page.headers["Content-Type"]
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]


def test_a_self_signed_certificate_is_made_once_and_kept_private(tmp_path: Path) -> None:
    context, made = server_context(TlsConfig(), tmp_path, "127.0.0.1")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert made is not None
    first = made.read_bytes()
    _, again = server_context(TlsConfig(), tmp_path, "127.0.0.1")
    assert again is not None
    assert again.read_bytes() == first
    assert (tmp_path / "self-signed.key").stat().st_mode & 0o077 == 0


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="together"):
        server_context(TlsConfig(cert=tmp_path / "x"), tmp_path, "localhost")
