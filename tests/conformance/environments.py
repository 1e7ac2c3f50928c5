"""Clients as their users install them: each SDK unmodified, at a pinned version, in an environment of its own."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import ROOT

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"
_KEPT_IN = ROOT / ".tools/conformance"
_INSTALL_S = 300


def environment(name: str) -> Path:
    """The Python that has what ``requirements/NAME.txt`` lists and nothing of Perch; made on first use.

    Where packages cannot be had the test is skipped, but not in the gate.
    """
    requirements = HERE / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = _KEPT_IN / f"{name}-{digest}"
    python = folder / "bin/python"
    _KEPT_IN.mkdir(parents=True, exist_ok=True)
    with (_KEPT_IN / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, python, requirements)
            (folder / "complete").touch()
    return python


def _make(folder: Path, python: Path, requirements: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
    ):
        made = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
        if made.returncode:
            problem = f"{requirements.stem} could not be installed: {made.stderr.strip()[-500:]}"
            if os.environ.get("CI"):
                pytest.fail(problem)
            pytest.skip(problem)
