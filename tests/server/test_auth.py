"""Who is calling: every place a credential can be, and what happens to those that are wrong."""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateways import Gateway, gateway
from perch import settings
from perch.asr.mock import MockASRClient
from perch.errors import RateLimited, Unauthorized
from perch.server.auth import Authenticator
from perch.server.config import AccessConfig, GatewayConfig, RateConfig, TlsConfig
from perch.server.credentials import Credentials, identities, presented, strip_credentials
from perch.server.keys import KeyEntry, hash_key, new_key, write_entries
from processes import perch, running

KEY = "a-key-nobody-could-ever-guess"

WAYS = [
    ({"Authorization": f"Bearer {KEY}"}, {}, ""),
    ({"Authorization": f"bearer  {KEY} "}, {}, ""),
    ({"Authorization": f"Token {KEY}"}, {}, ""),  # Deepgram
    ({"Authorization": KEY}, {}, ""),  # AssemblyAI
    ({"X-API-Key": KEY}, {}, ""),  # NVIDIA
    ({"Sec-WebSocket-Protocol": f"perch.v1, perch-key.{KEY}"}, {}, ""),
    ({"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}, openai-beta.realtime-v1"}, {}, ""),
    ({"Sec-WebSocket-Protocol": f"realtime, realtime-token.{KEY}"}, {}, ""),
    ({"Sec-WebSocket-Protocol": f"token, {KEY}"}, {}, ""),
    ({"Sec-WebSocket-Protocol": f"bearer,{KEY}"}, {}, ""),
    ({}, {"api_key": KEY}, ""),
    ({}, {"token": KEY}, ""),
    ({}, {"access_token": KEY}, ""),
    ({}, {"key": KEY}, ""),
    ({}, {}, KEY),  # Twilio: wss://host/twilio/{token}
    ({"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": KEY}, {}, ""),  # a proxy's own
    ({"Authorization": "Bearer", "X-API-Key": ""}, {"token": KEY}, ""),
]


@pytest.mark.parametrize(("headers", "query", "path"), WAYS)
async def test_a_key_is_found_wherever_a_client_can_put_it(
    headers: dict[str, str], query: dict[str, str], path: str
) -> None:
    """X-09: each dialect's own place."""
    credentials = Credentials(headers, query, path)
    assert presented(credentials) == KEY
    assert (await Authenticator([KEY]).authenticate(credentials, "transcribe")).name.startswith("key-")
    with pytest.raises(Unauthorized):
        await Authenticator(["another"]).authenticate(credentials, "transcribe")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Sec-WebSocket-Protocol": "perch.v1"},
        {"Sec-WebSocket-Protocol": "realtime, openai-beta.realtime-v1"},
        {"Sec-WebSocket-Protocol": "token"},
        {"Sec-WebSocket-Protocol": "vosk, token, x"},
    ],
)
def test_where_there_is_none_none_is_found(headers: dict[str, str]) -> None:
    assert presented(Credentials(headers, {})) is None


def test_a_url_is_stripped_of_credentials_and_of_nothing_else() -> None:
    query = [("api_key", KEY), ("token", KEY), ("access_token", KEY), ("key", KEY)]
    others = [("language", "en"), ("keywords", "a:1"), ("keywords", "b:2"), ("keyterm", "x")]
    assert strip_credentials(query + others) == others


