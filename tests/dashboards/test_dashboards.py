"""The dashboard and the alerts over a real Prometheus that scrapes a loaded gateway (rows 003-096, 003-098, 003-151)."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from dashboards.prometheus import Prometheus, program, scraping
from engines import scripted_engine
from gateways import cut
from load_tool.gateways import listening
from perch.asr.pool import PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.asr.stream import StreamConfig
from perch.audio.tones import synthesise
from perch.observability.engine import EngineWatch
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.app import build_app
from perch.server.config import AdmissionConfig, GatewayConfig
from perch.server.dialects import STREAM_PATH

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "dashboards/perch.json").read_text(encoding="utf-8"))
ALERTS = (ROOT / "dashboards/alerts.yml").read_text(encoding="utf-8")
SPEECH = synthesise(["hello bird", "stop now"])
SESSIONS = 4
DEADLINE_S = 40.0


def test_the_files_are_what_the_script_writes() -> None:
    spec = spec_from_file_location("make_dashboards", ROOT / "scripts/make_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    assert json.loads(made.dashboard()) == DASHBOARD, "run scripts/make_dashboards.py"
    assert made.alerts() == ALERTS, "run scripts/make_dashboards.py"


def test_alerts_fire_when_they_should_and_only_then() -> None:
    arguments = [program("promtool"), "test", "rules", str(Path(__file__).with_name("alerts_test.yml"))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exposition_is_as_prometheus_wants_it() -> None:
    arguments = [program("promtool"), "check", "metrics"]
    body, _ = Metrics().render()
    done = subprocess.run(arguments, input=body, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@asynccontextmanager
async def gateway(*engines: str) -> AsyncIterator[str]:
    """The gateway before two engines, willing to take ``SESSIONS``; yields its address."""
    metrics, tracing = Metrics(), Tracing(None)
    riva = RivaConfig(
        endpoints=engines,
        pool=PoolConfig(fail_max=2, reset_timeout_s=60.0),
        stream=StreamConfig(outage_s=1.0, replay_speed=100.0),
    )
    client = RivaASRClient(riva, watch=EngineWatch(metrics, tracing))
    config = GatewayConfig(
        tls=None,
        admission=AdmissionConfig(
            max_sessions=SESSIONS, max_sessions_per_key=SESSIONS, max_sessions_per_address=SESSIONS
        ),
        monitor_s=0.2,
    )
    app: web.Application = build_app(config, client, metrics, tracing)
    async with listening(app) as address:
        yield address


async def speak(address: str, together: asyncio.Barrier | None = None) -> str:
    """One session at the pace of speech; how it ended.

    ``together`` is met when the engine has answered, and again before the session goes on.
    """
    async with aiohttp.ClientSession() as http:
        try:
            socket = await http.ws_connect(address + STREAM_PATH)
        except aiohttp.WSServerHandshakeError as error:
            return f"refused {error.status}"
        async with socket:
            for frame in cut(SPEECH):
                await socket.send_bytes(frame)
                await asyncio.sleep(0.1)
            if together is not None:
                while (await socket.receive_json())["type"] != "partial":
                    pass
                await together.wait()
                await together.wait()
            await socket.send_json({"type": "stop"})
            last = ""
            async for message in socket:
                last = message.json()["type"]
            return last


async def resume(address: str) -> None:
    """A client that loses its socket and comes back."""
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(address + STREAM_PATH) as socket:
            await socket.send_bytes(SPEECH[:32_000])
            ready = await socket.receive_json()
            socket._response.connection.transport.abort()  # type: ignore[union-attr]
        async with http.ws_connect(address + STREAM_PATH) as socket:
            await socket.send_json({"type": "resume", "token": ready["resume"]["token"], "last_seq": 1})
            await socket.send_json({"type": "stop"})
            async for _ in socket:
                pass


async def eventually(
    holds: Callable[[], Coroutine[Any, Any, bool]],
    what: str,
    meanwhile: Callable[[], Coroutine[Any, Any, Any]],
) -> None:
    """Go on with ``meanwhile`` until ``holds``."""
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():
            await meanwhile()
    assert what


def as_run(expression: str) -> str:
    """A panel's query with what Grafana puts in, for a Prometheus that has been running for seconds."""
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*")


@pytest.mark.timeout(150)
async def test_every_panel_shows_something_and_a_dead_engine_pages(tmp_path: Path) -> None:
    at_once = re.sub(r"\n +for: \w+", "", ALERTS)
    async with scripted_engine() as first, scripted_engine() as second:
        async with (
            gateway(first.address, second.address) as address,
            scraping(address.removeprefix("http://"), at_once, tmp_path) as prometheus,
        ):
            await _load(address, first.stop)
            queries = {
                f"{panel['title']} ({target['legendFormat']})": as_run(target["expr"])
                for panel in DASHBOARD["panels"]
                for target in panel["targets"]
            }
            await _all_answer(prometheus, queries, address)
            assert "PerchEngineDown" not in await prometheus.firing(), "the second engine still serves"
            assert await _interrupted(address, partial(second.stop, 0)) == {"error"}
            expected = {"PerchEngineDown", "PerchSessionsFailing", "PerchEngineLeftAlone"}

            async def all_fire() -> bool:
                return expected <= await prometheus.firing()

            await eventually(all_fire, "alerts", partial(speak, address))


async def _load(address: str, kill: Callable[[float], Coroutine[Any, Any, None]]) -> None:
    """Sessions of every fate: well, refused, resumed, failed over."""

    async def refuse_and_kill() -> None:
        refused = await speak(address)
        assert refused.startswith("refused 503"), refused
        await kill(0)

    assert await _interrupted(address, refuse_and_kill) == {"done"}
    await resume(address)


async def _interrupted(address: str, by: Callable[[], Coroutine[Any, Any, None]]) -> set[str]:
    """How as many sessions as the gateway takes end, when ``by`` happens while all of them are speaking."""
    together = asyncio.Barrier(SESSIONS + 1)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        speaking = [group.create_task(speak(address, together)) for _ in range(SESSIONS)]
        await together.wait()
        await by()
        await together.wait()
    return {session.result() for session in speaking}


async def _all_answer(prometheus: Prometheus, queries: dict[str, str], address: str) -> None:
    missing = dict(queries)
    expected_empty = {"Engine failures by code ({{code}})"}  # until an engine has ended a session for good

    async def shown() -> bool:
        for name, expression in list(missing.items()):
            result = await prometheus.query(expression)
            if any(sample["value"][1] != "NaN" for sample in result):
                del missing[name]
        return not missing.keys() - expected_empty

    try:
        await eventually(shown, "panels", partial(speak, address))
    except TimeoutError:
        pytest.fail(f"panels without data: {sorted(missing)}")
