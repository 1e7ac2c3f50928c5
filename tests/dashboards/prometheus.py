"""A Prometheus of a test's own: the real program, scraping on loopback several times a second."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

_READY_S = 30.0
_EVERY = "200ms"


def program(name: str) -> str:
    """The path of ``name``; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install prometheus)")
    return found


@dataclass(frozen=True)
class Prometheus:
    url: str
    http: aiohttp.ClientSession

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of ``expression`` now."""
        async with self.http.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
            body = await response.json()
        assert body["status"] == "success", body
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    async def firing(self) -> set[str]:
        async with self.http.get(f"{self.url}/api/v1/alerts") as response:
            body = await response.json()
        return {a["labels"]["alertname"] for a in body["data"]["alerts"] if a["state"] == "firing"}


@asynccontextmanager
async def scraping(target: str, rules: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Prometheus over ``target`` (``host:port``) with ``rules``, for as long as the block runs."""
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    config = {
        "global": {"scrape_interval": _EVERY, "scrape_timeout": _EVERY, "evaluation_interval": _EVERY},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [{"job_name": "perch", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = _free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as http:
            await _until_ready(f"http://127.0.0.1:{port}/-/ready", http)
            prometheus = Prometheus(f"http://127.0.0.1:{port}", http)
            async with asyncio.timeout(_READY_S):
                while not await prometheus.query("up == 1"):  # noqa: ASYNC110 - it looks for targets later
                    await asyncio.sleep(0.05)
            yield prometheus
    finally:
        process.terminate()
        await process.wait()


async def _until_ready(url: str, http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                async with http.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
