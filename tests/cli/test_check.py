"""``perch check riva``: what it finds, and why it finds nothing."""

import argparse
import asyncio
import socket
from collections.abc import Iterator

import pytest

from engines import scripted_engine
from perch.cli import check


async def run(address: str) -> int:
    """In a thread: it has an event loop of its own."""
    return await asyncio.to_thread(check.run, argparse.Namespace(address=address))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_TIMEOUT_MS", "500")


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    """A port of which nobody else takes hold."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one


async def test_an_engine_is_told_with_its_models(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted_engine() as engine:
        assert await run(engine.address) == 0
    assert "scripted  [en-US]" in capsys.readouterr().out


async def test_a_name_that_is_not_known_is_told_from_a_port_where_nothing_listens(
    capsys: pytest.CaptureFixture[str], bound: socket.socket
) -> None:
    assert await run("no.such.invalid:50051") == 1
    assert "The name no.such.invalid cannot be looked up" in capsys.readouterr().err
    port = bound.getsockname()[1]
    assert await run(f"127.0.0.1:{port}") == 1
    assert f"Nothing listens on port {port} of 127.0.0.1" in capsys.readouterr().err


async def test_what_listens_and_speaks_otherwise_is_told_as_such(
    capsys: pytest.CaptureFixture[str], bound: socket.socket
) -> None:
    bound.listen()
    port = bound.getsockname()[1]
    assert await run(f"127.0.0.1:{port}") == 1
    assert f"Something listens on port {port} of 127.0.0.1" in capsys.readouterr().err