@given(st.dictionaries(st.sampled_from(["Authorization", "X-API-Key", "Sec-WebSocket-Protocol"]), st.text()))
def test_any_headers_are_refused_and_break_nothing(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        asyncio.run(Authenticator([KEY]).authenticate(Credentials(headers, {}), "transcribe"))


async def test_a_key_is_never_echoed_by_a_handshake() -> None:
    async with gateway(MockASRClient(), GatewayConfig(api_keys=(KEY,))) as at:
        async with at.client.ws_connect(at.ws, protocols=["perch.v1", f"perch-key.{KEY}"]) as socket:
            assert socket.protocol == "perch.v1"
            assert KEY not in str(socket._response.headers)
        async with at.client.get(at.http + f"/ws/transcribe?api_key={KEY}x") as refused:
            assert refused.status == 401
            assert KEY not in await refused.text() + str(refused.headers)


async def test_bytes_that_are_no_text_get_a_coded_refusal() -> None:
    async with gateway(MockASRClient(), GatewayConfig(api_keys=(KEY,))) as at:
        port = int(at.http.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-API-Key: \xff\xfe\r\nConnection: close\r\n\r\n"
        )
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 401")


# --- wrong ones --------------------------------------------------------------------------------------


async def refused(authenticator: Authenticator, key: str, address: str) -> type[Exception] | None:
    try:
        await authenticator.authenticate(Credentials({"X-API-Key": key}, {}, address=address), "models")
    except (Unauthorized, RateLimited) as error:
        return type(error)
    return None


async def test_an_address_with_too_many_wrong_keys_has_to_wait_and_no_other() -> None:
    access = AccessConfig(rate=RateConfig(failures_per_min=3))
    authenticator = Authenticator([KEY, "short"], access)
    assert [await refused(authenticator, "wrong", "10.0.0.1") for _ in range(3)] == [Unauthorized] * 3
    assert await refused(authenticator, "wrong", "10.0.0.1") is RateLimited
    assert await refused(authenticator, "wrong", "10.0.0.2") is Unauthorized
    assert await refused(authenticator, "short", "10.0.0.1") is RateLimited, "it may have been guessed"
    assert await refused(authenticator, "short", "10.0.0.3") is None
    assert await refused(authenticator, KEY, "10.0.0.1") is None, "others behind the same proxy go on"


async def test_asking_without_a_key_is_no_failed_attempt() -> None:
    authenticator = Authenticator([KEY], AccessConfig(rate=RateConfig(failures_per_min=1)))
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(Credentials({}, {}, address="a"), "models")
    assert await refused(authenticator, KEY, "a") is None


async def attempts(at: Gateway, count: int) -> list[int]:
    statuses = []
    for _ in range(count):
        async with at.client.get(at.http + "/ws/transcribe", headers={"X-API-Key": "wrong"}) as answer:
            statuses.append(answer.status)
            if answer.status == 429:
                assert 1 <= int(answer.headers["Retry-After"]) <= 60
    return statuses


async def test_guessing_keys_gets_429_over_a_real_socket() -> None:
    access = AccessConfig(rate=RateConfig(failures_per_min=2))
    async with gateway(MockASRClient(), GatewayConfig(api_keys=(KEY,), access=access)) as at:
        assert await attempts(at, 4) == [401, 401, 429, 429]
        async with at.client.ws_connect(at.ws, headers={"X-API-Key": KEY}) as socket:
            assert not socket.closed


async def test_an_open_gateway_asks_nobody() -> None:
    found = await Authenticator().authenticate(Credentials({"X-API-Key": "whatever"}, {}), "transcribe")
    assert found.name == "anonymous"
    assert not Authenticator().required


# --- certificates ------------------------------------------------------------------------------------

CERTIFICATE = {
    "subject": ((("organizationName", "Example"),), (("commonName", "the common name"),)),
    "subjectAltName": (("email", "a@example"), ("DNS", "pbx.example"), ("URI", "spiffe://example/pbx")),
}


def test_the_names_of_a_certificate_come_in_order() -> None:
    assert identities(CERTIFICATE) == ["pbx.example", "spiffe://example/pbx", "a@example", "the common name"]
    assert identities({}) == []


async def test_a_certificate_counts_only_where_certificates_are_verified() -> None:
    shown = Credentials({}, {}, peer_certificate=CERTIFICATE)
    found = await Authenticator(takes_certificates=True).authenticate(shown, "transcribe")
    assert (found.name, found.source) == ("cert:pbx.example", "certificate")
    with pytest.raises(Unauthorized):
        await Authenticator([KEY]).authenticate(shown, "transcribe")


@pytest.mark.parametrize(
    ("config", "is_open"),
    [
        (GatewayConfig(), True),
        (GatewayConfig(api_keys=("k",)), False),
        (GatewayConfig(tls=TlsConfig()), True),
    ],
)
def test_open_is_where_nobody_is_asked(config: GatewayConfig, is_open: bool) -> None:
    assert config.is_open is is_open
    assert Authenticator.of(config).required is not is_open


async def test_a_refusal_says_where_to_put_a_key() -> None:
    async with gateway(MockASRClient(), GatewayConfig(api_keys=(KEY,))) as at:
        with pytest.raises(aiohttp.WSServerHandshakeError) as no_key:
            await at.client.ws_connect(at.ws)
        assert no_key.value.status == 401
        async with at.client.get(at.http + "/v1/models") as answer:
            assert re.search("Bearer KEY", (await answer.json())["error"]["message"])


# --- the settings and the program --------------------------------------------------------------------


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_beyond_loopback_any_way_of_asking_will_do_and_none_will_not(no_settings: Path) -> None:
    path = no_settings / "keys"
    write_entries(path, [])
    trustme.CA().cert_pem.write_to_path(str(no_settings / "ca.pem"))
    jwt = {"perch_jwt_issuer": "i", "perch_jwt_audience": "a", "perch_jwt_jwks_url": "https://i/jwks"}
    ways: list[dict[str, Any]] = [
        {"perch_api_keys": KEY},
        {"perch_key_store": path},
        {"perch_tls_client_ca": no_settings / "ca.pem"},
        jwt,
    ]
    for way in ways:
        config = settings.load(perch_host="0.0.0.0", **way).gateway()
        assert Authenticator.of(config).required
    with pytest.raises(settings.InvalidSettings, match="PERCH_KEY_STORE"):
        settings.load(perch_host="0.0.0.0")


def test_settings_that_would_let_anybody_in_are_named(no_settings: Path) -> None:
    with pytest.raises(settings.InvalidSettings, match="32 bytes"):
        settings.load(
            perch_jwt_issuer="i", perch_jwt_audience="a", perch_jwt_key="short", perch_jwt_algorithms="HS256"
        )
    with pytest.raises(settings.InvalidSettings, match="PERCH_JWT_ISSUER"):
        settings.load(perch_jwt_jwks_url="https://i/jwks")
    trustme.CA().cert_pem.write_to_path(str(no_settings / "ca.pem"))
    with pytest.raises(settings.InvalidSettings, match="PERCH_TLS_CLIENT_CA needs PERCH_TLS"):
        settings.load(perch_tls_client_ca=no_settings / "ca.pem", perch_tls=False)


def test_a_public_key_in_a_file_stays_a_pem(no_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----"
    (no_settings / "key.pem").write_text(pem + "\n", encoding="utf-8")
    monkeypatch.setenv("PERCH_JWT_KEY_FILE", str(no_settings / "key.pem"))
    monkeypatch.setenv("PERCH_LIMITS_REDIS_URL", "redis://:sekret@127.0.0.1/0")
    loaded = settings.Settings(_env_file=None, **settings._secrets_from_files(os.environ, []))  # type: ignore[call-arg,arg-type]
    assert loaded.perch_jwt_key == pem
    assert {pem, "sekret"} <= set(loaded.secrets())


async def test_nothing_a_client_shows_comes_to_stand_in_the_log(tmp_path: Path) -> None:
    """003-148, X-09: planted in every place, right and wrong, at the wordiest level."""
    right = new_key()
    write_entries(tmp_path / "keys", [KeyEntry("alice", hash_key(right))])
    environment = {
        "PERCH_PORT": "0",
        "PERCH_BACKEND": "mock",
        "PERCH_TLS": "false",
        "PERCH_LOG_LEVEL": "debug",
        "PERCH_STATE_DIR": str(tmp_path / "state"),
        "PERCH_KEY_STORE": str(tmp_path / "keys"),
    }
    wrong = ["planted-wrong-key", "ek_planted.wrong", "planted.wrong.jwt"]
    async with running(*perch("serve"), environment=environment) as at:
        async with aiohttp.ClientSession() as http:
            for planted in (right, *wrong):
                for headers, query, _ in WAYS:
                    shown = {name: value.replace(KEY, planted) for name, value in headers.items()}
                    parameters = dict.fromkeys(query, planted)
                    url = at.stream_url.replace("ws://", "http://")
                    async with http.get(url, headers=shown, params=parameters) as answer:
                        told = await answer.text() + str(answer.headers)
                        assert answer.status in ({426} if planted == right and (shown or query) else {401})
                        assert planted not in told
            async with http.ws_connect(at.stream_url + f"?api_key={right}") as socket:
                await socket.send_json({"type": "stop"})
                async with asyncio.timeout(20):
                    assert [message.json()["type"] async for message in socket][-1] == "done"
        assert await at.stop() == 0
        log = "".join(at.output)
    assert "session_" in log
    for planted in (right, *wrong):
        assert planted not in log
