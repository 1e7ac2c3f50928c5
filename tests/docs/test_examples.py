"""The examples, run as a reader runs them: as programs, against a real gateway over a real engine."""

import asyncio
import sys
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from docs.pages import ROOT
from engines import scripted_engine, tone_speech
from gateways import gateway
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.messages import Backend
from perch.server.dialects import STREAM_PATH

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.wav"
    with wave.open(str(path), "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(tone_speech("hello bird", "stop now"))
    return path


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, str]]:
    """The WebSocket address of a gateway, and the address of its engine."""
    async with scripted_engine() as engine:
        config = RivaConfig(endpoints=(engine.address,), backend=Backend("engine"))
        async with gateway(RivaASRClient(config)) as served:
            yield served.ws, engine.address


async def run(example: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "examples" / example), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, problems = await process.communicate()
    return process.returncode, output.decode(), problems.decode()


async def test_stream_file_prints_the_words_of_a_recording(recording: Path) -> None:
    async with serving() as (url, _):
        assert await run("stream_file.py", str(recording), url) == (0, "hello bird\nstop now\n", "")


async def test_live_words_prints_partials_before_each_final(recording: Path) -> None:
    async with serving() as (url, _):
        status, output, problems = await run("live_words.py", str(recording), url)
    assert (status, problems) == (0, "")
    lines = [line.partition(" s  ")[2] for line in output.splitlines()]
    assert [line for line in lines if line.startswith("=")] == ["= hello bird", "= stop now"]
    assert lines[0].startswith("… hello")


async def test_asr_client_asks_the_engine_without_a_gateway(recording: Path) -> None:
    async with serving() as (_, engine):
        status, output, problems = await run("asr_client.py", str(recording), engine)
    assert (status, problems) == (0, "")
    assert [line.partition(" s  ")[2] for line in output.splitlines()] == ["hello bird", "stop now"]


@pytest.mark.parametrize("example", ["stream_file.py", "live_words.py"])
async def test_an_example_says_what_the_gateway_refused(example: str, recording: Path) -> None:
    async with serving() as (url, _):
        status, _, problems = await run(example, str(recording), f"{url}?encoding=mp3")
    assert status == 1
    assert "[bad_config]" in problems
    assert "Traceback" not in problems


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES if f'run("{path.name}"' not in source] == []
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert f"python examples/{path.name}" in text, "the first line says how to start it"
        assert "SERVER" not in text or STREAM_PATH in text
