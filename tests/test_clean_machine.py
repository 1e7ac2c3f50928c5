"""What Perch promises to the machine it runs on."""

import os
import subprocess
import sys
from pathlib import Path

from processes import ROOT


def test_nothing_is_kept_to_report_who_uses_perch(tmp_path: Path) -> None:
    """onnxruntime would make a device id and queue what it is going to send, in the user's cache."""
    environment = {
        name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}
    }
    load = "from perch.inference.vad import SileroVad; SileroVad.load(); print('loaded')"
    done = subprocess.run(
        [sys.executable, "-c", load],
        cwd=ROOT,
        env={**environment, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "loaded\n"
    assert list(tmp_path.iterdir()) == []
