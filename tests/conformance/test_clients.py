"""Clients as their vendors publish them, unmodified, speaking to Perch instead: the same words as its own client."""

import asyncio
import json
from typing import Any

import pytest

from conformance.conftest import Demo
from conformance.environments import CLIENTS, environment
from speech import clips, normalised

pytestmark = pytest.mark.timeout(180)
JFK = next(clip for clip in clips() if clip.path.stem == "jfk")


async def run(demo: Demo, sdk: str, program: str, variant: str, key: str | None = None) -> dict[str, Any]:
    """What the client program prints at the end."""
    python = await asyncio.to_thread(environment, sdk)
    client = await asyncio.create_subprocess_exec(
        python,
        CLIENTS / f"{program}.py",
        demo.http,
        key or demo.key,
        JFK.path,
        variant,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(client.communicate(), 120)
    lines = out.decode().strip().splitlines()
    if client.returncode:
        return {"failed": err.decode()}
    said: dict[str, Any] = json.loads(lines[-1])
    return said


def words(text: str) -> list[str]:
    return normalised(text).split()


@pytest.mark.parametrize(
    ("sdk", "program", "variant"),
    [
        ("deepgram", "deepgram_live", "sync"),
        ("deepgram", "deepgram_live", "async"),
        ("assemblyai", "assemblyai_live", "sync"),
        ("assemblyai", "assemblyai_live", "async"),
        ("vosk", "vosk_file", "async"),
        ("openai", "openai_realtime", "sync"),
        ("openai", "openai_realtime", "async"),
        ("openai", "openai_realtime", "manual"),
        ("nvidia", "nvidia_realtime", "mint"),
        ("nvidia", "nvidia_realtime", "open"),
        ("openai", "openai_rest", "sync"),
        ("openai", "openai_rest", "async"),
        ("deepgram", "deepgram_rest", "sync"),
        ("deepgram", "deepgram_rest", "async"),
    ],
)
async def test_the_same_words_as_by_the_native_client(
    demo: Demo, sdk: str, program: str, variant: str
) -> None:
    """C.4: an unmodified client, a real recording, a real engine."""
    heard = await run(demo, sdk, program, variant)
    assert "failed" not in heard, heard["failed"]
    assert words(heard["text"]) == await asyncio.to_thread(demo.words, JFK)


@pytest.mark.parametrize(
    ("sdk", "program", "variant"),
    [
        ("deepgram", "deepgram_live", "sync"),
        ("deepgram", "deepgram_live", "async"),
        ("openai", "openai_realtime", "sync"),
        ("openai", "openai_realtime", "async"),
        ("nvidia", "nvidia_realtime", "mint"),
        ("vosk", "vosk_file", "async"),
    ],
)
async def test_a_wrong_key_is_told_as_a_refusal_with_status_401(
    demo: Demo, sdk: str, program: str, variant: str
) -> None:
    heard = await run(demo, sdk, program, variant, key="wrong")
    assert "401" in heard["failed"]


@pytest.mark.parametrize("variant", ["sync", "async"])
async def test_assemblyais_client_reports_a_wrong_key_as_an_error_event(demo: Demo, variant: str) -> None:
    heard = await run(demo, "assemblyai", "assemblyai_live", variant, key="wrong")
    assert heard["errors"][0].startswith("401")
