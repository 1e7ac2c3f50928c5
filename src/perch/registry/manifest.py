"""``perch.json``: what lies in one folder of weights, and where it came from.

It is written last, so a folder that has one which is true is whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NAME = "perch.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as it was when it was pulled."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything known of one model's weights for one backend."""

    id: str
    backend: str
    source: str
    """The repository, or the address of the archive."""
    revision: str
    """The commit of the repository; empty for an archive and for files that were put there by hand."""
    files: Mapping[str, FileFacts]
    """Path in the folder → facts."""
    pulled: str
    """When, in ISO 8601."""

    @property
    def bytes(self) -> int:
        return sum(facts.size for facts in self.files.values())

    def write(self, folder: Path) -> None:
        """Into ``folder``, on the disk before this returns."""
        with (folder / NAME).open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def read(folder: Path) -> Manifest | None:
    """The manifest of a folder that is whole: every file is there in its size. None if anything is amiss."""
    try:
        manifest = _parse(json.loads((folder / NAME).read_text(encoding="utf-8")))
        whole = all((folder / name).stat().st_size == facts.size for name, facts in manifest.files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if whole and manifest.files else None


def _parse(value: Any) -> Manifest:
    texts = {key: str(value[key]) for key in ("id", "backend", "source", "revision", "pulled")}
    files = {
        name: FileFacts(int(facts["size"]), str(facts["sha256"])) for name, facts in value["files"].items()
    }
    return Manifest(files=files, **texts)


def sha256_of(path: Path) -> str:
    """Of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
