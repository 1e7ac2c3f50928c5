"""Connections that send no request, or half of one, are ended; those that did are left alone."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import aiohttp
import pytest

from perch.asr.mock import MockASRClient
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.app import build_app
from perch.server.config import GatewayConfig
from perch.server.lifecycle import serve


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a request"])
async def test_a_connection_without_a_request_is_ended(sent: bytes, tmp_path: object) -> None:
    config = replace(GatewayConfig(), port=0, tls=None, state_dir=tmp_path, request_head_s=0.3)  # type: ignore[arg-type]
    ports: asyncio.Queue[int] = asyncio.Queue()
    stop = asyncio.Event()
    app = build_app(config, MockASRClient(), Metrics(), Tracing(None))
    serving = asyncio.create_task(serve(app, on_listening=ports.put_nowait, stop=stop))
    async with asyncio.timeout(20):
        port = await ports.get()
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{port}/ws/transcribe") as socket:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                with suppress(ConnectionResetError):
                    assert await reader.read() == b"", "nothing is answered to half a request"
                writer.close()
                await socket.send_json({"type": "stop"})
                kinds = [message.json()["type"] async for message in socket]
        stop.set()
        await serving
    assert kinds[-1] == "done", "a session that began in time goes on"
