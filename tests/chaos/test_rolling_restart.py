"""Two gateway processes behind nginx are replaced one after the other while people speak; nobody notices."""

import asyncio
import itertools
import shutil
import socket as socket_module
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from engines import scripted_engine, tone_speech
from perch.server.dialects import STREAM_PATH
from processes import Running, perch, running
from relays import relay
from resuming import ResumingClient, finals

SENTENCES = ["open the door", "stop now", "hello bird", "open now"] * 2
SPEECH = tone_speech(*SENTENCES)
SESSIONS = 50
PACE_S = 0.1
"""Between frames of 100 ms: real time."""

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 4096;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream perch {{
    server 127.0.0.1:{ports[0]} max_fails=0;
    server 127.0.0.1:{ports[1]} max_fails=0;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://perch;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_set_header Host $http_host;
      proxy_next_upstream error timeout http_503;
      proxy_read_timeout 60s;
    }}
  }}
}}
"""


def free_port() -> int:
    with socket_module.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@asynccontextmanager
async def nginx(folder: Path, ports: tuple[int, int]) -> AsyncIterator[str]:
    """The proxy's address, once it answers."""
    assert NGINX is not None
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, ports=ports, port=port))
    process = await asyncio.create_subprocess_exec(NGINX, "-e", str(folder / "error.log"), "-c", str(config))
    try:
        async with asyncio.timeout(30):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Fleet:
    """Gateway processes on two ports that share an engine and a state directory."""

    def __init__(self, folder: Path, engine: str) -> None:
        host, _, port = engine.rpartition(":")
        self._environment = {
            "PERCH_STATE_DIR": str(folder / "state"),
            "PERCH_DRAIN_S": "0.5",
            "PERCH_LOG_LEVEL": "warning",
            "RIVA_HOST": f"{host}:{port}",
        }

    @asynccontextmanager
    async def gateway(self, port: int) -> AsyncIterator[Running]:
        command = perch("serve", "--no-tls", "--port", str(port))
        async with running(*command, environment=self._environment) as process:
            yield process


@needs_nginx
@pytest.mark.timeout(180)
async def test_a_rolling_restart_loses_no_word_of_any_session(tmp_path: Path) -> None:
    async with scripted_engine(slots=2 * SESSIONS) as engine:
        fleet, ports = Fleet(tmp_path, engine.address), (free_port(), free_port())
        async with (
            nginx(tmp_path, ports) as proxy,
            fleet.gateway(ports[0]) as first,
            fleet.gateway(ports[1]) as second,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        ):
            url = f"ws://{proxy}{STREAM_PATH}"
            alone = ResumingClient(http, lambda: url, SPEECH)
            undisturbed = finals(await alone.run())
            clients = [ResumingClient(http, lambda: url, SPEECH, pace_s=PACE_S) for _ in range(SESSIONS)]
            speaking = [asyncio.create_task(client.run(120)) for client in clients]
            await asyncio.sleep(2)
            await first.stop()
            async with fleet.gateway(ports[0]):
                await second.stop()
                async with fleet.gateway(ports[1]):
                    for heard in await asyncio.gather(*speaking):
                        assert finals(heard) == undisturbed
            assert all(client.resumed for client in clients), "every process was replaced meanwhile"


@pytest.mark.timeout(90)
async def test_a_session_moves_between_two_processes_that_both_live(tmp_path: Path) -> None:
    async with scripted_engine() as engine:
        fleet, ports = Fleet(tmp_path, engine.address), (free_port(), free_port())
        turns = itertools.cycle(ports)
        async with (
            fleet.gateway(ports[0]),
            fleet.gateway(ports[1]),
            aiohttp.ClientSession() as http,
            relay(ports[0], lambda: 120_000) as cutting,
        ):
            straight = ResumingClient(http, lambda: f"ws://127.0.0.1:{ports[0]}{STREAM_PATH}", SPEECH)
            undisturbed = finals(await straight.run())

            def next_process() -> str:
                cutting.port = next(turns)
                return f"ws://{cutting.url}{STREAM_PATH}"

            client = ResumingClient(http, next_process, SPEECH, pace_s=0.005)
            assert finals(await client.run()) == undisturbed
            assert client.resumed > 2
