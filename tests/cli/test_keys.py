"""``perch keys``: keys are printed once, changed by name, and checked without being shown."""

import asyncio
import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateways import gateway
from perch.asr.mock import MockASRClient
from perch.cli.main import main
from perch.server.config import AccessConfig, GatewayConfig
from perch.server.keys import read_entries
from perch.server.principal import KeyLimits


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "state/keys.jsonl"
    monkeypatch.setenv("PERCH_KEY_STORE", str(path))
    return path


def printed_key(capsys: pytest.CaptureFixture[str]) -> str:
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("pk_"))


def keys(*arguments: str) -> int:
    return main(["keys", *arguments])


def test_a_new_key_is_printed_once_and_its_hash_kept(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys("new", "alice", "--sessions", "3", "--audio-s-per-min", "600", "--expires", "90d") == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("pk_")
    assert key not in store.read_text(encoding="utf-8")
    [entry] = read_entries(store)
    assert entry.limits == KeyLimits(3, 600, None)
    assert entry.expires is not None
    assert abs(entry.expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)
    assert keys("list") == 0
    listed = capsys.readouterr().out
    assert listed.startswith("alice\tuntil ")
    assert "3 sessions, 600 s of audio/min" in listed
    assert key not in listed


def test_check_reads_the_key_where_no_process_list_shows_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys("new", "alice", "--scopes", "models,tokens")
    key = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO(key))
    assert keys("check") == 0
    assert capsys.readouterr().out == "alice\tmodels,tokens\n"
    keys("revoke", "alice")
    monkeypatch.setattr(sys, "stdin", io.StringIO(key))
    assert keys("check") == 1
    assert "revoked" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("pk_wrong\n"))
    assert keys("check") == 1


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("new",), "needs the name"),
        (("new", "a b"), "name must be"),
        (("new", "a", "--scopes", "root"), "scopes must be"),
        (("new", "a", "--expires", "soon"), "say 90d"),
        (("new", "a", "--sessions", "0"), "at least 1"),
        (("new", "there"), "another entry called there"),
        (("revoke", "nobody"), "no key called nobody"),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], about: str
) -> None:
    keys("new", "there")
    before = store.read_bytes()
    capsys.readouterr()
    assert keys(*arguments) == 2
    printed = capsys.readouterr()
    assert about in printed.err
    assert printed.out == ""
    assert store.read_bytes() == before


def test_comments_stay_and_certificates_need_no_key(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.parent.mkdir(parents=True)
    store.write_text("# whom to ask: operations\n", encoding="utf-8")
    assert keys("new", "pbx", "--certificate", "pbx.example", "--expires", "2040-01-02") == 0
    assert capsys.readouterr().out == ""
    assert store.read_text(encoding="utf-8").startswith("# whom to ask: operations\n{")
    [entry] = read_entries(store)
    assert (entry.certificate, entry.hash) == ("pbx.example", "")
    assert entry.expires == datetime(2040, 1, 2, tzinfo=UTC)


async def test_a_running_gateway_takes_what_the_command_writes(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(keys, "new", "first")
    first = printed_key(capsys)
    async with gateway(MockASRClient(), GatewayConfig(access=AccessConfig(key_store=store))) as at:

        async def status(key: str) -> int:
            async with at.client.get(at.http + "/v1/models", headers={"X-API-Key": key}) as answer:
                return answer.status

        assert await status(first) == 200
        await asyncio.to_thread(keys, "new", "second")
        second = printed_key(capsys)
        await asyncio.to_thread(keys, "revoke", "first")
        async with asyncio.timeout(20):
            while (await status(first), await status(second)) != (401, 200):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
