"""Weights that are here and cannot be used as they are: what is wrong, and which command mends it.

Only names and sizes are looked at: gigabytes are not read to start an engine. ``ModelCache.verify`` reads them.
"""

import fnmatch
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from perch.core.command import command
from perch.registry import manifest as manifests
from perch.registry.cache import ModelCache, default_folder, holds_files
from perch.registry.catalogue import Entry, Weights

_ESSENTIAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sherpa-onnx": ("*.onnx", "tokens.txt"),
        "transformers": ("config.json", "*.safetensors"),
        "nemo": ("*.nemo",),
    }
)
"""Without which a folder is no model for that backend."""


State = Literal["damaged", "unreadable", "unchecked", "half pulled"]


@dataclass(frozen=True, slots=True)
class Amiss:
    """One form of a model's weights that is not whole, or not known to be."""

    id: str
    weights: Weights
    state: State
    text: str
    """What is wrong and what to do about it, in whole sentences."""

    @property
    def backend(self) -> str:
        return self.weights.backend


def find(cache: ModelCache, entry: Entry, backend: str | None = None) -> list[Amiss]:
    """What is amiss of a model, or of its weights for one backend, in the catalogue's order."""
    found = (_of(cache, entry, weights) for weights in entry.weights if backend in {None, weights.backend})
    return [one for one in found if one is not None]


def pull_command(cache: ModelCache, entry: Entry, weights: Weights) -> str:
    """What gets exactly these weights into ``cache``, on whatever machine."""
    return command(f"models pull {entry.id} --backend {weights.backend}{elsewhere(cache)}")


def elsewhere(cache: ModelCache) -> str:
    """The option without which a command would look into another folder; nothing if it would not."""
    usual = cache.folder == default_folder(os.environ)
    return "" if usual else f" --models-dir {shlex.quote(str(cache.folder))}"


def unmatched(weights: Weights, names: list[str]) -> list[str]:
    """The files, or patterns of files, that ``weights`` need and that are not among ``names``."""
    exact = tuple(pattern for pattern in weights.files if "*" not in pattern)
    needed = exact or _ESSENTIAL[weights.backend]
    return [pattern for pattern in needed if not fnmatch.filter(names, pattern)]


def missing_files(cache: ModelCache, entry: Entry, weights: Weights) -> list[str]:
    """Those that are not where the weights belong."""
    return unmatched(weights, _names(cache.place(entry.id, weights.backend)))


def _of(cache: ModelCache, entry: Entry, weights: Weights) -> Amiss | None:
    try:
        state, what = _found(cache, entry, weights)
    except OSError as error:
        state, what = "unreadable", f"cannot be read ({error.filename}: {error.strerror})."
    if not what:
        return None
    return Amiss(entry.id, weights, state, f"The weights of {entry.id} for {weights.backend} {what}")


def _found(cache: ModelCache, entry: Entry, weights: Weights) -> tuple[State, str]:
    """What is wrong, and the rest of a sentence about it; nothing if all is well or nothing is here."""
    place, pull = cache.place(entry.id, weights.backend), pull_command(cache, entry, weights)
    record = cache.record(entry.id, weights.backend)
    if record is not None:
        wrong = manifests.misfits(place, record.manifest)
        told = ", ".join(f"{name} ({how})" for name, how in wrong.items())
        mend = f"are not whole: {told}. `{pull}` fetches anew what differs."
        return "damaged", mend if wrong else ""
    if names := _names(place):
        missing = ", ".join(unmatched(weights, names))
        if missing:
            return (
                "unchecked",
                f"were put there by hand, without {missing}. `{pull}` fetches what is missing.",
            )
        return "unchecked", f"were put there by hand. `{pull} --offline` checks and takes them."
    if holds_files(cache.workplace(entry.id, weights.backend)):
        return "half pulled", f"are here by half. `{pull}` goes on with the pull."
    return "half pulled", ""


def _names(place: Path) -> list[str]:
    """The files of a folder, which need not be there."""
    return [path.name for path in place.iterdir() if path.is_file()] if place.is_dir() else []
