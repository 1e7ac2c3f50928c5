"""Browser tokens: short-lived, for one connection, worth no more than what they were made with."""

import asyncio
import base64
import json
import multiprocessing
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateways import DEADLINE_S, gateway
from perch.asr.mock import MockASRClient
from perch.errors import BadConfig, Forbidden, Unauthorized
from perch.server.auth import Authenticator
from perch.server.config import AccessConfig, GatewayConfig, RateConfig
from perch.server.credentials import Credentials
from perch.server.keys import KeyEntry, hash_key, new_key, write_entries
from perch.server.principal import SCOPES, KeyLimits, Principal
from perch.server.rate import Counts
from perch.server.tokens import Tokens, UsedTokens, token_secret
from server.redis_process import redis

NOW = 1_800_000_000.0
ALICE = Principal("alice", frozenset(SCOPES), KeyLimits(sessions=2), "jwt")


def tokens(folder: Path, secret: bytes = b"s" * 32) -> Tokens:
    return Tokens(secret, UsedTokens(folder / "tokens", Counts(RateConfig())))


async def test_a_token_stands_for_its_maker_once_and_only_for_everyday_things(tmp_path: Path) -> None:
    made = tokens(tmp_path).mint(ALICE, 600, NOW)
    assert made.expires_at == NOW + 600
    assert made.value.startswith("ek_")
    assert made.value not in repr(made)
    found = await tokens(tmp_path).redeem(made.value, NOW + 1)
    assert found == Principal("alice", frozenset({"transcribe", "models"}), KeyLimits(sessions=2), "jwt")
    with pytest.raises(Unauthorized, match="used before"):
        await tokens(tmp_path).redeem(made.value, NOW + 1)


async def test_a_token_ends(tmp_path: Path) -> None:
    made = tokens(tmp_path).mint(ALICE, 10, NOW)
    with pytest.raises(Unauthorized, match="expired"):
        await tokens(tmp_path).redeem(made.value, NOW + 10)


@pytest.mark.parametrize("ttl_s", [0, -1, 7201, float("nan"), float("inf")])
def test_a_token_lives_two_hours_at_most(tmp_path: Path, ttl_s: float) -> None:
    with pytest.raises(BadConfig):
        tokens(tmp_path).mint(ALICE, ttl_s, NOW)


async def test_nobody_else_can_make_or_change_one(tmp_path: Path) -> None:
    made = tokens(tmp_path).mint(ALICE, 10, NOW).value
    with pytest.raises(Unauthorized, match="not made here"):
        await tokens(tmp_path, b"t" * 32).redeem(made, NOW)
    body, _, signature = made.removeprefix("ek_").partition(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"name": "root"}).encode()).decode().rstrip("=")
    with pytest.raises(Unauthorized, match="not made here"):
        await tokens(tmp_path).redeem(f"ek_{forged}.{signature}", NOW)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_any_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Unauthorized):
        asyncio.run(tokens(tmp_path).redeem(text, NOW))


async def test_used_tokens_are_forgotten_when_they_have_expired(tmp_path: Path) -> None:
    make = tokens(tmp_path)
    for now in (NOW, NOW + 1, NOW + 100):
        await make.redeem(make.mint(ALICE, 10, now).value, now)
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def _redeem(folder: Path, token: str) -> bool:
    try:
        asyncio.run(tokens(folder).redeem(token, NOW))
    except Unauthorized:
        return False
    return True


def test_of_many_processes_one_gets_it(tmp_path: Path) -> None:
    token = tokens(tmp_path).mint(ALICE, 10, NOW).value
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(_redeem, [tmp_path] * 20, [token] * 20))
    assert outcomes.count(True) == 1


async def test_of_many_machines_one_gets_it_through_redis(tmp_path: Path) -> None:
    async with redis(tmp_path) as server:
        counts = [Counts(RateConfig(redis_url=server.url, deadline_s=5.0)) for _ in range(2)]
        one, other = (
            Tokens(b"s" * 32, UsedTokens(tmp_path / name, count))
            for name, count in zip("ab", counts, strict=True)
        )
        token = one.mint(ALICE, 10, NOW).value
        assert (await one.redeem(token, NOW)).name == "alice"
        with pytest.raises(Unauthorized, match="used before"):
            await other.redeem(token, NOW)
        for count in counts:
            await count.aclose()


