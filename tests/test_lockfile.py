"""The lock file sends nobody to a private registry."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PUBLIC = {"pypi.org", "files.pythonhosted.org"}


def test_the_lock_names_only_public_registries() -> None:
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text(encoding="utf-8")))
    assert hosts <= PUBLIC


def test_no_committed_text_names_a_machine_path_of_its_makers() -> None:
    suspicious = re.compile(r"/(?:work|root|home/\w+)/(?:main|shared|\.)")
    for folder in ("src", "docs", "tests", "static", "bench", "load", "scripts", "examples", "runbooks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {
                ".py",
                ".md",
                ".js",
                ".mjs",
                ".html",
                ".json",
                ".yml",
                ".toml",
            } and path != Path(__file__):
                assert not suspicious.search(path.read_text(encoding="utf-8")), path
