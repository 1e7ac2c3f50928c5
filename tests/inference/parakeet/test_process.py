"""The process that a model lives in."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from perch.inference.parakeet import process
from perch.inference.parakeet.model import LoadOptions
from perch.inference.parakeet.process import ModelProcess


@pytest.mark.parametrize(("chosen", "told"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
async def test_openmp_waits_without_spinning_unless_the_operator_wants_it(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, told: str
) -> None:
    """Threads that spin take the core that another process needs: steps of seconds in place of a tenth."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if chosen is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    monkeypatch.setenv("PERCH_TEST_MARK", "handed on")
    process = await ModelProcess.start("tones", LoadOptions(path="nowhere", name="tones"), slots=1)
    try:
        environment = _environment(process.pid)
        assert environment["OMP_WAIT_POLICY"] == told
        assert environment["PERCH_TEST_MARK"] == "handed on"
    finally:
        await process.aclose()


def test_an_engine_that_hangs_up_while_the_model_is_loaded_ends_the_process_without_a_word() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    order = {"backend": "tones", "options": asdict(LoadOptions(path="nowhere", name="tones")), "slots": 1}
    with theirs:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "perch.inference.parakeet.worker"),
                *(str(theirs.fileno()), str(os.getpid()), json.dumps(order)),
            ],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        ({"PYTORCH_CUDA_ALLOC_CONF": "x"}, {"PYTORCH_CUDA_ALLOC_CONF": "x"}),
        ({"PYTORCH_ALLOC_CONF": "x"}, {"PYTORCH_ALLOC_CONF": "x"}),
    ],
)
def test_what_the_operator_says_of_pytorchs_memory_holds(
    given: dict[str, str], expected: dict[str, str]
) -> None:
    """By either of its names, though the one that Perch sets would win."""
    told = process._environment(given)
    assert {name: value for name, value in told.items() if "ALLOC" in name} == expected


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    names = [entry.partition("=")[0] for entry in entries]
    assert len(set(names)) == len(names)
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}
