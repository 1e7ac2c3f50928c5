"""The disk is full when a session should be handed to another process: the client is told, and goes without."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos.leaks import at_rest
from engines import scripted_engine
from gateways import Heard, cut, gateway, listen
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.audio import RATE, samples_to_bytes
from perch.server.config import GatewayConfig
from perch.server.lifecycle import drain

QUIET = bytes(samples_to_bytes(30 * RATE))
"""Without a word there is no final, so all of it would have to be handed over."""


@contextmanager
def files_no_longer_than(limit: int) -> Iterator[None]:
    """Longer ones fail to be written, as all do when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_session_that_cannot_be_written_ends_with_a_coded_error_and_leaves_no_file(
    tmp_path: Path,
) -> None:
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        async with gateway(client, GatewayConfig(state_dir=tmp_path)) as at:
            async with at.client.ws_connect(at.ws) as socket:
                heard = Heard()
                listening = asyncio.create_task(listen(socket, heard))
                for frame in cut(QUIET):
                    await socket.send_bytes(frame)
                async with asyncio.timeout(30):
                    while not any(ack["audio_s"] >= 29 for ack in heard.of("ack")):  # noqa: ASYNC110 - no event for it
                        await asyncio.sleep(0.02)
                with files_no_longer_than(len(QUIET) // 2):
                    await drain(at.parts, 0.1, asyncio.Event())
                await listening
            await at_rest(at, client.pool)
    assert (heard.error, heard.close_code) == ("going_away", 1012)
    assert files_in(tmp_path) == []


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
