"""Commands that messages name are the ones that their reader can type."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from perch.core.command import command

RUN = Path(__file__).parents[2] / "run"


def test_a_command_is_written_as_this_program_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERCH_COMMAND", raising=False)
    assert command("models list") == "perch models list"
    monkeypatch.setenv("PERCH_COMMAND", "./run")
    assert command("models list") == "./run models list"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize("verb", [["serve"], ["models", "list"], ["quality"], ["bench", "load"]])
def test_the_checkouts_script_names_itself(tmp_path: Path, verb: list[str]) -> None:
    checkout = tmp_path / "checkout"
    script(checkout / ".venv/bin/perch", 'echo "$PERCH_COMMAND: $*"')
    script(tmp_path / "bin/uv", "exit 0")
    shutil.copy(RUN, checkout / "run")
    done = subprocess.run(
        ["./run", *verb, "--option"],
        cwd=checkout,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == f"./run: {' '.join(verb)} --option\n"
