"""The weights that are here: a folder that can be mounted, copied and read by hand.

::

    {folder}/{model id}/{backend}/           the files, and perch.json
    {folder}/{model id}/{backend}.pulling/   what a pull has so far; the next one goes on from there
    {folder}/.locks/                         one per model and backend: who pulls or removes it now

Nothing is written by looking, so a container may mount it read-only.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from perch.registry import manifest as manifests
from perch.registry.catalogue import Entry
from perch.registry.lock import Lock
from perch.registry.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Held:
    """Weights that are here, as their ``perch.json`` tells of them."""

    id: str
    backend: str
    folder: Path
    manifest: Manifest

    @property
    def path(self) -> Path:
        """What the backend's loader is given: the folder, or the .nemo file in it."""
        if self.backend == "nemo":
            return next(
                (self.folder / name for name in self.manifest.files if name.endswith(".nemo")), self.folder
            )
        return self.folder

    @property
    def bytes(self) -> int:
        return self.manifest.bytes


def default_folder(environment: Mapping[str, str]) -> Path:
    """``$PERCH_MODELS_DIR``, else perch/models in the user's cache."""
    if own := environment.get("PERCH_MODELS_DIR"):
        return Path(own).expanduser()
    caches = environment.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "perch" / "models"


def holds_files(folder: Path) -> bool:
    """Whether there is anything in it: a pull that never got a connection leaves empty folders."""
    return any(path.is_file() for path in folder.rglob("*"))


@dataclass(frozen=True, slots=True)
class ModelCache:
    """The weights in one folder, which need not exist yet."""

    folder: Path

    def place(self, model_id: str, backend: str) -> Path:
        """Where the weights lie, or would."""
        return self.folder / model_id / backend

    def workplace(self, model_id: str, backend: str) -> Path:
        """Where they lie while they are being pulled."""
        return self.folder / model_id / f"{backend}.pulling"

    def lock(self, model_id: str, backend: str) -> Lock:
        """Held by whoever changes the two."""
        return Lock(self.folder / ".locks" / f"{model_id}.{backend}")

    def get(self, model_id: str, backend: str) -> Held | None:
        """Weights that are whole: every file is there in its size."""
        folder = self.place(model_id, backend)
        manifest = manifests.read(folder)
        return None if manifest is None else Held(model_id, backend, folder, manifest)

    def record(self, model_id: str, backend: str) -> Held | None:
        """Weights that were whole once, also if files are not (any more) as their ``perch.json`` says."""
        folder = self.place(model_id, backend)
        manifest = manifests.written(folder)
        return None if manifest is None else Held(model_id, backend, folder, manifest)

    def records(self, model_id: str | None = None) -> list[Held]:
        """All of them, or all of one model."""
        names = ((folder.parent.name, folder.name) for folder in self._folders())
        found = (self.record(model, backend) for model, backend in names if model_id in {None, model})
        return [held for held in found if held is not None]

    def find(self, entry: Entry, backend: str | None = None) -> list[Held]:
        """What is here of a model, in the catalogue's order: best first."""
        backends = dict.fromkeys(weights.backend for weights in entry.weights)
        found = (self.get(entry.id, name) for name in backends if backend in {None, name})
        return [held for held in found if held is not None]

    def list(self) -> list[Held]:
        """Everything that is here, also of models that the catalogue does not know (any more)."""
        found = (self.get(folder.parent.name, folder.name) for folder in self._folders())
        return [held for held in found if held is not None]

    def _folders(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        for model in sorted(self.folder.iterdir()):
            if model.is_dir() and not model.name.startswith("."):
                yield from sorted(folder for folder in model.iterdir() if folder.is_dir())

    def there(self, model_id: str, backend: str | None = None) -> tuple[str, ...]:
        """The backends for which anything of a model is here, also by half."""
        mine = (folder for folder in self._folders() if folder.parent.name == model_id)
        folders = (folder for folder in mine if holds_files(folder))
        backends = dict.fromkeys(folder.name.removesuffix(".pulling") for folder in folders)
        return tuple(name for name in backends if backend in {None, name})

    def remove(self, model_id: str, backend: str) -> bool:
        """Remove the weights, also if they are there by half; whether there was anything.

        Raises:
            ModelUnavailable: Somebody is pulling them at this moment.
            OSError: They cannot be removed.
        """
        folders = (self.place(model_id, backend), self.workplace(model_id, backend))
        there = [folder for folder in folders if folder.is_dir()]
        if not there:
            return False
        with self.lock(model_id, backend).taken_now():
            for folder in there:
                (folder / manifests.NAME).unlink(missing_ok=True)  # first: by half it must not pass for whole
                shutil.rmtree(folder)
        parent = self.folder / model_id
        if not any(parent.iterdir()):
            parent.rmdir()
        return True

    def verify(self, held: Held) -> Mapping[str, str]:
        """The files that are not what was pulled → in words, how they differ. Reads all of them.

        Raises:
            OSError: One cannot be read.
        """
        return manifests.differences(held.folder, held.manifest)
