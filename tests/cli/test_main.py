"""``perch`` before its verb runs: what Ctrl-C does."""

import os
import subprocess
from pathlib import Path

import pytest

from processes import perch


def run(*arguments: str, standing_in: Path) -> "subprocess.CompletedProcess[str]":
    """``perch`` with the modules of a folder in the place of its own libraries."""
    path = os.pathsep.join(filter(None, [str(standing_in), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        perch(*arguments),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("verb", "library"), [("demo", "uvloop"), ("transcribe", "aiohttp")])
def test_ctrl_c_while_libraries_are_imported_says_nothing(verb: str, library: str, tmp_path: Path) -> None:
    """The library stands for a slow one: somebody presses Ctrl-C while it is imported."""
    interrupt = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    (tmp_path / f"{library}.py").write_text(interrupt)
    done = run(verb, standing_in=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
