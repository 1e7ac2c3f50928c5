"""The engines' folders as modules: what is in an image's folder is no package, and is loaded by its path."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ENGINES = Path(__file__).parents[3] / "deploy/engines"
BATCH = ENGINES / "transcribe/parakeet"
REALTIME = ENGINES / "realtime/parakeet-streaming"


def module(folder: Path) -> ModuleType:
    """``engine.py`` of a folder."""
    name = f"engine_of_{folder.name.replace('-', '_')}"
    spec = spec_from_file_location(name, folder / "engine.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def described(folder: Path) -> dict[str, Any]:
    """``engine.yaml`` of a folder."""
    return dict(yaml.safe_load((folder / "engine.yaml").read_text(encoding="utf-8")))
