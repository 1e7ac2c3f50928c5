"""JWTs: what must be in them, which algorithms may sign them, and keys that come from an address."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateways import cut, gateway, transcribe
from perch.asr.mock import MockASRClient
from perch.errors import BadConfig, Forbidden, Unauthorized
from perch.server.auth import Authenticator
from perch.server.config import AccessConfig, GatewayConfig, JwtConfig
from perch.server.credentials import Credentials
from perch.server.jwt_auth import JwtVerifier, scopes_of
from perch.server.principal import EVERYDAY

SECRET = "a secret of more than thirty-two bytes"
HMAC = JwtConfig("https://issuer.example", "perch", key=SECRET, algorithms=("HS256",))


def claims(**changes: Any) -> dict[str, Any]:
    usual = {"iss": "https://issuer.example", "aud": "perch", "sub": "alice", "exp": time.time() + 3600}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def signed(key: Any = SECRET, algorithm: str = "HS256", *, kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


async def test_a_good_one_says_who_it_is() -> None:
    found = await JwtVerifier(HMAC).verify(signed(aud=["other", "perch"]))
    assert (found.name, found.scopes, found.source) == ("jwt:alice", EVERYDAY, "jwt")


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (signed(exp=time.time() - 60), "expired"),
        (signed(exp=None), "'exp'"),
        (signed(iss="https://evil.example"), "another issuer"),
        (signed(iss=None), "'iss'"),
        (signed(aud="others"), "another audience"),
        (signed(aud=None), "'aud'"),
        (signed(sub=None), "'sub'"),
        (signed(sub="x" * 129), "short text"),
        (signed(nbf=time.time() + 3600), "not come"),
        (signed("another secret of more than 32 bytes"), "signature"),
        (signed(SECRET * 2, "HS512"), "algorithm"),
        (jwt.encode(claims(), "", algorithm="none"), "algorithm"),
        ("a.b.c", "cannot be read"),
        ("a.b.c" * 10_000, "too long"),
        ("ä.b.c", "no JWT"),
    ],
)
async def test_a_bad_one_is_refused_and_its_holder_told_why(token: str, why: str) -> None:
    with pytest.raises(Unauthorized, match=why):
        await JwtVerifier(HMAC).verify(token)


@given(st.text(alphabet="abcdefgeyJ0._-=", max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(Unauthorized):
        asyncio.run(JwtVerifier(HMAC).verify(text))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
async def test_a_public_key_checks_what_its_private_one_signed(key: Any, algorithm: str) -> None:
    config = JwtConfig("https://issuer.example", "perch", key=public_pem(key))
    assert (await JwtVerifier(config).verify(signed(key, algorithm))).name == "jwt:alice"


async def test_a_public_key_is_never_taken_for_a_secret() -> None:
    """The oldest trick: sign by HMAC with the public key, which everybody has."""
    pem = public_pem(rsa.generate_private_key(65537, 2048))
    config = JwtConfig("https://issuer.example", "perch", key=pem)
    forged = jwt.api_jws.PyJWS().encode(b"{}", "x" * 32, algorithm="HS256")
    with pytest.raises(Unauthorized, match="algorithm"):
        await JwtVerifier(config).verify(forged)
    with pytest.raises(BadConfig, match="does not go with public keys"):
        JwtVerifier(replace(config, algorithms=("RS256", "HS256")))


@pytest.mark.parametrize(
    ("config", "about"),
    [
        (replace(HMAC, key="short"), "32 bytes"),
        (replace(HMAC, key=""), "either PERCH_JWT_KEY"),
        (replace(HMAC, jwks_url="https://x"), "either PERCH_JWT_KEY"),
        (replace(HMAC, key="", jwks_url="http://x.example/jwks"), "https"),
        (replace(HMAC, audience=""), "PERCH_JWT_AUDIENCE"),
        (replace(HMAC, algorithms=("none",)), "none cannot be used"),
        (replace(HMAC, algorithms=()), "none does not go"),
        (replace(HMAC, algorithms=("RS256",)), "does not go with a secret"),
        (replace(HMAC, key="-----BEGIN PUBLIC KEY-----", algorithms=("RS256",)), "not a public key"),
    ],
)
def test_an_unsafe_configuration_is_refused(config: JwtConfig, about: str) -> None:
    with pytest.raises(BadConfig, match=about):
        JwtVerifier(config)


def test_scopes_come_as_words_or_as_a_list_and_others_are_no_business_of_ours() -> None:
    assert scopes_of("openid perch:transcribe tokens") == {"transcribe", "tokens"}
    assert scopes_of(["perch:models", "email", 3]) == {"models"}
    assert scopes_of("openid") == frozenset()
    assert scopes_of(None) == EVERYDAY
    assert scopes_of(7) == frozenset()


# --- keys from an address ----------------------------------------------------------------------------


class Issuer:
    """An identity provider's key list, really served over HTTP."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked = 0
        self.answer: asyncio.Event | None = None
        self.broken = False
        self.url = ""

    def add(self, kid: str) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP256R1())
        public = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.keys[kid] = {**public, "kid": kid, "use": "sig", "alg": "ES256"}
        return key

    async def serve(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is not None:
            await self.answer.wait()
        if self.broken:
            raise web.HTTPInternalServerError
        return web.json_response({"keys": list(self.keys.values())})


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    try:
        yield issuer
    finally:
        if issuer.answer is not None:
            issuer.answer.set()
        await runner.cleanup()


def by_address(issuer: Issuer, **changes: Any) -> JwtConfig:
    return JwtConfig("https://issuer.example", "perch", jwks_url=issuer.url, **changes)


async def test_keys_are_fetched_once_and_a_new_one_is_found() -> None:
    async with issuing() as issuer:
        first = issuer.add("one")
        verifier = JwtVerifier(by_address(issuer, refresh_s=0.0))
        for _ in range(10):
            await verifier.verify(signed(first, "ES256", kid="one"))
        assert issuer.asked == 1
        second = issuer.add("two")
        await verifier.verify(signed(second, "ES256", kid="two"))
        assert issuer.asked == 2


async def test_unknown_keys_do_not_make_us_ask_again_and_again() -> None:
    async with issuing() as issuer:
        good = issuer.add("one")
        verifier = JwtVerifier(by_address(issuer))
        stranger = ec.generate_private_key(ec.SECP256R1())
        for number in range(20):
            with pytest.raises(Unauthorized, match="does not list"):
                await verifier.verify(signed(stranger, "ES256", kid=f"made up {number}"))
        assert issuer.asked == 1
        await verifier.verify(signed(good, "ES256", kid="one"))
        with pytest.raises(Unauthorized, match="kid"):
            await verifier.verify(signed(good, "ES256"))


async def test_many_at_once_ask_once() -> None:
    async with issuing() as issuer:
        key = issuer.add("one")
        verifier = JwtVerifier(by_address(issuer))
        await asyncio.gather(*(verifier.verify(signed(key, "ES256", kid="one")) for _ in range(50)))
        assert issuer.asked == 1


async def test_an_issuer_that_is_down_locks_nobody_out_whose_key_is_known() -> None:
    async with issuing() as issuer:
        key = issuer.add("one")
        verifier = JwtVerifier(by_address(issuer, cache_s=0.0, refresh_s=0.0))
        await verifier.verify(signed(key, "ES256", kid="one"))
        issuer.broken = True
        await verifier.verify(signed(key, "ES256", kid="one"))
        assert issuer.asked == 2


async def test_an_issuer_that_never_answers_is_waited_for_within_a_deadline() -> None:
    async with issuing() as issuer:
        key = issuer.add("one")
        issuer.answer = asyncio.Event()
        verifier = JwtVerifier(by_address(issuer, fetch_timeout_s=0.2))
        async with asyncio.timeout(30):
            with pytest.raises(Unauthorized):
                await verifier.verify(signed(key, "ES256", kid="one"))


# --- the gateway -------------------------------------------------------------------------------------


async def test_a_session_and_a_scope_by_jwt_through_the_gateway() -> None:
    """003-142 from the client's side: a bearer JWT lets a session begin."""
    async with issuing() as issuer:
        key = issuer.add("one")
        config = GatewayConfig(api_keys=("a-key",), access=AccessConfig(jwt=by_address(issuer)))
        async with gateway(MockASRClient(), config) as at:
            token = signed(key, "ES256", kid="one", scope="transcribe")
            heard = await transcribe(at, cut(bytes(32_000)), query=f"?access_token={token}")
            assert heard.events[-1]["type"] == "done"
            for credential, status in ((token, 403), ("a-key", 200), (token[:-8] + "AAAAAAAA", 401)):
                headers = {"Authorization": f"Bearer {credential}"}
                async with at.client.get(at.http + "/v1/models", headers=headers) as answer:
                    assert answer.status == status


async def test_what_a_jwt_does_not_grant_is_forbidden() -> None:
    authenticator = Authenticator(access=AccessConfig(jwt=HMAC))
    shown = Credentials({"Authorization": f"Bearer {signed(scope='openid')}"}, {})
    with pytest.raises(Forbidden):
        await authenticator.authenticate(shown, "transcribe")
