"""From a model's name to the weights to load: those that are here, and that this machine can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perch.errors import BadConfig
from perch.registry.cache import Held, ModelCache
from perch.registry.catalogue import CATALOGUE, Entry
from perch.registry.machine import is_installed, lacking


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights to load."""

    entry: Entry
    backend: str
    path: Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What counts for a choice."""

    cuda: bool
    """Whether there is a GPU."""
    allow_cpu: bool = False
    """Whether the CPU may be used for weights that are meant for a GPU."""
    is_installed: Callable[[str], bool] = is_installed


def named(entry: Entry, cache: ModelCache, machine: Machine, *, backend: str | None = None) -> Choice:
    """The weights of ``entry`` to load.

    Raises:
        BadConfig: None are here, or none that are can be run; the message says what to do.
    """
    held = cache.find(entry, backend)
    if not held:
        flag = f" --backend {backend}" if backend else ""
        raise BadConfig(
            f"The weights of {entry.id} are not in {cache.folder}. Get them with: perch models pull {entry.id}{flag}"
        )
    usable = _usable(entry, held, machine)
    if not usable:
        raise BadConfig(" ".join(_obstacle(one, machine) for one in held))
    return Choice(entry, usable[0].backend, usable[0].path)


def candidates(cache: ModelCache, machine: Machine) -> list[Choice]:
    """All models whose weights are here and can be run, the best first."""
    return [
        Choice(entry, one.backend, one.path)
        for entry in CATALOGUE
        for one in _usable(entry, cache.find(entry), machine)
    ]


def passed_over(cache: ModelCache, machine: Machine) -> str:
    """Why weights that are here cannot be run; nothing if there are none such."""
    held = [(one, _usable(entry, [one], machine)) for entry in CATALOGUE for one in cache.find(entry)]
    return " ".join(_obstacle(one, machine) for one, usable in held if not usable)


def _usable(entry: Entry, held: Sequence[Held], machine: Machine) -> list[Held]:
    """Those that can be run, those meant for what this machine has first."""
    meant: dict[str, str] = {weights.backend: weights.device for weights in entry.weights}
    ours = "cuda" if machine.cuda else "cpu"
    runs = [
        one
        for one in held
        if machine.is_installed(one.backend)
        and (machine.cuda or machine.allow_cpu or meant[one.backend] == "cpu")
    ]
    return sorted(runs, key=lambda one: meant[one.backend] != ours)


def _obstacle(held: Held, machine: Machine) -> str:
    if not machine.is_installed(held.backend):
        return f"The weights of {held.id} for {held.backend} are here, but {lacking(held.backend)}."
    return (
        f"The weights of {held.id} for {held.backend} are meant for a GPU, and there is none. "
        "Give --allow-cpu or set ALLOW_CPU=1 to try them on the CPU, which is too slow for production."
    )
