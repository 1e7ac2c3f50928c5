"""``perch bench load`` as an operator runs it, against the real gateway in its own process."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from engines import scripted_engine
from gateways import gateway
from load_tool.gateways import mock_gateway
from perch.asr.attempt import AttemptTimeouts
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.asr.stream import StreamConfig
from perch.loadtest.records import Target
from perch.loadtest.results import Slo
from perch.loadtest.steps import Plan, Progress, run_step
from perch.server.config import AdmissionConfig
from perch.server.dialects import STREAM_PATH
from processes import perch

WIDE = Slo(partial_p95_ms=20_000, final_p95_ms=20_000, error_rate=0.0)
OPTIONS = ("--seconds", "1", "--warm-up", "0.2", "--slo-partial-ms", "20000", "--slo-final-ms", "20000")


def plan(http: str, **changes: Any) -> Plan:
    target = Target(http.replace("http", "ws", 1) + STREAM_PATH, timeout_s=10.0)
    options = {"seconds": 2.5, "warm_up_s": 0.2, "session_s": 2.2, "slo": WIDE, **changes}
    return Plan(target, f"{http}/metrics", **options)


def ignore(progress: Progress) -> None:
    del progress


async def bench(*arguments: str) -> tuple[int, str]:
    """The exit status, and all that was said."""
    process = await asyncio.create_subprocess_exec(
        *perch("bench", "load", *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(50):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


def report(folder: Path) -> dict[str, Any]:
    assert "<svg" in (folder / "load.html").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads((folder / "load.json").read_text(encoding="utf-8"))
    return found


# --- a step


async def test_a_step_measures_the_whole_road_to_an_engine() -> None:
    """003-110, 003-111: N sessions at the pace of speech, with every figure of the report."""
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        try:
            async with gateway(client) as at:
                step = await run_step(plan(at.http, processes=2), 4, ignore, asyncio.Event())
        finally:
            await client.aclose()
    assert step.held, step.problems
    assert step.attempts > 4, "users begin another session when one is over"
    assert step.outcomes == {"done": step.attempts}
    for spread in (step.ready, step.first_partial, step.partial, step.final, step.done, step.rtfx, step.late):
        assert spread.count
        assert spread.p50 is not None
    assert 0.5 < (step.rtfx.p50 or 0) <= 1.0
    assert (step.final.p50 or 0) > 400, "half a second of silence is part of a final's latency"
    assert step.server is not None
    assert step.server.cpu_ms_per_stream_s is not None


async def test_one_session_too_many_is_refused_and_the_others_go_on() -> None:
    """003-115: limit 5, 8 asked: 3 are told at_capacity and when to come back; 5 finish."""
    admission = AdmissionConfig(max_sessions=5, max_sessions_per_key=5, max_sessions_per_address=5)
    async with mock_gateway(admission=admission) as http:
        step = await run_step(plan(http, session_s=200.0), 8, ignore, asyncio.Event())
    assert step.outcomes["at_capacity"] == step.refused == 3
    assert step.retry_after_s == [2.0]
    assert step.outcomes["done"] == 5
    assert step.failed == step.disconnected == 0
    assert step.partial.count
    assert not step.held


async def test_an_engine_that_dies_in_a_step_is_counted_as_errors() -> None:
    async with scripted_engine() as engine:
        config = RivaConfig(
            endpoints=(engine.address,),
            stream=StreamConfig(outage_s=0.5),
            timeouts=AttemptTimeouts(connect_s=1.0),
        )
        client = RivaASRClient(config)
        dying: list[asyncio.Task[None]] = []

        def kill(progress: Progress) -> None:
            if progress.open == 3 and not dying:
                dying.append(asyncio.create_task(engine.stop(grace_s=0)))

        try:
            async with gateway(client) as at:
                step = await run_step(plan(at.http, session_s=200.0), 3, kill, asyncio.Event())
            await asyncio.gather(*dying)
        finally:
            await client.aclose()
    assert dying
    assert step.failed >= 3
    assert {"engine_unavailable", "engine_failed", "engine_timeout"} & step.outcomes.keys()
    assert not step.held


async def test_a_gateway_that_is_not_there_is_an_error_of_every_session() -> None:
    step = await run_step(plan("http://127.0.0.1:9", seconds=1.0), 2, ignore, asyncio.Event())
    assert step.failed == step.attempts >= 2
    assert any("cannot_connect" in outcome for outcome in step.outcomes)
    assert step.server is None


async def test_a_step_that_is_stopped_gives_what_there_is() -> None:
    stop = asyncio.Event()

    def enough(progress: Progress) -> None:
        if progress.open == 2:
            stop.set()

    async with mock_gateway() as http:
        step = await run_step(plan(http, seconds=600.0), 2, enough, stop)
    assert step.cut
    assert step.failed == 0


# --- the command


async def test_the_command_reports_each_concurrency(tmp_path: Path) -> None:
    async with mock_gateway() as http:
        status, said = await bench("--url", http, "--sessions", "2,3", "-o", str(tmp_path), *OPTIONS)
    assert status == 0, said
    assert "Every SLO held at 3 sessions" in said
    assert [step["sessions"] for step in report(tmp_path)["steps"]] == [2, 3]


async def test_a_ramp_ends_with_a_knee_at_the_gateways_own_limit(tmp_path: Path) -> None:
    admission = AdmissionConfig(max_sessions=3, max_sessions_per_key=3, max_sessions_per_address=3)
    async with mock_gateway(admission=admission) as http:
        arguments = ("--ramp", "2", "--session-seconds", "200", "-o", str(tmp_path), *OPTIONS)
        status, said = await bench("--url", http, *arguments, "--seconds", "1")
    found = report(tmp_path)
    assert status == 0, said
    assert (found["knee"], found["limit"]) == (3, "admission") or found["knee"] == 2
    assert "PERCH_MAX_SESSIONS" in said


async def test_a_missed_slo_is_exit_status_1(tmp_path: Path) -> None:
    async with mock_gateway() as http:
        arguments = ("--sessions", "1", *OPTIONS, "--slo-partial-ms", "0.0001", "-o", str(tmp_path))
        status, said = await bench("--url", http, *arguments)
    assert status == 1
    assert "partial p95" in said


async def test_an_interrupt_still_writes_the_report(tmp_path: Path) -> None:
    async with mock_gateway() as http:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perch", "bench", "load", "--url", http, "--sessions", "2"),
            *("--seconds", "600", "--max-minutes", "60", "-o", str(tmp_path)),
            env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": "120"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"2 open" not in await process.stderr.readuntil(b"refused"):
                pass
            process.send_signal(signal.SIGINT)
            said, _ = await process.communicate()
    assert process.returncode == 1
    assert b"It was interrupted." in said
    assert report(tmp_path)["ended"] == "It was interrupted."


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("--url", "ftp://x"), "not a server"),
        (("--clips", "/nowhere.wav"), "No such file"),
        (("--ca", "/nowhere.pem"), "is not a file"),
        (("--sessions", "99999999"), "ulimit"),
        (("--sessions", "none"), "invalid"),
    ],
)
async def test_misuse_is_exit_status_2_and_says_what_is_wrong(
    arguments: tuple[str, ...], mistake: str
) -> None:
    status, said = await bench(*arguments)
    assert status == 2
    assert mistake in said
