"""What a process makes once and keeps is made before anything is counted."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest_asyncio

from engines import scripted_engine
from gateways import gateway, transcribe
from perch.asr.riva_client import RivaASRClient, RivaConfig


@pytest_asyncio.fixture
async def warm() -> AsyncIterator[None]:
    """One session over the whole road: imports are done, gRPC's poller runs (for as long as there is a channel)."""
    async with scripted_engine() as engine:
        async with gateway(RivaASRClient(RivaConfig(endpoints=(engine.address,)))) as at:
            await transcribe(at, [bytes(3200)])
    async with grpc.aio.insecure_channel("127.0.0.1:9"):
        yield
