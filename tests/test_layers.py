"""The import contracts of pyproject.toml hold: the layout is what the architecture says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_import_contracts_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    outcome = subprocess.run(
        [linter, "--no-cache"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def test_only_one_module_imports_nvidias_client() -> None:
    importing = {
        str(path.relative_to(ROOT / "src/perch"))
        for path in (ROOT / "src").rglob("*.py")
        if any(name == "riva" or name.startswith("riva.") for name in imports_of(path))
    }
    assert importing == {"riva/proto.py"}


def test_packages_are_empty_so_importing_a_part_costs_only_that_part() -> None:
    for path in (ROOT / "src/perch").glob("*/__init__.py"):
        assert path.read_text(encoding="utf-8").strip() == "", path
