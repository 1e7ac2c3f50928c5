"""003-146: the gate finds a planted credential, and none in this repository."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def scan(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/scan_secrets.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_this_repository_holds_no_credential() -> None:
    done = scan(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "planted",
    [
        "nvapi-" + "Ab3" * 12,
        "rpa_" + "A1B2" * 10,
        "AKIA" + "ABCD1234" * 2,
        "pk_" + "aB3" * 12,
        "sk-" + "aB3" * 10,
        "hf_" + "aB3d" * 9,
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ],
    ids=lambda text: str(text)[:6],
)
def test_a_planted_credential_fails_the_gate_and_is_not_printed(planted: str, tmp_path: Path) -> None:
    (tmp_path / "settings.env").write_text(f"# settings\nRIVA_API_KEY={planted}\n", encoding="utf-8")
    for arguments in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, timeout=20)
    done = scan(tmp_path)
    assert done.returncode == 1
    assert "settings.env:2" in done.stdout
    assert planted not in done.stdout