async def test_without_a_place_to_note_its_use_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("not a folder", encoding="utf-8")
    token = tokens(tmp_path).mint(ALICE, 10, NOW).value
    with pytest.raises(Unauthorized):
        await tokens(tmp_path).redeem(token, NOW)


def test_the_processes_of_a_machine_share_a_secret_nobody_else_can_read(tmp_path: Path) -> None:
    secret = token_secret("", tmp_path / "state")
    assert token_secret("", tmp_path / "state") == secret
    assert len(secret) == 32
    path = tmp_path / "state/token-secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_secret("x" * 32, tmp_path) == b"x" * 32
    with pytest.raises(BadConfig, match="at least 32"):
        token_secret("short", tmp_path)


# --- with what it was made with ----------------------------------------------------------------------


async def test_a_token_ends_with_the_key_it_was_made_with(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = new_key()
    entry = KeyEntry("alice", hash_key(key), scopes=frozenset({"transcribe", "tokens"}))
    write_entries(path, [entry])
    authenticator = Authenticator((), AccessConfig(key_store=path), state_dir=tmp_path)
    alice = await authenticator.authenticate(Credentials({"X-API-Key": key}, {}), "tokens")
    used, late = (authenticator.mint(alice, 60).value for _ in range(2))
    found = await authenticator.authenticate(Credentials({}, {"token": used}), "transcribe")
    assert (found.name, found.scopes) == ("alice", frozenset({"transcribe"}))
    write_entries(path, [])
    await authenticator.reload()
    with pytest.raises(Unauthorized, match="not known any more"):
        await authenticator.authenticate(Credentials({}, {"token": late}), "transcribe")


async def test_a_token_makes_no_tokens(tmp_path: Path) -> None:
    authenticator = Authenticator(["a-key"], state_dir=tmp_path)
    holder = await authenticator.authenticate(Credentials({"X-API-Key": "a-key"}, {}), "tokens")
    token = authenticator.mint(holder, 60).value
    with pytest.raises(Forbidden):
        await authenticator.authenticate(Credentials({}, {"token": token}), "tokens")


async def test_a_token_of_an_open_gateway_is_nothing_once_keys_are_asked_for(tmp_path: Path) -> None:
    anonymous = Authenticator(state_dir=tmp_path)
    nobody = await anonymous.authenticate(Credentials({}, {}), "tokens")
    token = anonymous.mint(nobody, 60).value
    with pytest.raises(Unauthorized, match="nobody was asked"):
        await Authenticator(["a-key"], state_dir=tmp_path).authenticate(
            Credentials({}, {"token": token}), "transcribe"
        )


@pytest.mark.parametrize("way", ["header", "query", "subprotocol"])
async def test_a_page_connects_with_a_token_once(way: str) -> None:
    async with gateway(MockASRClient(), GatewayConfig(api_keys=("a-key",))) as at:
        authenticator = at.parts.authenticator
        holder = await authenticator.authenticate(Credentials({"X-API-Key": "a-key"}, {}), "tokens")
        token = authenticator.mint(holder, 60).value
        query = f"?token={token}" if way == "query" else ""
        headers = {"Authorization": f"Bearer {token}"} if way == "header" else {}
        protocols = ["perch.v1", f"perch-key.{token}"] if way == "subprotocol" else []
        connect = at.client.ws_connect(at.ws + query, headers=headers, protocols=protocols)
        async with asyncio.timeout(DEADLINE_S), connect as socket:
            assert token not in str(socket._response.headers)
            await socket.send_json({"type": "stop"})
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await at.client.ws_connect(at.ws + query, headers=headers, protocols=protocols)
        assert refused.value.status == 401
    assert holder.name.startswith("key-")
