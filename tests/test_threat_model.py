"""The threat model names measures that exist: every file it leads to is there, and every test has tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINKS = re.findall(r"\]\(([^)#]+)\)", (ROOT / "THREAT_MODEL.md").read_text(encoding="utf-8"))


def test_everything_it_names_exists() -> None:
    assert LINKS
    assert [link for link in LINKS if not (ROOT / link).exists()] == []


def test_each_measure_has_a_test_with_tests_in_it() -> None:
    tests = [ROOT / link for link in LINKS if link.startswith("tests/")]
    assert len(tests) > 10
    for path in tests:
        files = [path] if path.is_file() else list(path.glob("test_*.py"))
        assert any("def test_" in file.read_text(encoding="utf-8") for file in files), path
