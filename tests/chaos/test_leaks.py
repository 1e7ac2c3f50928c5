"""The leak check sees what it should see."""

import asyncio
import socket
import tempfile

import pytest

from chaos.leaks import at_rest, no_leaks
from gateways import gateway, next_event
from perch.asr.mock import MockASRClient


async def test_it_lets_pass_what_cleans_up_after_itself() -> None:
    async with no_leaks():
        with socket.socket(), tempfile.TemporaryFile():
            await asyncio.create_task(asyncio.sleep(0))


async def test_it_waits_for_what_ends_soon() -> None:
    async with no_leaks():
        ending = asyncio.create_task(asyncio.sleep(0.2))
    assert ending.done()


async def test_it_sees_a_task() -> None:
    forgotten: asyncio.Task[None] | None = None
    with pytest.raises(AssertionError, match="forgotten"):
        async with no_leaks(patience_s=0.1):
            forgotten = asyncio.create_task(asyncio.sleep(60), name="forgotten")
    assert forgotten is not None
    forgotten.cancel()


async def test_it_sees_a_descriptor() -> None:
    kept: list[socket.socket] = []
    with pytest.raises(AssertionError, match="descriptors"):
        async with no_leaks(patience_s=0.1):
            kept.append(socket.socket())
    kept[0].close()


async def test_it_sees_a_temporary_file() -> None:
    with pytest.raises(AssertionError, match="left_over"):
        async with no_leaks():
            tempfile.mkdtemp(prefix="left_over")


async def test_it_sees_memory() -> None:
    kept: list[bytes] = []
    with pytest.raises(AssertionError, match="MiB more"):
        async with no_leaks(rss_mib=16):
            kept.append(b"x" * (32 << 20))


async def test_it_sees_a_place_that_is_not_given_back() -> None:
    async with gateway(MockASRClient()) as at:
        async with at.client.ws_connect(at.ws) as socket:
            await next_event(socket)
            with pytest.raises(AssertionError, match="leases"):
                await at_rest(at, patience_s=0.1)
        await at_rest(at)
