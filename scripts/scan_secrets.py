"""Looks for credentials in the files that git knows: python scripts/scan_secrets.py [FOLDER]

Prints file, line and rule of each, never the credential, and ends with 1 if there is any. What only looks like
one is listed in .secrets.allowed by its hash, so that the list gives nothing away.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from detect_secrets.core.scan import scan_line
from detect_secrets.settings import transient_settings

ALLOWED = ".secrets.allowed"
RULES = {
    "NGC key": r"nvapi-[A-Za-z0-9_-]{20,}",
    "RunPod key": r"rpa_[A-Z0-9]{30,}",
    "AWS key id": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "Perch key": r"\bpk_[A-Za-z0-9_-]{30,}",
    "OpenAI key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "JWT": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
_RULES = {name: re.compile(rule) for name, rule in RULES.items()}
_DETECTORS = [
    {"name": name}
    for name in (
        "AWSKeyDetector",
        "PrivateKeyDetector",
        "SlackDetector",
        "StripeDetector",
        "JwtTokenDetector",
    )
]
_SKIPPED = (".lock", ".svg", ".png", ".wav", ".ico", ".webm")
_LARGEST = 2 << 20


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, rule and credential of everything in ``text`` that looks like one."""
    for number, line in enumerate(text.splitlines(), 1):
        for name, rule in _RULES.items():
            for match in rule.finditer(line):
                yield number, name, match[0]
        if len(line) < 2000:
            for secret in scan_line(line):
                yield number, secret.type, secret.secret_value or ""


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def main(folder: Path) -> int:
    listed = folder / ALLOWED
    allowed = set(listed.read_text(encoding="utf-8").split()) if listed.exists() else set()
    names = subprocess.run(  # noqa: S603 - no text of anybody's is in it
        ["git", "-C", str(folder), "ls-files", "-z"],  # noqa: S607 - whatever git the user has
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    problems = 0
    with transient_settings({"plugins_used": _DETECTORS}):
        for name in filter(None, names):
            path = folder / name
            if name.endswith(_SKIPPED) or not path.is_file() or path.stat().st_size > _LARGEST:
                continue
            for number, rule, secret in found_in(path.read_text(encoding="utf-8", errors="replace")):
                if digest(secret) not in allowed:
                    problems += 1
                    print(f"{name}:{number}: {rule} (if it is none, add {digest(secret)} to {ALLOWED})")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
