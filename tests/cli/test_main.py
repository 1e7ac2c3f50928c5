"""``perch`` before its verb runs: what Ctrl-C does."""

import os
import subprocess
from pathlib import Path

import pytest

from processes import perch


def run(*arguments: str, standing_in: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """``perch`` with the modules of a folder in the place of its own libraries."""
    path = os.pathsep.join(filter(None, [str(standing_in), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        perch(*arguments),
        env={**os.environ, "PYTHONPATH": path, **environment},
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


@pytest.mark.parametrize(("chosen", "used"), [({}, "ERROR"), ({"GRPC_VERBOSITY": "info"}, "info")])
@pytest.mark.parametrize("verb", ["demo", "check"])
def test_grpc_tells_users_of_errors_only_unless_they_want_more(
    verb: str, chosen: dict[str, str], used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    (tmp_path / "grpc.py").write_text(
        "import os\nprint(os.environ.get('GRPC_VERBOSITY'), flush=True)\nos._exit(0)\n"
    )
    assert run(verb, standing_in=tmp_path, **chosen).stdout == f"{used}\n"
