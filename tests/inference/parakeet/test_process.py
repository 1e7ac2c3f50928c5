"""The process that a model lives in."""

from pathlib import Path

import pytest

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


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    names = [entry.partition("=")[0] for entry in entries]
    assert len(set(names)) == len(names)
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}
