"""``perch.json``: what lies in one folder of weights, and where it came from.

It is written last, so a folder that has one which is true is whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
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
    manifest = written(folder)
    try:
        return None if manifest is None or misfits(folder, manifest) else manifest
    except OSError:
        return None


def written(folder: Path) -> Manifest | None:
    """The manifest in a folder, whether or not its files are as it says; None if there is none to be read."""
    try:
        manifest = _parse(json.loads((folder / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if manifest.files else None


def misfits(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files that are not there in their size → in words, how they differ; none of them is read.

    Raises:
        OSError: The folder cannot be looked into.
    """
    found = ((name, _misfit(folder / name, facts)) for name, facts in manifest.files.items())
    return {name: how for name, how in found if how}


def differences(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files that are not as the manifest says → in words, how they differ.

    Raises:
        OSError: A file cannot be read.
    """
    found = ((name, _difference(folder / name, facts)) for name, facts in manifest.files.items())
    return {name: how for name, how in found if how}


def _misfit(path: Path, facts: FileFacts) -> str:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    return "" if size == facts.size else f"{size} bytes instead of {facts.size}"


def _difference(path: Path, facts: FileFacts) -> str:
    if misfit := _misfit(path, facts):
        return misfit
    return "" if sha256_of(path) == facts.sha256 else "other content of the same size"


def _parse(value: Any) -> Manifest:
    texts = {key: str(value[key]) for key in ("id", "backend", "source", "revision", "pulled")}
    files = {
        _inside(name): FileFacts(int(facts["size"]), str(facts["sha256"]))
        for name, facts in value["files"].items()
    }
    return Manifest(files=files, **texts)


def _inside(name: str) -> str:
    """``name``, which must not lead out of its folder: a manifest may come from anywhere, and a pull deletes."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(name)
    return name


def sha256_of(path: Path) -> str:
    """Of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
