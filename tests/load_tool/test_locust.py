"""Locust itself, as an operator runs it, against the gateway over the mock backend."""

import asyncio
import json
import os
import sys
import wave
from pathlib import Path
from typing import Any

from load_tool.gateways import mock_gateway
from perch.core.audio import RATE
from perch.observability.metrics import Metrics

ROOT = Path(__file__).parents[2]


def loud_wav(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(b"\x00\x40" * (RATE * 6 // 10))
    return path


async def locust(host: str, wav: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Two users for two seconds: the exit status, and the report by row."""
    options = [
        "--headless",
        "--json",
        "-u",
        "2",
        "-r",
        "2",
        "-t",
        "2s",
        "--stop-timeout",
        "10",
        "--loglevel",
        "ERROR",
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", "load/locustfile.py", "--host", host, *options),
        cwd=ROOT,
        env=os.environ | {"PERCH_LOAD_WAV": str(wav)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    rows: list[dict[str, Any]] = json.loads(out[out.index(b"[") :]) if b"[" in out else []
    assert rows, err.decode()
    return process.returncode, {row["name"]: row for row in rows}


async def test_users_stream_and_every_stage_is_reported(tmp_path: Path) -> None:
    metrics = Metrics()
    async with mock_gateway(metrics) as host:
        status, rows = await locust(host, loud_wav(tmp_path / "speech.wav"))
    assert status == 0
    assert rows.keys() == {
        "connect",
        "first partial",
        "final after last audio",
        "done after last audio",
        "session",
    }
    sessions = rows["session"]["num_requests"]
    assert sessions >= 2
    assert rows["connect"]["num_requests"] == sessions
    assert all(row["num_failures"] == 0 for row in rows.values())
    assert rows["session"]["min_response_time"] >= 600
    closed = f'perch_sessions_closed_total{{outcome="done"}} {sessions:.1f}'
    assert closed in metrics.render()[0].decode()


async def test_refusals_are_failures_and_make_the_run_fail(tmp_path: Path) -> None:
    async with mock_gateway(asr_enabled=False) as host:
        status, rows = await locust(host, loud_wav(tmp_path / "speech.wav"))
    assert status == 1
    assert rows.keys() == {"connect"}
    assert rows["connect"]["num_failures"] == rows["connect"]["num_requests"] > 0
