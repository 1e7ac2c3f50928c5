"""The page's modules under node: resampler, stream client, transcript and exporters."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("suite", sorted(HERE.glob("*.test.mjs")), ids=lambda path: path.name)
def test_the_pages_modules_keep_their_promises_under_node(suite: Path) -> None:
    node = shutil.which("node")
    if node is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no node: install nodejs 18 or newer")
        pytest.skip("no node: install nodejs 18 or newer")
    result = subprocess.run(
        [node, "--test", str(suite)], capture_output=True, text=True, timeout=50, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "# fail 0" in result.stdout
    assert "# pass 0" not in result.stdout
