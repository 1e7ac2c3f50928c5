"""The golden suite as a user runs it: the whole manifest but its two-minute clip, against ``perch demo``."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from processes import ROOT, perch, running

pytestmark = [pytest.mark.golden, pytest.mark.timeout(400)]


async def test_the_embedded_recogniser_keeps_its_limits(tmp_path: Path) -> None:
    """MIS-10, 003-108. The long clip is left out for its time: ``perch quality --only long`` measures it."""
    async with running(*perch("demo", "--port", "0")) as gateway:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perch", "quality", "--server", gateway.url, "-o", str(tmp_path)),
            *("--skip", "long", "--pace", "6", "--jobs", "3", "--pid", str(gateway.process.pid)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(300):
            output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    told = json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))
    assert told["profile"] == "embedded"
    assert len(told["clips"]) == 18
    assert {clip["sample_rate"] for clip in told["clips"]} == {8_000, 16_000}
    assert told["all"]["memory_mib"] > 100, "the recogniser's model is in the figure"
