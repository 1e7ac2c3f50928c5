"""The key file: what it may hold, who is let in by it, and that it changes under a running gateway."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways import DEADLINE_S, Gateway, cut, gateway, next_event, transcribe
from perch.asr.mock import MockASRClient
from perch.errors import BadConfig, Unauthorized
from perch.server.config import AccessConfig, GatewayConfig
from perch.server.keys import (
    KeyEntry,
    KeyRing,
    KeyStore,
    hash_key,
    new_key,
    parse_entries,
    read_entries,
    write_entries,
)
from perch.server.principal import EVERYDAY, SCOPES, KeyLimits

NOW = datetime(2026, 11, 24, tzinfo=UTC)
HASH = hash_key("k")


def test_a_key_is_long_and_the_file_holds_only_its_hash(tmp_path: Path) -> None:
    """003-148: what is on disk lets nobody in."""
    key = new_key()
    path = tmp_path / "deep/keys.jsonl"
    write_entries(path, [KeyEntry("alice", hash_key(key))])
    assert key.startswith("pk_")
    assert len(key) >= 43
    assert key not in path.read_text(encoding="utf-8")
    assert hashlib.sha256(key.encode()).hexdigest() in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o077 == 0
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["keys.jsonl"]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    entries = [
        KeyEntry("alice", HASH, scopes=frozenset(SCOPES), limits=KeyLimits(1, 2, 3), expires=NOW),
        KeyEntry("bob", hash_key("b"), scopes=frozenset(), disabled=True),
        KeyEntry("phones", certificate="pbx.example"),
    ]
    write_entries(tmp_path / "keys", entries, comments="# for people\nnot a comment\n")
    assert read_entries(tmp_path / "keys") == entries
    assert (tmp_path / "keys").read_text(encoding="utf-8").startswith("# for people\n{")


@pytest.mark.parametrize(
    ("line", "about"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "object"),
        ('{"name": "a b", "hash": "%s"}', "name"),
        ('{"name": "key-1", "hash": "%s"}', "name"),
        ('{"name": "a", "hash": "sekret"}', "hash"),
        ('{"name": "a"}', "hash or a certificate"),
        ('{"name": "a", "hash": "%s", "certificate": "b"}', "either"),
        ('{"name": "a", "hash": "%s", "scope": []}', "scope is not a field"),
        ('{"name": "a", "hash": "%s", "scopes": ["root"]}', "transcribe"),
        ('{"name": "a", "hash": "%s", "limits": {"sessions": 0}}', "at least 1"),
        ('{"name": "a", "hash": "%s", "limits": {"sessions": true}}', "at least 1"),
        ('{"name": "a", "hash": "%s", "limits": {"seats": 1}}', "seats is not a limit"),
        ('{"name": "a", "hash": "%s", "expires": "soon"}', "expires"),
        ('{"name": "a", "hash": "%s", "disabled": "no"}', "disabled"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_and_not_shown(line: str, about: str) -> None:
    with pytest.raises(BadConfig, match=about) as bad:
        parse_entries("# keys\n\n" + line.replace("%s", HASH))
    assert "Line 3" in bad.value.message
    assert "sekret" not in bad.value.message


def test_two_entries_may_share_neither_name_nor_key() -> None:
    one = f'{{"name": "a", "hash": "{HASH}"}}\n'
    with pytest.raises(BadConfig, match="another entry called a"):
        parse_entries(one + one)
    with pytest.raises(BadConfig, match="same key"):
        parse_entries(one + one.replace('"a"', '"b"'))


@given(st.text())
def test_any_text_is_read_or_refused_with_a_coded_error(text: str) -> None:
    with suppress(BadConfig):
        parse_entries(text)


def test_revoked_and_expired_keys_say_so_to_their_holder() -> None:
    ring = KeyRing(
        [
            KeyEntry("old", hash_key("old"), expires=NOW),
            KeyEntry("gone", hash_key("gone"), disabled=True),
            KeyEntry("good", hash_key("good"), expires=NOW + timedelta(seconds=1)),
        ],
        plain=["of-the-environment"],
    )
    with pytest.raises(Unauthorized, match="expired"):
        ring.find("old", NOW)
    with pytest.raises(Unauthorized, match="revoked"):
        ring.find("gone", NOW)
    good = ring.find("good", NOW)
    assert good is not None
    assert (good.name, good.scopes) == ("good", EVERYDAY)
    plain = ring.find("of-the-environment", NOW)
    assert plain is not None
    assert plain.scopes == frozenset(SCOPES)
    assert ring.find("other", NOW) is None
    assert ring.find("\udcff", NOW) is None  # a header that is not UTF-8


async def test_a_file_that_is_no_good_any_more_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_entries(path, [KeyEntry("alice", HASH)])
    store = KeyStore(path)
    before = store.stamp()
    path.write_text("{", encoding="utf-8")
    assert store.stamp() != before
    await store.reload()
    assert store.ring.find("k", NOW) is not None
    path.unlink()
    await store.reload()
    assert store.ring.find("k", NOW) is not None
    path.write_text("", encoding="utf-8")
    await store.reload()
    assert store.ring.find("k", NOW) is None
    assert store.is_configured, "a file without keys lets nobody in"


def test_a_file_that_is_no_good_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read"):
        KeyStore(tmp_path / "missing")


# --- the gateway -------------------------------------------------------------------------------------


@asynccontextmanager
async def keyed(path: Path, *entries: KeyEntry) -> AsyncIterator[Gateway]:
    write_entries(path, entries)
    config = GatewayConfig(access=AccessConfig(key_store=path))
    async with gateway(MockASRClient(), config) as at:
        yield at


async def status(at: Gateway, key: str, path: str = "/v1/models") -> int:
    async with at.client.get(at.http + path, headers={"X-API-Key": key}) as answer:
        return answer.status


async def until(at: Gateway, key: str, wanted: int) -> None:
    """Wait for the gateway to have taken up the file."""
    async with asyncio.timeout(DEADLINE_S):
        while await status(at, key) != wanted:  # noqa: ASYNC110 - another process would see it no sooner
            await asyncio.sleep(0.05)


async def test_keys_change_under_a_running_gateway_and_open_sessions_go_on(tmp_path: Path) -> None:
    """Rotation: the new key counts, the old one is refused, and nobody who was talking is cut off."""
    old, new = new_key(), new_key()
    path = tmp_path / "keys"
    async with keyed(path, KeyEntry("alice", hash_key(old))) as at:
        assert (await status(at, old), await status(at, new)) == (200, 401)
        async with at.client.ws_connect(at.ws, headers={"X-API-Key": old}) as socket:
            await socket.send_json({"type": "start"})
            assert (await next_event(socket))["type"] == "ready"
            write_entries(path, [KeyEntry("alice", hash_key(new))])
            await until(at, new, 200)
            assert await status(at, old) == 401
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await at.client.ws_connect(at.ws, headers={"X-API-Key": old})
            assert refused.value.status == 401
            for chunk in cut(bytes(32_000)):
                await socket.send_bytes(chunk)
            await socket.send_json({"type": "stop"})
            async with asyncio.timeout(DEADLINE_S):
                async for message in socket:
                    last = message.json()
        assert last["type"] == "done"


async def test_a_key_may_do_what_its_scopes_say(tmp_path: Path) -> None:
    key = new_key()
    async with keyed(
        tmp_path / "keys", KeyEntry("lister", hash_key(key), scopes=frozenset({"models"}))
    ) as at:
        assert await status(at, key) == 200
        async with at.client.get(at.http + "/ws/transcribe", headers={"X-API-Key": key}) as refused:
            body = (await refused.json())["error"]
        assert (refused.status, body["code"]) == (403, "forbidden")
        assert "transcribe" in body["message"]
        assert "WWW-Authenticate" not in refused.headers


async def test_a_key_has_as_many_sessions_as_it_says(tmp_path: Path) -> None:
    one, other = new_key(), new_key()
    entries = (KeyEntry("one", hash_key(one), limits=KeyLimits(sessions=1)), KeyEntry("two", hash_key(other)))
    async with keyed(tmp_path / "keys", *entries) as at:
        async with at.client.ws_connect(at.ws, headers={"X-API-Key": one}):
            async with at.client.get(at.http + "/ws/transcribe", headers={"X-API-Key": one}) as refused:
                assert (refused.status, (await refused.json())["error"]["code"]) == (503, "at_capacity")
            async with at.client.ws_connect(at.ws, headers={"X-API-Key": other}):
                pass


async def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    async with keyed(tmp_path / "keys") as at:
        assert await status(at, "anything") == 401
        async with at.client.get(at.http + "/ready") as ready:
            assert (await ready.json())["auth_required"] is True


async def test_a_session_is_transcribed_for_a_key_of_the_file(tmp_path: Path) -> None:
    key = new_key()
    async with keyed(tmp_path / "keys", KeyEntry("alice", hash_key(key))) as at:
        heard = await transcribe(at, cut(bytes(32_000)), query=f"?api_key={key}")
    assert heard.events[-1]["type"] == "done"
